"""Overlays: what a person corrected in single records, kept in a file of its own; the sources are never changed.

A line of an overlay is one JSON object. `sha256` says which record is meant: it is that of the record's content as the
stage makes it without the overlay, so that an entry still fits when rows are added to the source or put in another
order. `id` is for people and messages. An entry that fits no record ends the run: nothing is ignored unsaid.

    {"id": "chats.jsonl#17", "sha256": "9f…", "action": "drop", "note": "an advertisement"}
    {"id": "chats.jsonl#20", "sha256": "07…", "action": "fix", "row": {"messages": [...]}}
    {"id": "chats.jsonl#31", "sha256": "c1…", "action": "note", "note": "ask the author"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from hanlin.config.reasons import describe_reason
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import open_regular, parse_json, write_text
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import show_name
from hanlin.core.records import ROLES, Conversation, Document, Message, Preference, UnpairedPreference
from hanlin.data.ledger import Drop

Record = Document | Conversation | Preference | UnpairedPreference
Action = Literal["drop", "fix", "note"]
ACTIONS: tuple[Action, ...] = ("drop", "fix", "note")
MAX_BYTES = 256 << 20
"""Largest overlay that is read; corrections are made by hand, and 100,000 long ones have about 200 MB."""
OVERLAY_RULE, OVERLAY_NOTE_RULE = "overlay", "overlay_note"
"""What the ledger counts a fixed and an annotated record under; a dropped one has the reason `overlay`."""
_HASH_DIGITS = 32
_HASH = re.compile(rf"[0-9a-f]{{{_HASH_DIGITS}}}")
_FIELDS = ("id", "sha256", "action", "row", "note")
_SHOWN_IDS = 3
_NOT_CONTENT = frozenset({"id", "source", "meta"})
_MESSAGE_FIELDS: dict[str, type | tuple[type, ...]] = {
    "role": str,
    "text": str,
    "reasoning": str,
    "tool_calls": list,
    "name": str,
    "tool_call_id": str,
    "train": bool,
}


def content_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record's JSON form that it is known by: all but `id`, `source` and `meta`."""
    return {name: value for name, value in row.items() if name not in _NOT_CONTENT}


def hash_content(row: Mapping[str, Any]) -> str:
    """The hash of a record's content.

    Args:
        row: The record as `to_json` gives it, or as a line of its artifact has it.

    Returns:
        32 hexadecimal digits; equal contents have equal hashes, whatever their ids.
    """
    text = json.dumps(content_of(row), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]


@dataclass(frozen=True, slots=True)
class OverlayEntry:
    """What becomes of one record.

    Attributes:
        id: Its id when the entry was written, `file#row`.
        sha256: The hash of its content, as `hash_content` gives it.
        action: `drop` it, `fix` its content, or add a `note` to its metadata.
        row: The new content, of a fix.
        note: What a person wrote about it; the whole of a note, and a reason for the others.
    """

    id: str
    sha256: str
    action: Action
    row: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "sha256": self.sha256, "action": self.action}
        if self.row:
            row["row"] = dict(self.row)
        if self.note:
            row["note"] = self.note
        return row

    @classmethod
    def from_json(cls, row: Any, where: str) -> Self:
        """Read an entry. Raises UserError, with `where`, for one that is not complete or has unknown fields."""
        if not isinstance(row, dict):
            raise UserError(tr("not a JSON object"), where)
        for name in row:
            if name not in _FIELDS:
                what = tr("an entry of an overlay has no {name}", name=show_name(str(name)))
                raise UserError(what, where, did_you_mean(str(name), _FIELDS))
        if row.get("action") not in ACTIONS:
            what = tr("there is no action {name}", name=show_name(str(row.get("action", ""))))
            raise UserError(what, where, did_you_mean(str(row.get("action", "")), ACTIONS))
        if not isinstance(row.get("id"), str) or not row["id"]:
            raise UserError(tr("{name} is missing", name="id"), where)
        if not isinstance(row.get("sha256"), str) or not _HASH.fullmatch(row["sha256"]):
            what = tr("sha256 is not a hash of {digits} hexadecimal digits", digits=_HASH_DIGITS)
            raise UserError(what, where, tr("the page writes it when a row is corrected"))
        action, content, note = row["action"], row.get("row", {}), row.get("note", "")
        if not isinstance(note, str) or not isinstance(content, dict):
            raise UserError(tr("`note` is a text and `row` an object"), where)
        if (action == "fix") != bool(content):
            raise UserError(tr("a fix has a `row`, and nothing else has"), where)
        if action == "note" and not note.strip():
            raise UserError(tr("the note is empty"), where)
        return cls(row["id"], row["sha256"], action, content, note)


