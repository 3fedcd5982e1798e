"""The chat's requests: what they store, what they refuse, and the files that they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hanlin.serve.auth import AccessPolicy
from hanlin.web.chat.models import find_models
from web_client import make_client

CHAT = "/ui/chat"


@pytest.fixture()
def client(tmp_path: Path) -> TestClient:
    return make_client(tmp_path)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A client whose requests are all refused, so that tests may share it."""
    return make_client(tmp_path_factory.mktemp("page"))


def begin(client: TestClient, **body: Any) -> str:
    return str(client.post(f"{CHAT}/conversations", json=body).json()["id"])


def say(client: TestClient, conversation: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"{CHAT}/conversations/{conversation}/messages", json=body)
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


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


def test_each_key_has_conversations_and_files_of_its_own(tmp_path: Path) -> None:
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("first", "second")))
    first, second = ({"authorization": f"Bearer {key}"} for key in ("first", "second"))
    conversation = client.post(f"{CHAT}/conversations", json={}, headers=first).json()["id"]
    assert client.get(f"{CHAT}/conversations/{conversation}", headers=first).status_code == 200
    assert client.get(f"{CHAT}/conversations/{conversation}", headers=second).status_code == 404
    assert client.get(f"{CHAT}/conversations", headers=second).json()["conversations"] == []
    files = {client.post(f"{CHAT}/training_data", headers=key).json()["preferences"]["file"] for key in (first, second)}
    assert len(files) == 2 and not any("first" in file for file in files)
    assert b"first" not in (tmp_path / "ui" / "chats.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "conversations", b"{", 400),
        ("POST", "conversations", b"[]", 400),
        ("POST", "conversations", b'{"title": 3}', 400),
        ("POST", "conversations", b'{"title": "\\ud800"}', 400),
        ("POST", "conversations", json.dumps({"title": "x" * 201}).encode(), 400),
        ("POST", "conversations", json.dumps({"settings": {"a": "x" * (1 << 20)}}).encode(), 400),
        ("POST", "conversations", b'{"title": "' + b"x" * (9 << 20) + b'"}', 413),
        ("POST", "conversations", b"[" * 200_000, 413),
        ("PATCH", "conversations/" + "0" * 32, b'{"title": "x"}', 404),
        ("PATCH", "conversations/" + "0" * 32, b'{"leaf": "\' OR 1=1 --"}', 400),
        ("POST", "conversations/" + "0" * 32 + "/messages", b'{"role": "user"}', 404),
        ("POST", "conversations/" + "0" * 32 + "/messages", b'{"role": "root"}', 400),
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
    assert (
        refusing.post(f"{CHAT}/conversations", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    )


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
