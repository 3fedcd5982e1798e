"""Conversations in a SQLite file: a tree of messages for each, so that an edited turn or a new answer is a branch.

    root ── question ── answer A          two answers of one question are siblings
                    └── answer B ── next question

What was written is on disk when a call returns: the journal (WAL) survives a process that is killed.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError

VERSION = 1
"""Of the tables; a file of a newer version is refused."""
_BUSY_SECONDS = 10.0
_SCHEMA = (
    """
    CREATE TABLE conversation (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, settings TEXT NOT NULL, leaf TEXT,
        created REAL NOT NULL, updated REAL NOT NULL
    )
    """,
    """
    CREATE INDEX conversation_order ON conversation (owner, updated DESC)
    """,
    """
    CREATE TABLE message (
        id TEXT PRIMARY KEY, number INTEGER NOT NULL,
        conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
        parent TEXT REFERENCES message (id) ON DELETE CASCADE,
        role TEXT NOT NULL, content TEXT NOT NULL, reasoning TEXT NOT NULL, tool_calls TEXT NOT NULL,
        tool_call_id TEXT NOT NULL, name TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL,
        request TEXT NOT NULL, stats TEXT NOT NULL, rating INTEGER NOT NULL DEFAULT 0, better TEXT,
        created REAL NOT NULL
    )
    """,
    """
    CREATE INDEX message_order ON message (conversation, number)
    """,
    """
    CREATE INDEX message_parent ON message (parent)
    """,
    """
    CREATE TABLE preset (owner TEXT NOT NULL, name TEXT NOT NULL, sampling TEXT NOT NULL, PRIMARY KEY (owner, name))
    """,
)
_JSON_FIELDS = ("tool_calls", "request", "stats")
_MESSAGE_FIELDS = (
    *("role", "content", "reasoning", "tool_calls", "tool_call_id", "name"),
    *("model", "state", "request", "stats", "rating", "better"),
)
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("content", "reasoning", "tool_call_id", "name", "model"), ""),
    "tool_calls": [],
    "request": {},
    "stats": {},
    "rating": 0,
    "better": None,
    "state": "done",
}


class ChatStore:
    """The conversations of one file. Calls may come from any thread; each opens the file for itself.

    Args:
        path: The file; made when it is not there.

    Raises:
        UserError: The file is none of this store, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            is_new = self._read_version(connection) == 0
        if is_new:
            with self._connect() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            with self._open(writes=True) as connection:
                if self._read_version(connection) == 0:  # not another process's by now
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call, whose errors are explained."""
        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise _explain(error, self._path) from error
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
        except (sqlite3.DatabaseError, sqlite3.InterfaceError) as error:
            raise _explain(error, self._path) from error
        finally:
            connection.close()

    @contextmanager
    def _open(self, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, taken back on an error; one that writes has the file for itself from its beginning."""
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _read_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            hint = tr("use the Hanlin that wrote it, or another folder")
            raise UserError(tr("these conversations were written by a newer Hanlin"), self._path, hint)
        if version == 0 and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise UserError(tr("this file holds no conversations"), self._path, tr("move it away"))
        return version

    # --- conversations ------------------------------------------------------------------------------------------------

    def list_conversations(self, owner: str, text: str = "", limit: int = -1) -> list[dict[str, Any]]:
        """The conversations of an owner, the latest first: id, title, updated (seconds since 1970), number of messages.

        Args:
            owner: Whose.
            text: Only those whose title or messages hold it.
            limit: How many at most; -1: all.
        """
        pattern = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        with self._open() as connection:
            rows = connection.execute(
                "SELECT id, title, updated, (SELECT count(*) FROM message WHERE conversation = conversation.id) AS size"
                " FROM conversation WHERE owner = :owner AND (:pattern = '%%' OR title LIKE :pattern ESCAPE '\\'"
                " OR EXISTS (SELECT 1 FROM message WHERE conversation = conversation.id"
                " AND content LIKE :pattern ESCAPE '\\')) ORDER BY updated DESC, rowid DESC LIMIT :limit",
                {"owner": owner, "pattern": pattern, "limit": limit},
            ).fetchall()
        return [dict(row) for row in rows]

    def list_rated(self, owner: str) -> list[str]:
        """The ids of those conversations that have a thumb or a better answer, the oldest first."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT id FROM conversation WHERE owner = ? AND EXISTS (SELECT 1 FROM message"
                " WHERE conversation = conversation.id AND (rating != 0 OR better IS NOT NULL))"
                " ORDER BY updated, rowid",
                (owner,),
            )
            return [row["id"] for row in rows]

    def create_conversation(self, owner: str, title: str, settings: Mapping[str, Any]) -> str:
        """A new conversation; returns its id."""
        conversation = uuid.uuid4().hex
        with self._open(writes=True) as connection:
            _insert_conversation(connection, owner, conversation, title, settings)
        return conversation

    def read_conversation(self, owner: str, conversation: str) -> dict[str, Any]:
        """A conversation with its settings, the leaf of the branch that is shown, and all messages in their order.

        Raises:
            ApiError: 404 if the owner has no such conversation.
        """
        with self._open() as connection:
            head = _find_conversation(connection, owner, conversation)
            rows = connection.execute("SELECT * FROM message WHERE conversation = ? ORDER BY number", (conversation,))
            messages = [_read_message(row) for row in rows]
        return {
            "id": head["id"],
            "title": head["title"],
            "settings": parse_json(head["settings"]),
            "leaf": head["leaf"],
            "messages": messages,
        }

    def update_conversation(
        self,
        owner: str,
        conversation: str,
        title: str | None = None,
        settings: Mapping[str, Any] | None = None,
        leaf: str | None = None,
    ) -> None:
        """Change what is not None. Raises ApiError (404) if there is no such conversation or leaf."""
        with self._open(writes=True) as connection:
            _find_conversation(connection, owner, conversation)
            if title is not None:
                connection.execute("UPDATE conversation SET title = ? WHERE id = ?", (title, conversation))
            if settings is not None:
                connection.execute("UPDATE conversation SET settings = ? WHERE id = ?", (_dump(settings), conversation))
            if leaf is not None:
                _find_message(connection, owner, leaf, conversation)
                connection.execute("UPDATE conversation SET leaf = ? WHERE id = ?", (leaf, conversation))

    def delete_conversation(self, owner: str, conversation: str) -> None:
        """Remove a conversation with its messages. Raises ApiError (404) if there is none."""
        with self._open(writes=True) as connection:
            _find_conversation(connection, owner, conversation)
            connection.execute("DELETE FROM conversation WHERE id = ?", (conversation,))

    # --- messages -----------------------------------------------------------------------------------------------------

    def add_message(self, owner: str, conversation: str, parent: str | None, **fields: Any) -> dict[str, Any]:
        """Add one message and return it; see `add_messages`."""
        (message,) = self.add_messages(owner, conversation, [{"parent": parent, **fields}])
        return message

    def add_messages(
        self,
        owner: str,
        conversation: str,
        messages: Sequence[Mapping[str, Any]],
        leaf: str | None = None,
        new: tuple[str, Mapping[str, Any]] | None = None,
    ) -> list[dict[str, Any]]:
        """Add messages, each below another one or at the beginning, all of them or none.

        Args:
            owner: Whose conversation.
            conversation: Its id.
            messages: Fields of each: id, parent (the message before it; None: it is the first of a branch), role,
                content, reasoning, tool_calls, tool_call_id, name, model, state, request, stats. A later one may name
                an earlier one as its parent.
            leaf: The message with which the branch that is shown ends; None: the last one added.
            new: Title and settings of a conversation that is begun with them; None: it is there.

        Returns:
            The messages.

        Raises:
            ApiError: 404 if there is no such conversation, or no such message in it; 409 if an id is taken.
        """
        now = time.time()
        ids = [fields.get("id") or uuid.uuid4().hex for fields in messages]
        with self._open(writes=True) as connection, _refuse_taken_ids():
            if new is not None:
                _insert_conversation(connection, owner, conversation, *new)
            _find_conversation(connection, owner, conversation)
            (last,) = connection.execute(
                "SELECT coalesce(max(number), 0) FROM message WHERE conversation = ?", (conversation,)
            ).fetchone()
            for number, (message, fields) in enumerate(zip(ids, messages, strict=True), start=last + 1):
                parent, values = fields.get("parent"), {**_DEFAULTS, **fields}
                if parent is not None:
                    _find_message(connection, owner, parent, conversation)
                connection.execute(
                    f"INSERT INTO message (id, number, conversation, parent, created, {', '.join(_MESSAGE_FIELDS)})"
                    f" VALUES ({', '.join('?' * (5 + len(_MESSAGE_FIELDS)))})",
                    (
                        message,
                        number,
                        conversation,
                        parent,
                        now,
                        *(_to_column(name, values[name]) for name in _MESSAGE_FIELDS),
                    ),
                )
            if leaf is not None:
                _find_message(connection, owner, leaf, conversation)
            connection.execute(
                "UPDATE conversation SET leaf = coalesce(?, leaf), updated = ? WHERE id = ?",
                (leaf or (ids[-1] if ids else None), now, conversation),
            )
            rows = [connection.execute("SELECT * FROM message WHERE id = ?", (message,)).fetchone() for message in ids]
            return [_read_message(row) for row in rows]

    def update_message(self, owner: str, message: str, **fields: Any) -> dict[str, Any]:
        """Change fields of a message. Raises ApiError (404) if the owner has no such message."""
        with self._open(writes=True) as connection:
            _find_message(connection, owner, message)
            for name, value in fields.items():
                assert name in _MESSAGE_FIELDS
                connection.execute(f"UPDATE message SET {name} = ? WHERE id = ?", (_to_column(name, value), message))
            return _read_message(connection.execute("SELECT * FROM message WHERE id = ?", (message,)).fetchone())

    # --- presets of sampling ------------------------------------------------------------------------------------------

    def list_presets(self, owner: str) -> dict[str, dict[str, Any]]:
        """The presets that an owner saved, by name."""
        with self._open() as connection:
            rows = connection.execute("SELECT name, sampling FROM preset WHERE owner = ? ORDER BY name", (owner,))
            return {row["name"]: parse_json(row["sampling"]) for row in rows}

    def save_preset(self, owner: str, name: str, sampling: Mapping[str, Any] | None) -> None:
        """Save a preset under a name, in place of one that has it; None removes it."""
        with self._open(writes=True) as connection:
            connection.execute("DELETE FROM preset WHERE owner = ? AND name = ?", (owner, name))
            if sampling is not None:
                connection.execute("INSERT INTO preset VALUES (?, ?, ?)", (owner, name, _dump(sampling)))


def find_path(messages: Sequence[Mapping[str, Any]], leaf: str | None) -> list[Mapping[str, Any]]:
    """The messages of a branch from its beginning to its leaf."""
    by_id = {message["id"]: message for message in messages}
    path: list[Mapping[str, Any]] = []
    while leaf is not None:
        path.append(by_id[leaf])
        leaf = by_id[leaf]["parent"]
    return path[::-1]


@contextmanager
def _refuse_taken_ids() -> Iterator[None]:
    """Explain that an id is there already: it was chosen by a page, which draws them at random."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ApiError(409, tr("this was stored before"), code="exists") from error