@dataclass(frozen=True)
class Overlay:
    """The entries of an overlay, each for another record, in the order of the file."""

    entries: tuple[OverlayEntry, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an overlay.

        Raises:
            UserError: It cannot be read, is too large, or a line of it is no entry; with file and line.
        """
        try:
            with open_regular(path) as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
        if len(data) > MAX_BYTES:
            raise UserError(tr("larger than {limit} MB", limit=MAX_BYTES >> 20), path)
        entries: dict[str, OverlayEntry] = {}
        lines: dict[str, int] = {}
        for number, line in enumerate(data.split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(tr("not JSON"), where) from error
            entry = OverlayEntry.from_json(row, where)
            if entry.sha256 in entries:
                what = tr("line {line} is about the same record", line=lines[entry.sha256])
                raise UserError(what, where, tr("keep one of the two"))
            entries[entry.sha256], lines[entry.sha256] = entry, number
        return cls(tuple(entries.values()))

    def write(self, path: Path) -> None:
        """Write it, at once or not at all."""
        rows = (json.dumps(entry.to_json(), ensure_ascii=False) for entry in self.entries)
        write_text(path, "".join(f"{row}\n" for row in rows), fsync=True)

    @cached_property
    def by_hash(self) -> Mapping[str, OverlayEntry]:
        """The entries by the hash of their record."""
        return {entry.sha256: entry for entry in self.entries}

    @cached_property
    def by_fixed_hash(self) -> Mapping[str, OverlayEntry]:
        """The fixes by the hash of what they make: an artifact that was made with the overlay holds those."""
        return {hash_content(entry.row): entry for entry in self.entries if entry.action == "fix"}

    def find(self, row: Mapping[str, Any]) -> OverlayEntry | None:
        """The entry of a record as an artifact has it, made with or without the overlay; None if there is none."""
        sha256 = hash_content(row)
        return self.by_hash.get(sha256) or self.by_fixed_hash.get(sha256)

    def with_entry(self, entry: OverlayEntry) -> Overlay:
        """This overlay with an entry, in the place of the one about the same record if there is one."""
        if entry.sha256 not in self.by_hash:
            return Overlay((*self.entries, entry))
        return Overlay(tuple(entry if other.sha256 == entry.sha256 else other for other in self.entries))

    def without_entry(self, sha256: str) -> Overlay:
        """This overlay without the entry about a record."""
        return Overlay(tuple(entry for entry in self.entries if entry.sha256 != sha256))

    def apply(self, record: Any) -> tuple[OverlayEntry, Any] | None:
        """Apply the entry about a record.

        Args:
            record: The record as the stage made it.

        Returns:
            The entry, and the record that it makes or a Drop; None if there is no entry about it.
        """
        entry = self.by_hash.get(hash_content(record.to_json()))
        if entry is None:
            return None
        if entry.action == "drop":
            return entry, Drop("overlay", entry.note)
        meta = {**record.meta, "note": entry.note} if entry.note else record.meta
        if entry.action == "note":
            return entry, replace(record, meta=meta)
        fixed = parse_content(type(record), entry.row, entry.id)
        return entry, replace(fixed, id=record.id, source=record.source, meta=meta)

    def check_used(self, used: Mapping[str, int], path: str | Path) -> None:
        """Raise UserError if an entry was about no record that the stage made.

        Args:
            used: How often each entry was applied, by its hash.
            path: The overlay's file, for the message.
        """
        unused = [entry.id for entry in self.entries if not used.get(entry.sha256)]
        if not unused:
            return
        shown = join_list([*map(show_name, unused[:_SHOWN_IDS]), *(["…"] if len(unused) > _SHOWN_IDS else [])])
        what = tr(
            "{count:,} of {total:,} corrections are about records that this stage does not make: {ids}",
            count=len(unused),
            total=len(self.entries),
            ids=shown,
        )
        hint = tr(
            "the source or the rules have changed since, or the overlay belongs to another stage; correct the records "
            "anew, or remove these lines"
        )
        raise UserError(what, path, hint)


def parse_content(record_type: type[Any], row: Mapping[str, Any], where: str) -> Any:
    """Make a record of new content that a person wrote.

    Args:
        record_type: The class of the record.
        row: Its content; `id`, `source` and `meta` are not taken from it.
        where: What the content is of, for messages.

    Returns:
        The record, with `where` as its id.

    Raises:
        UserError: The content is none of such a record: a field is missing, unknown or of another type, a turn has
            no text, or the turns are in no order that a chat template accepts.
    """
    try:
        content = content_of(row)
        _check_fields(record_type, content)
        record = record_type.from_json({**content, "id": where})
    except (KeyError, TypeError, ValueError) as error:
        name = error.args[0] if isinstance(error, KeyError) else ""
        problem = tr("{name} is missing", name=name) if name else str(error)
        what = tr("not a record of `{kind}`: {error}", kind=record_type.kind, error=problem)
        raise UserError(what, where) from error
    from hanlin.data.filters.conversation import check_trainable  # not in every process that has no overlay

    if isinstance(record, Document):
        drop = None if record.text.strip() else Drop("no_text")
    elif isinstance(record, Conversation):
        drop = _check_turns(record.messages)
    elif isinstance(record, Preference):
        drop = check_trainable(record.prompt, record.chosen) or check_trainable(record.prompt, record.rejected)
    else:
        drop = check_trainable(record.prompt, record.answer)
    if drop is not None:
        detail = f" ({drop.detail})" if drop.detail else ""
        what = tr("the new content cannot be trained on: {why}", why=f"{describe_reason(drop.reason)}{detail}")
        raise UserError(what, where)
    return record


_CONTENT_FIELDS: dict[str, tuple[str, ...]] = {
    "documents": ("text",),
    "conversations": ("messages", "tools"),
    "preferences": ("prompt", "chosen", "rejected", "tools"),
    "unpaired_preferences": ("prompt", "answer", "good", "tools"),
}


def _check_fields(record_type: type[Any], content: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError if content has fields that are unknown or of another type."""
    known = _CONTENT_FIELDS[record_type.kind]
    for name in content:
        if name not in known:
            raise ValueError(tr("it has no field {name}", name=show_name(str(name))))
    if "text" in known and not isinstance(content["text"], str):
        raise TypeError(tr("{name} is of another type", name="text"))
    for name in ("messages", "prompt"):
        if name in known:
            _check_list(content[name], name)
            for index, turn in enumerate(content[name]):
                _check_message(turn, f"{name}.{index}")
    for name in ("chosen", "rejected", "answer"):
        if name in known:
            _check_message(content[name], name)
    if "tools" in content:
        _check_list(content["tools"], "tools")
        if not all(isinstance(tool, dict) for tool in content["tools"]):
            raise TypeError(tr("{name} is of another type", name="tools"))


def _check_list(value: Any, name: str) -> None:
    if not isinstance(value, list):
        raise TypeError(tr("{name} is of another type", name=name))


def _check_message(turn: Any, name: str) -> None:
    if not isinstance(turn, dict):
        raise TypeError(tr("{name} is of another type", name=name))
    for key, value in turn.items():
        if key not in _MESSAGE_FIELDS:
            raise ValueError(tr("it has no field {name}", name=show_name(f"{name}.{key}")))
        if not isinstance(value, _MESSAGE_FIELDS[key]):
            raise TypeError(tr("{name} is of another type", name=f"{name}.{key}"))
    if turn["role"] not in ROLES:
        raise ValueError(tr("there is no role {name}", name=show_name(turn["role"])))
    if "text" not in turn:
        raise KeyError(f"{name}.text")
    for call in turn.get("tool_calls", ()):
        if (
            not isinstance(call, dict)
            or not isinstance(call.get("name"), str)
            or not isinstance(call.get("arguments"), dict)
            or not isinstance(call.get("id", ""), str)
        ):
            raise TypeError(tr("{name} is of another type", name=f"{name}.tool_calls"))


def _check_turns(messages: Sequence[Message]) -> Drop | None:
    from hanlin.data.filters.conversation import turn_order

    ordered = turn_order(tuple(messages))
    if isinstance(ordered, Drop):
        return ordered
    if not any(turn.role == "assistant" for turn in messages):
        return Drop("no_answer")
    for number, turn in enumerate(messages, start=1):
        if not turn.text.strip() and not turn.tool_calls and turn.role != "tool":
            return Drop("empty_turn", f"turn {number}, {turn.role}")
    return None
