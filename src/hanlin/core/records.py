"""The records that stages exchange, and their form on disk: JSON Lines in UTF-8.

Other formats are read by `data.formats`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic
from hanlin.core.i18n import tr

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Document:
    """A text for pre-training. `source` is the file and line it came from; `meta` holds anything else known of it."""

    text: str
    id: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "documents"

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(text=row["text"], id=row["id"], source=row.get("source", ""), meta=row.get("meta", {}))

    def to_json(self) -> dict[str, Any]:
        return _compact({"id": self.id, "text": self.text, "source": self.source, "meta": dict(self.meta)})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function by the assistant; `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. An assistant turn may call tools; a tool turn holds a result and may name it."""

    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        calls = tuple(ToolCall(call["name"], call["arguments"]) for call in row.get("tool_calls", ()))
        return cls(role=row["role"], text=row["text"], tool_calls=calls, name=row.get("name", ""))

    def to_json(self) -> dict[str, Any]:
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in self.tool_calls]
        return _compact({"role": self.role, "text": self.text, "tool_calls": calls, "name": self.name}, keep=("text",))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of user and assistant, perhaps with a system message first. `tools` are JSON-schema functions."""

    messages: tuple[Message, ...]
    id: str
    source: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "conversations"

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            messages=tuple(Message.from_json(turn) for turn in row["messages"]),
            id=row["id"],
            source=row.get("source", ""),
            tools=tuple(row.get("tools", ())),
            meta=row.get("meta", {}),
        )

    def to_json(self) -> dict[str, Any]:
        turns = [turn.to_json() for turn in self.messages]
        tools = [dict(tool) for tool in self.tools]
        row = {"id": self.id, "messages": turns, "tools": tools, "source": self.source, "meta": dict(self.meta)}
        return _compact(row)


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt (turns that end with the user) and two answers to it, the preferred one first."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    id: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "preferences"

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            _turns(row["prompt"]), Message.from_json(row["chosen"]), Message.from_json(row["rejected"]), *_origin(row)
        )

    def to_json(self) -> dict[str, Any]:
        row = {
            "id": self.id,
            "prompt": [turn.to_json() for turn in self.prompt],
            "chosen": self.chosen.to_json(),
            "rejected": self.rejected.to_json(),
            "source": self.source,
            "meta": dict(self.meta),
        }
        return _compact(row)


@dataclass(frozen=True, slots=True)
class UnpairedPreference:
    """A prompt (turns that end with the user), one answer to it, and whether the answer is good."""

    prompt: tuple[Message, ...]
    answer: Message
    good: bool
    id: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "unpaired_preferences"

    @classmethod
    def of_pair(cls, pair: Preference) -> tuple[Self, Self]:
        """A preference pair as two records: the chosen answer is good, the rejected one is not."""
        return (
            cls(pair.prompt, pair.chosen, True, f"{pair.id}+", pair.source, pair.meta),
            cls(pair.prompt, pair.rejected, False, f"{pair.id}-", pair.source, pair.meta),
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        if not isinstance(row["good"], bool):
            raise TypeError("good is neither true nor false")
        return cls(_turns(row["prompt"]), Message.from_json(row["answer"]), row["good"], *_origin(row))

    def to_json(self) -> dict[str, Any]:
        row = {
            "id": self.id,
            "prompt": [turn.to_json() for turn in self.prompt],
            "answer": self.answer.to_json(),
            "good": self.good,
            "source": self.source,
            "meta": dict(self.meta),
        }
        return _compact(row, keep=("good",))


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out prompt and every answer that counts as right; `language` is that of the question (`zh`, `en`)."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    id: str
    language: str = "zh"
    topic: str = ""
    kind: ClassVar[str] = "questions"

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            messages=tuple(Message.from_json(turn) for turn in row["messages"]),
            answers=tuple(row["answers"]),
            id=row["id"],
            language=row.get("language", "zh"),
            topic=row.get("topic", ""),
        )

    def to_json(self) -> dict[str, Any]:
        turns = [turn.to_json() for turn in self.messages]
        row = {"id": self.id, "messages": turns, "answers": list(self.answers), "language": self.language}
        return _compact({**row, "topic": self.topic})


Record = TypeVar("Record", Document, Conversation, Preference, UnpairedPreference, Question)


def _compact(row: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value or name in keep}


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records to `path` at once or not at all. Returns how many there were."""
    count = 0
    with open_atomic(path) as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, record: type[Record]) -> Iterator[Record]:
    """Read what `write_jsonl` wrote, one record at a time.

    Raises UserError with file and line if a line is not UTF-8, not JSON, or not such a record.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
    with file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{line_number}"
            try:
                yield record.from_json(json.loads(line.decode("utf-8")))
            except UnicodeDecodeError as error:
                raise UserError(tr("the line is not UTF-8"), where) from error
            except json.JSONDecodeError as error:
                raise UserError(tr("not JSON: {msg}", msg=error.msg), where) from error
            except (KeyError, TypeError, AttributeError) as error:
                hint = tr("convert other formats by `corpus`, `conversations`, `preferences` or `unpaired_preferences`")
                what = tr("not a record of `{kind}`: {error}", kind=record.kind, error=error)
                raise UserError(what, where, hint) from error


def _turns(rows: Iterable[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message.from_json(row) for row in rows)


def _origin(row: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """The last three fields of every record: id, source, meta."""
    return row["id"], row.get("source", ""), row.get("meta", {})


CALLING = "calling assistant"
"""The role of an assistant's message that calls tools, in `NEXT_ROLES`."""

NEXT_ROLES: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    CALLING: ("tool",),
    "tool": ("assistant", "tool"),
}
"""The roles that may follow a role; None is the start. Tool calls are followed by their results."""
