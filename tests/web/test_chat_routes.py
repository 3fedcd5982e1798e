"""The chat's requests: what they store, what they refuse, and the files that they write."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hanlin.serve.auth import AccessPolicy
from hanlin.web.models import find_models
from web_client import make_client

CHAT = "/ui/chat"
MESSAGES = "conversations/" + "0" * 32 + "/messages"


@pytest.fixture()
def client(tmp_path: Path) -> TestClient:
    return make_client(tmp_path)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A client whose requests are all refused, so that tests may share it."""
    return make_client(tmp_path_factory.mktemp("page"))


def begin(client: TestClient, headers: dict[str, str] | None = None, **new: Any) -> str:
    conversation = uuid.uuid4().hex
    path = f"{CHAT}/conversations/{conversation}/messages"
    assert client.post(path, json={"new": new}, headers=headers).status_code == 200
    return conversation


def say(client: TestClient, conversation: str, **message: Any) -> dict[str, Any]:
    answer = client.post(f"{CHAT}/conversations/{conversation}/messages", json={"messages": [message]})
    assert answer.status_code == 200, answer.text
    (stored,) = answer.json()["messages"]
    return dict(stored)


def test_a_conversation_survives_a_new_server(tmp_path: Path) -> None:
    first = make_client(tmp_path)
    conversation = begin(first, title="标题", settings={"system": "s"})
    asked = say(first, conversation, role="user", content="你好")
    say(first, conversation, role="assistant", content="你好！", parent=asked["id"], model="tiny")
    second = make_client(tmp_path)
    assert second.get(f"{CHAT}/conversations").json()["conversations"][0]["title"] == "标题"
    read = second.get(f"{CHAT}/conversations/{conversation}").json()
    assert [message["content"] for message in read["messages"]] == ["你好", "你好！"]
    assert read["settings"] == {"system": "s"}


