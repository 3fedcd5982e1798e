"""Conversations on disk: branches, owners, what survives, and files that are none."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.serve.errors import ApiError
from hanlin.web.chat.store import VERSION, ChatStore, find_path


@pytest.fixture()
def store(tmp_path: Path) -> ChatStore:
    return ChatStore(tmp_path / "chats.sqlite")


def add(store: ChatStore, conversation: str, parent: str | None, content: str, role: str = "user") -> str:
    return str(store.add_message("", conversation, parent, role=role, content=content)["id"])


def test_a_conversation_is_read_back_as_it_was_written(store: ChatStore) -> None:
    settings = {"system": "你是小翰。", "sampling": {"temperature": 0.5}, "tools": [{"function": {"name": "f"}}]}
    conversation = store.create_conversation("", "标题", settings)
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    fields: dict[str, Any] = {"role": "assistant", "content": "龘😀\n", "reasoning": "想", "tool_calls": calls}
    fields |= {"model": "m", "state": "cut", "request": {"system": "s"}, "stats": {"first_seconds": 0.1}}
    added = store.add_message("", conversation, None, **fields)
    read = store.read_conversation("", conversation)
    assert (read["title"], read["settings"], read["leaf"]) == ("标题", settings, added["id"])
    assert read["messages"] == [added]
    assert {name: added[name] for name in fields} == fields


def test_an_edited_question_and_a_second_answer_are_branches(store: ChatStore) -> None:
    conversation = store.create_conversation("", "", {})
    first = add(store, conversation, None, "question")
    answer = add(store, conversation, first, "answer", "assistant")
    other = add(store, conversation, first, "another answer", "assistant")
    edited = add(store, conversation, None, "edited question")
    read = store.read_conversation("", conversation)
    paths = {leaf: [message["content"] for message in find_path(read["messages"], leaf)] for leaf in (answer, other)}
    assert paths == {answer: ["question", "answer"], other: ["question", "another answer"]}
    assert read["leaf"] == edited
    store.update_conversation("", conversation, leaf=answer)
    assert store.read_conversation("", conversation)["leaf"] == answer


def test_an_owner_sees_and_changes_nothing_of_another(store: ChatStore) -> None:
    conversation = store.create_conversation("a", "secret", {})
    message = store.add_message("a", conversation, None, role="user", content="secret")["id"]
    assert store.list_conversations("b") == []
    assert store.list_conversations("b", "secret") == []
    for attempt in (
        lambda: store.read_conversation("b", conversation),
        lambda: store.update_conversation("b", conversation, title="x"),
        lambda: store.delete_conversation("b", conversation),
        lambda: store.add_message("b", conversation, None, role="user", content="x"),
        lambda: store.update_message("b", message, content="x"),
    ):
        with pytest.raises(ApiError) as refused:
            attempt()
        assert refused.value.status == 404
    assert store.read_conversation("a", conversation)["messages"][0]["content"] == "secret"


def test_a_message_of_another_conversation_is_no_parent_and_no_leaf(store: ChatStore) -> None:
    one, other = (store.create_conversation("", "", {}) for _ in range(2))
    message = add(store, one, None, "x")
    with pytest.raises(ApiError):
        store.add_message("", other, message, role="user", content="y")
    with pytest.raises(ApiError):
        store.update_conversation("", other, leaf=message)
    assert store.read_conversation("", other)["messages"] == []


def test_a_search_finds_texts_and_takes_no_character_as_a_pattern(store: ChatStore) -> None:
    for title, text in (("one", "100%"), ("two", "1000"), ("three_x", "龘"), ("back\\slash", "")):
        add(store, store.create_conversation("", title, {}), None, text)
    found = {
        text: {row["title"] for row in store.list_conversations("", text)} for text in ("100%", "e_", "龘", "k\\s")
    }
    assert found == {"100%": {"one"}, "e_": {"three_x"}, "龘": {"three_x"}, "k\\s": {"back\\slash"}}
    assert len(store.list_conversations("")) == 4


def test_a_deleted_conversation_leaves_no_messages(store: ChatStore, tmp_path: Path) -> None:
    conversation = store.create_conversation("", "", {})
    add(store, conversation, add(store, conversation, None, "a"), "b")
    store.delete_conversation("", conversation)
    with sqlite3.connect(tmp_path / "chats.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (0,)
    connection.close()


def test_what_was_written_survives_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from hanlin.web.chat.store import ChatStore\n"
        "store = ChatStore(Path(sys.argv[1])); conversation = store.create_conversation('', 'kept', {})\n"
        "store.add_message('', conversation, None, role='user', content='kept too')\n"
        "print('written', flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "c.sqlite"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("written\n", -9), done.stderr
    store = ChatStore(tmp_path / "c.sqlite")
    (row,) = store.list_conversations("")
    assert (row["title"], store.read_conversation("", row["id"])["messages"][0]["content"]) == ("kept", "kept too")


def test_many_threads_write_at_once_and_nothing_is_lost(store: ChatStore) -> None:
    conversation = store.create_conversation("", "", {})
    threads = [threading.Thread(target=add, args=(store, conversation, None, str(number))) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = store.read_conversation("", conversation)["messages"]
    assert {message["content"] for message in messages} == {str(number) for number in range(16)}
    assert [message["number"] for message in messages] == list(range(1, 17))


def test_a_file_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    text, database, newer = tmp_path / "text", tmp_path / "database", tmp_path / "newer"
    text.write_text("no database\n" * 100, encoding="utf-8")
    for file, statement in ((database, "CREATE TABLE other (x)"), (newer, f"PRAGMA user_version = {VERSION + 1}")):
        connection = sqlite3.connect(file)
        connection.execute(statement)
        connection.commit()
        connection.close()
    for file, problem in ((text, "no conversations"), (database, "no conversations"), (newer, "newer Hanlin")):
        before = file.read_bytes()
        with pytest.raises(UserError, match=problem):
            ChatStore(file)
        assert file.read_bytes() == before
    with pytest.raises(UserError, match="cannot be read or written"):
        ChatStore(tmp_path)


def test_a_preset_is_saved_replaced_and_removed(store: ChatStore) -> None:
    store.save_preset("", "mine", {"temperature": 1})
    store.save_preset("", "mine", {"temperature": 0.2})
    assert (store.list_presets(""), store.list_presets("other")) == ({"mine": {"temperature": 0.2}}, {})
    store.save_preset("", "mine", None)
    assert store.list_presets("") == {}