def _insert_conversation(
    connection: sqlite3.Connection, owner: str, conversation: str, title: str, settings: Mapping[str, Any]
) -> None:
    now = time.time()
    connection.execute(
        "INSERT INTO conversation (id, owner, title, settings, created, updated) VALUES (?, ?, ?, ?, ?, ?)",
        (conversation, owner, title, _dump(settings), now, now),
    )


def _explain(error: sqlite3.Error, path: Path) -> UserError:
    if isinstance(error, sqlite3.OperationalError):
        what = tr("the conversations cannot be read or written: {problem}", problem=error)
        return UserError(what, path, tr("check the disk and the permissions"))
    return UserError(tr("this file holds no conversations"), path, tr("move it away"))


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _to_column(name: str, value: Any) -> Any:
    return _dump(value) if name in _JSON_FIELDS else value


def _read_message(row: sqlite3.Row) -> dict[str, Any]:
    message = dict(row)
    return message | {name: parse_json(message[name]) for name in _JSON_FIELDS}


def _find_conversation(connection: sqlite3.Connection, owner: str, conversation: str) -> sqlite3.Row:
    row = connection.execute("SELECT * FROM conversation WHERE id = ? AND owner = ?", (conversation, owner)).fetchone()
    if row is None:
        raise ApiError(404, tr("there is no such conversation"), code="not_found")
    found: sqlite3.Row = row
    return found


def _find_message(connection: sqlite3.Connection, owner: str, message: str, conversation: str = "") -> None:
    row = connection.execute(
        "SELECT conversation FROM message WHERE id = ? AND EXISTS ("
        "SELECT 1 FROM conversation WHERE id = message.conversation AND owner = ?)",
        (message, owner),
    ).fetchone()
    if row is None or (conversation and row["conversation"] != conversation):
        raise ApiError(404, tr("there is no such message"), code="not_found")