def test_reading_the_page_writes_no_file(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    assert client.get(CHAT).status_code == 200
    assert client.get(f"{CHAT}/models").json() == {"ready": [], "loading": [], "found": []}
    assert list(tmp_path.iterdir()) == []


def test_an_answer_grows_and_is_kept_as_far_as_it_came(client: TestClient) -> None:
    conversation = begin(client)
    answer = say(client, conversation, role="assistant", content="", state="writing")
    path = f"{CHAT}/messages/{answer['id']}"
    client.patch(path, json={"content": "half"})
    read = client.get(f"{CHAT}/conversations/{conversation}").json()["messages"][0]
    assert (read["content"], read["state"]) == ("half", "writing")
    client.patch(path, json={"content": "whole", "state": "done", "stats": {"completion_tokens": 2}})
    read = client.get(f"{CHAT}/conversations/{conversation}").json()["messages"][0]
    assert (read["content"], read["state"], read["stats"]) == ("whole", "done", {"completion_tokens": 2})


def test_a_better_answer_is_in_the_file_of_pairs_that_is_named_and_leaves_it_again(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    conversation = begin(client)
    asked = say(client, conversation, role="user", content="q")
    answer = say(client, conversation, role="assistant", content="bad", parent=asked["id"])
    changed = client.patch(f"{CHAT}/messages/{answer['id']}", json={"better": "good"}).json()
    assert changed["preferences"] == {"file": "ui/preferences.jsonl", "rows": 1, "left_out": []}
    (line,) = (tmp_path / "ui" / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("good", "bad")
    changed = client.patch(f"{CHAT}/messages/{answer['id']}", json={"better": ""}).json()
    assert (changed["message"]["better"], changed["preferences"]["rows"]) == (None, 0)
    assert (tmp_path / "ui" / "preferences.jsonl").read_text(encoding="utf-8") == ""


def test_a_deleted_conversation_leaves_the_file_of_pairs(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    conversation = begin(client)
    answer = say(
        client,
        conversation,
        role="assistant",
        content="bad",
        parent=say(client, conversation, role="user", content="q")["id"],
    )
    client.patch(f"{CHAT}/messages/{answer['id']}", json={"better": "good"})
    assert client.delete(f"{CHAT}/conversations/{conversation}").status_code == 204
    assert (tmp_path / "ui" / "preferences.jsonl").read_text(encoding="utf-8") == ""


def test_training_data_is_written_and_can_be_saved_by_the_browser(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    conversation = begin(client)
    say(
        client,
        conversation,
        role="assistant",
        content="a",
        parent=say(client, conversation, role="user", content="q")["id"],
    )
    begin(client, title="empty")
    written = client.post(f"{CHAT}/training_data").json()
    assert written["conversations"] == {
        "file": "ui/conversations.jsonl",
        "rows": 1,
        "left_out": ["left out: 1 without an answer that ended by itself"],
    }
    text = (tmp_path / "ui" / "conversations.jsonl").read_text(encoding="utf-8")
    saved = client.get(f"{CHAT}/conversations.jsonl")
    assert (saved.text, saved.headers["content-disposition"]) == (text, 'attachment; filename="conversations.jsonl"')
    assert client.get(f"{CHAT}/conversations.jsonl?conversation={conversation}").text == text
    assert client.get(f"{CHAT}/other.jsonl").status_code == 404
    empty = client.get(f"{CHAT}/preferences.jsonl?conversation={conversation}")
    assert (empty.status_code, empty.json()["error"]["message"]) == (409, "there is nothing to export")


def test_a_question_and_its_answers_begin_a_conversation_in_one_request_or_not_at_all(client: TestClient) -> None:
    conversation, asked, *answers = (uuid.uuid4().hex for _ in range(4))
    path = f"{CHAT}/conversations/{conversation}/messages"
    messages = [{"id": asked, "role": "user", "content": "q"}]
    messages += [{"id": answer, "parent": asked, "role": "assistant", "state": "writing"} for answer in answers]
    nowhere = [{**messages[0], "parent": uuid.uuid4().hex}]
    assert client.post(path, json={"new": {"title": "q"}, "messages": nowhere}).status_code == 404
    assert client.get(f"{CHAT}/conversations").json()["conversations"] == []
    body = {"new": {"title": "q"}, "messages": messages, "leaf": answers[0]}
    assert [row["id"] for row in client.post(path, json=body).json()["messages"]] == [asked, *answers]
    read = client.get(f"{CHAT}/conversations/{conversation}").json()
    assert (read["title"], read["leaf"], len(read["messages"])) == ("q", answers[0], 3)
    again = client.post(path, json=body)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "exists")


def test_a_conversation_is_saved_as_markdown_with_what_was_thought_and_called(client: TestClient) -> None:
    conversation = begin(client, title="天气\n# x")
    asked = say(client, conversation, role="user", content="天气？")["id"]
    call = {"id": "c", "function": {"name": "get", "arguments": '{"at": "```"}'}}
    fields = {"reasoning": "想\n想", "tool_calls": [call], "model": "tuned", "request": {"system": "简短。"}}
    asked = say(client, conversation, role="assistant", parent=asked, **fields)["id"]
    asked = say(client, conversation, role="tool", parent=asked, content="晴", name="get")["id"]
    answer = say(client, conversation, role="assistant", parent=asked, content="雨。", model="tuned")["id"]
    client.patch(f"{CHAT}/messages/{answer}", json={"better": "晴天。"})
    saved = client.get(f"{CHAT}/conversations/{conversation}.md")
    assert saved.headers["content-type"] == "text/markdown; charset=utf-8"
    assert saved.text.split("\n\n") == [
        *("# 天气 # x", "## System text", "简短。", "## You", "天气？", "## tuned", "> 想\n> 想", "calls `get`"),
        '````json\n{"at": "```"}\n````',
        *("## Result of `get`", "```\n晴\n```", "## tuned", "晴天。\n"),
    ]


def test_each_key_has_conversations_and_files_of_its_own(tmp_path: Path) -> None:
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("first", "second")))
    first, second = ({"authorization": f"Bearer {key}"} for key in ("first", "second"))
    conversation = begin(client, first)
    assert client.get(f"{CHAT}/conversations/{conversation}", headers=first).status_code == 200
    assert client.get(f"{CHAT}/conversations/{conversation}", headers=second).status_code == 404
    assert client.get(f"{CHAT}/conversations", headers=second).json()["conversations"] == []
    files = {client.post(f"{CHAT}/training_data", headers=key).json()["preferences"]["file"] for key in (first, second)}
    assert len(files) == 2 and not any("first" in file for file in files)
    assert b"first" not in (tmp_path / "ui" / "chats.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", MESSAGES, b"{", 400),
        ("POST", MESSAGES, b"[]", 400),
        ("POST", MESSAGES, b'{"new": {"title": 3}}', 400),
        ("POST", MESSAGES, b'{"new": {"title": "\\ud800"}}', 400),
        ("POST", MESSAGES, json.dumps({"new": {"title": "x" * 201}}).encode(), 400),
        ("POST", MESSAGES, json.dumps({"new": {"settings": {"a": "x" * (1 << 20)}}}).encode(), 400),
        ("POST", MESSAGES, b'{"new": {"title": "' + b"x" * (9 << 20) + b'"}}', 413),
        ("POST", MESSAGES, b"[" * 200_000, 413),
        ("POST", MESSAGES, b'{"messages": [{"role": "user", "id": "short"}]}', 400),
        ("POST", "conversations/my-own/messages", b'{"new": {}}', 400),
        ("PATCH", "conversations/" + "0" * 32, b'{"title": "x"}', 404),
        ("PATCH", "conversations/" + "0" * 32, b'{"leaf": "\' OR 1=1 --"}', 400),
        ("POST", MESSAGES, b'{"messages": [{"role": "user"}]}', 404),
        ("POST", MESSAGES, b'{"messages": [{"role": "root"}]}', 400),
        ("PATCH", "messages/" + "0" * 32, b'{"rating": 1}', 404),
        ("PATCH", "messages/" + "0" * 32, b'{"rating": 5}', 400),
        ("PATCH", "messages/" + "0" * 32, b'{"state": "boiled"}', 400),
        ("PUT", "presets", b'{"name": "", "sampling": {}}', 400),
        ("DELETE", "conversations/..%2f..%2fetc", b"", 404),
    ],
)
def test_a_wrong_request_is_refused_in_a_sentence(
    refusing: TestClient, method: str, path: str, body: bytes, status: int
) -> None:
    answer = refusing.request(method, f"{CHAT}/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    if status != 404 or "detail" not in answer.text:
        assert answer.json()["error"]["message"]


def test_a_body_of_another_type_is_refused(refusing: TestClient) -> None:
    assert refusing.post(f"{CHAT}/{MESSAGES}", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("method", ["post", "patch", "put", "delete"])
def test_nothing_changes_without_the_token_of_the_page(client: TestClient, method: str) -> None:
    conversation = begin(client, title="kept")
    del client.headers["x-hanlin-page"]
    for path in ("conversations", f"conversations/{conversation}", "presets", "models", "training_data"):
        assert client.request(method, f"{CHAT}/{path}").status_code in (403, 405)
    assert client.get(f"{CHAT}/conversations").json()["conversations"][0]["title"] == "kept"


class Loader:
    """Notes what it is asked to load."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.asked: list[str] = []

    def load(self, spec: str) -> None:
        self.asked.append(spec)


def test_a_model_is_loaded_only_with_the_token_of_the_terminal_and_from_the_folder(tmp_path: Path) -> None:
    folder, loader = tmp_path / "folder", Loader()
    (folder / "model").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    asked = {"path": "model"}
    without = make_client(folder, with_start_token=False, loader=loader)
    assert without.post(f"{CHAT}/models", json=asked).json()["error"]["code"] == "start_token"
    client = make_client(folder, loader=loader)
    for path in ("../outside", str(tmp_path / "outside"), "nothing", "a=model", ""):
        answer = client.post(f"{CHAT}/models", json={"path": path})
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (400, True)
    assert loader.asked == []
    assert client.post(f"{CHAT}/models", json=asked).status_code == 200
    assert loader.asked == [str(folder.resolve() / "model")]


def test_models_are_found_below_the_folder_and_through_no_link(tmp_path: Path) -> None:
    for name in ("artifacts/tuned/config.json", "artifacts/tuned/model.safetensors", "tokenizer/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    for name in ("gguf/a-Q4.gguf", "gguf/b-00001-of-00002.gguf", ".hidden/c.gguf", "gguf/x.imatrix.gguf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "gguf")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_models(tmp_path) == ["gguf/a-Q4.gguf", "artifacts/tuned"]
