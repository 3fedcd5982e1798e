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
from hanlin.core.files import open_atomic, open_regular, parse_json
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
    """A call of a function by the assistant; `arguments` is a JSON object, `id` what the result refers to, if given."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(row["name"], row["arguments"], row.get("id", ""))

    def to_json(self) -> dict[str, Any]:
        return _compact({"id": self.id, "name": self.name, "arguments": dict(self.arguments)}, keep=("arguments",))


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who writes it.
        text: What is written; of a turn that only calls tools, empty.
        tool_calls: The tools that an assistant's turn calls, in order.
        name: Of a tool's turn, the tool.
        reasoning: What an assistant thinks before `text`, without the tags around it.
        tool_call_id: Of a tool's turn, the id of the call that it answers, if the calls have ids.
        train: Whether an assistant's turn carries loss. None leaves that to the training stage.
    """

    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    reasoning: str = ""
    tool_call_id: str = ""
    train: bool | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(
            role=row["role"],
            text=row["text"],
            tool_calls=tuple(ToolCall.from_json(call) for call in row.get("tool_calls", ())),
            name=row.get("name", ""),
            reasoning=row.get("reasoning", ""),
            tool_call_id=row.get("tool_call_id", ""),
            train=row.get("train"),
        )

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"role": self.role, "text": self.text}
        if self.reasoning:
            row["reasoning"] = self.reasoning
        if self.tool_calls:
            row["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.name:
            row["name"] = self.name
        if self.tool_call_id:
            row["tool_call_id"] = self.tool_call_id
        if self.train is not None:
            row["train"] = self.train
        return row


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
    """A prompt (turns that end with the user or a tool) and two answers to it, the preferred one first.

    `tools` are JSON-schema functions.
    """

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    id: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    kind: ClassVar[str] = "preferences"

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        chosen, rejected = Message.from_json(row["chosen"]), Message.from_json(row["rejected"])
        return cls(_turns(row["prompt"]), chosen, rejected, *_origin(row), tuple(row.get("tools", ())))

    def to_json(self) -> dict[str, Any]:
        row = {
            "id": self.id,
            "prompt": [turn.to_json() for turn in self.prompt],
            "chosen": self.chosen.to_json(),
            "rejected": self.rejected.to_json(),
            "tools": [dict(tool) for tool in self.tools],
            "source": self.source,
            "meta": dict(self.meta),
        }
        return _compact(row)


@dataclass(frozen=True, slots=True)
class UnpairedPreference:
    """A prompt (turns that end with the user or a tool), one answer to it, and whether the answer is good.

    `tools` are JSON-schema functions.
    """

    prompt: tuple[Message, ...]
    answer: Message
    good: bool
    id: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    kind: ClassVar[str] = "unpaired_preferences"

    @classmethod
    def of_pair(cls, pair: Preference) -> tuple[Self, Self]:
        """A preference pair as two records: the chosen answer is good, the rejected one is not."""
        return (
            cls(pair.prompt, pair.chosen, True, f"{pair.id}+", pair.source, pair.meta, pair.tools),
            cls(pair.prompt, pair.rejected, False, f"{pair.id}-", pair.source, pair.meta, pair.tools),
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        if not isinstance(row["good"], bool):
            raise TypeError("good is neither true nor false")
        answer, tools = Message.from_json(row["answer"]), tuple(row.get("tools", ()))
        return cls(_turns(row["prompt"]), answer, row["good"], *_origin(row), tools)

    def to_json(self) -> dict[str, Any]:
        row = {
            "id": self.id,
            "prompt": [turn.to_json() for turn in self.prompt],
            "answer": self.answer.to_json(),
            "good": self.good,
            "tools": [dict(tool) for tool in self.tools],
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
        file = open_regular(path)
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
    with file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{line_number}"
            try:
                yield record.from_json(parse_json(line.decode("utf-8")))
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
    """Three fields that every record has: id, source, meta."""
    return row["id"], row.get("source", ""), row.get("meta", {})


CALLING = "calling assistant"
"""The role of an assistant's message that calls tools, in `NEXT_ROLES`."""

NEXT_ROLES: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user", "assistant"),
    "system": ("user", "assistant"),
    "user": ("assistant",),
    "assistant": ("user",),
    CALLING: ("tool",),
    "tool": ("assistant", "tool"),
}
"""The roles that may follow a role; None is the start. Tool calls are followed by their results. An assistant's turn
before any of the user is a greeting."""
