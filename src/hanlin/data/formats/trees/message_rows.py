"""Files with one message on each row, joined to conversations: trees (OASST), and turns with an id.

A tree, read by `oasst_tree` or, for its ranks, by `ranked_tree`:

    {"message_id": "a", "parent_id": null, "role": "prompter", "text": "问"}
    {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "答", "rank": 0}

Turns, which become {"conversation_id": "7", "messages": [...]}:

    conversation_id,turn,role,content
    7,1,user,问
    7,2,assistant,答

A file of turns without any id is one conversation, or one from each system text on.

The messages of a conversation have to be beside each other, as in such files. One that is not is dropped by name; a
conversation that has an id which an earlier one has is kept, unless its turns go on where those stop, and the id counts
as an unread field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, pairwise
from typing import Any

from hanlin.data.formats.base import read_number
from hanlin.data.formats.content.parts import CONTENT_FIELDS
from hanlin.data.formats.content.roles import ROLE_FIELDS, ROLE_NAMES, find_role_name
from hanlin.data.formats.content.turn_fields import is_turn_field
from hanlin.data.io.lines import Row
from hanlin.data.ledger import Drop

MAX_MESSAGES = 2_000
"""Messages of a conversation that are joined: an id that all rows share is none."""
MAX_DEPTH = 200
"""Messages from the root of a tree to the deepest one that is joined: a row is written as nested objects."""
_PARENT_FIELDS = ("parent_id", "parent_message_id")
_MESSAGE_ID_FIELDS = ("message_id", "id")
_CHAT_ID_FIELDS = (
    *("message_tree_id", "conversation_id", "conversationId", "conv_id", "conversation", "dialog_id", "dialogue_id"),
    *("dialogueId", "dialogId", "session_id", "sessionId", "chat_id", "chatId", "thread_id", "conversation_hash"),
    *("对话id", "对话ID", "会话id", "会话ID", "对话编号", "会话编号", "会话"),
)
_ORDER_FIELDS = (
    *(
        "turn",
        "turn_id",
        "turn_index",
        "turn_idx",
        "turn_no",
        "turn_number",
        "message_index",
        "message_idx",
        "position",
    ),
    *("utterance_id", "utterance_idx", "sequence", "seq", "step", "轮次", "序号", "多轮序号"),
)
_FIRST_TURNS = 3
"""Rows that tell whether a file is a conversation."""
HEAD_ROWS = 50
"""Rows among which those are, so that broken lines at the beginning of a file do not hide what it is."""
_MAX_FINISHED = 100_000
"""Conversations whose ids are remembered, the last ones."""
_MAX_TURN_FIELDS = 6
_NOT_BESIDE = (
    *("messages", "conversations", "replies", "response", "output", "completion", "answer", "chosen", "rejected"),
    *("rejected_response", "history", "instruction"),
)
"""Fields of rows that hold more than one message."""


def is_message_row(value: Any) -> bool:
    """Whether a row is one message of a conversation: a role, a text, and the id of its conversation or its parent."""
    if not isinstance(value, dict) or ROLE_NAMES.get(find_role_name(value)) is None:
        return False
    if not any(isinstance(value.get(name), str) for name in CONTENT_FIELDS):
        return False
    if any(name in value for name in _NOT_BESIDE):
        return False
    return _find_parent_field(value) != "" or _find_chat_field(value) != ""


def find_later_turn(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The field that says that a row of question and answer is a later turn of a conversation, which nothing joins."""
    if _CHAT_ID_NAMES.isdisjoint(row) or not _find_chat_field(row) or find_role_name(row):
        return ()
    field = next((name for name in _ORDER_FIELDS if name in row), "")
    number = read_number(row[field]) if field else None
    return (field,) if number is not None and number > 1 else ()


_CHAT_ID_NAMES = frozenset(_CHAT_ID_FIELDS)


def are_message_rows(values: Sequence[Any]) -> bool:
    """Whether the rows that a file begins with are messages: of conversations with ids, or of one that is the file.

    Args:
        values: The first `HEAD_ROWS` rows; Drops do not count.
    """
    values = [value for value in values if not isinstance(value, Drop)][:_FIRST_TURNS]
    return bool(values) and (is_message_row(values[0]) or _are_bare_turns(values))


def _are_bare_turns(values: Sequence[Any]) -> bool:
    """Whether rows are turns of a user and an assistant without an id: {role, content} and nothing else of its own."""
    if len(values) < 2 or not all(isinstance(value, dict) and len(value) <= _MAX_TURN_FIELDS for value in values):
        return False
    roles = [ROLE_NAMES.get(find_role_name(value)) for value in values]
    texts = [
        next((value[name] for name in CONTENT_FIELDS if isinstance(value.get(name), str)), None) for value in values
    ]
    if None in roles or None in texts or any(name in value for value in values for name in _NOT_BESIDE):
        return False
    return {"user", "assistant"} <= set(roles) and all(first != second for first, second in pairwise(roles))


def join_message_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Join the rows of a file whose first row is one message; the rows of any other file are returned as they are.

    Args:
        rows: The rows of a file, their fields in our names.

    Yields:
        A row for each conversation, with the line of its first message; a Drop for a message whose parent is missing.
    """
    head = list(islice(rows, HEAD_ROWS))
    values = [row.value for row in head if not isinstance(row.value, Drop)][:_FIRST_TURNS]
    rows = chain(head, rows)
    if values and is_message_row(values[0]):
        yield from _join_groups(rows)
    else:
        yield from _join_bare_turns(rows) if _are_bare_turns(values) else rows


def _join_groups(rows: Iterator[Row]) -> Iterator[Row]:
    """Join the messages with one id that are beside each other."""
    group: list[Row] = []
    known: set[str | None] = set()
    finished: dict[str | None, float | None] = {}
    has_gap = is_cut = False
    for row in rows:
        if isinstance(row.value, Drop):  # a turn, if the conversation goes on behind it
            has_gap = True
            yield row
        elif not is_message_row(row.value):
            yield from _finish(group, finished, is_cut)
            group, known, has_gap, is_cut = [], set(), False, False
            yield row
        elif group and _belongs(row.value, group, known):
            group.append(row)
            known.add(_id_of(row.value))
            has_gap, is_cut = False, is_cut or has_gap
        else:
            yield from _finish(group, finished, is_cut)
            group, known, has_gap, is_cut = [row], {_id_of(row.value)}, False, False
    yield from _finish(group, finished, is_cut)


def _join_bare_turns(rows: Iterator[Row]) -> Iterator[Row]:
    """Join the turns of a file without ids: to one conversation, or to one from each system text on."""
    group: list[Row] = []
    for row in rows:
        if isinstance(row.value, Drop):
            yield row
            continue
        is_turn = isinstance(row.value, dict) and find_role_name(row.value) != ""
        if not is_turn:
            yield from _finish(group, {})
            group = []
            yield row
            continue
        if group and ROLE_NAMES.get(find_role_name(row.value)) == "system":
            yield from _finish(group, {})
            group = []
        group.append(row)
    yield from _finish(group, {})


def _find_parent_field(row: Mapping[str, Any]) -> str:
    if not any(name in row for name in _MESSAGE_ID_FIELDS):
        return ""
    return next((name for name in _PARENT_FIELDS if name in row), "")


def _find_chat_field(row: Mapping[str, Any]) -> str:
    return next(
        (name for name in _CHAT_ID_FIELDS if isinstance(row.get(name), str | int | float) and row[name] != ""), ""
    )


def _id_of(row: Mapping[str, Any]) -> str | None:
    return next((_to_key(row[name]) for name in _MESSAGE_ID_FIELDS if name in row), None)


def _to_key(value: Any) -> str | None:
    """An id as text, so that any value may be one; None for an empty one, and for NaN, which tables write for it."""
    is_empty = value is None or value == "" or value != value  # noqa: PLR0124
    return None if is_empty else str(value)


def _parent_of(row: Mapping[str, Any]) -> str | None:
    field = _find_parent_field(row)
    return _to_key(row[field]) if field else None


def _belongs(row: Mapping[str, Any], group: Sequence[Row], known: set[str | None]) -> bool:
    """Whether a message is of the conversation of the group: by the conversation's id, else by its parent."""
    field = _find_chat_field(row)
    if field:
        return row[field] == group[0].value.get(field)
    parent = _parent_of(row)
    return parent is not None and parent in known


def _finish(group: Sequence[Row], finished: dict[str | None, float | None], is_cut: bool = False) -> Iterator[Row]:
    """Yield the conversations of a group.

    Args:
        group: Its messages.
        finished: The ids of earlier conversations, each with the number of its last turn if its turns have numbers;
            that of this one is added.
        is_cut: Whether a row between the messages cannot be read.
    """
    if not group:
        return
    rest = group[MAX_MESSAGES:]
    group = group[:MAX_MESSAGES]
    for row in rest:
        detail = f"more than {MAX_MESSAGES} messages with one id"
        yield Row(row.line, Drop("no_parent", detail), row.value)
    if _find_parent_field(group[0].value):
        yield from _build_tree(group)
        return
    chat_field = _find_chat_field(group[0].value)
    chat_id = _to_key(group[0].value[chat_field]) if chat_field else None
    numbers = _read_order([row.value for row in group])[1]
    is_second = chat_id is not None and chat_id in finished
    last = finished.pop(chat_id, None)
    finished[chat_id] = max(numbers, default=None)
    if len(finished) > _MAX_FINISHED:
        del finished[next(iter(finished))]
    goes_on = is_second and last is not None and bool(numbers) and min(numbers) > last
    if goes_on or is_cut:
        problem = "its turns are not together" if goes_on else "a row between its turns cannot be read"
        for row in group:
            yield Row(row.line, Drop("no_parent", f"{chat_field} {str(chat_id)[:40]}: {problem}"), row.value)
        return
    chat = _build_chat(group)
    yield replace(chat, unread=(*chat.unread, chat_field)) if is_second else chat


def _read_order(turns: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """The field that numbers the turns, and their numbers; none if one lacks it or two have the same."""
    field = next((name for name in _ORDER_FIELDS if name in turns[0]), "")
    numbers = [number for turn in turns if (number := read_number(turn.get(field))) is not None] if field else []
    return field, numbers if len(set(numbers)) == len(turns) else []


def _build_chat(group: Sequence[Row]) -> Row:
    """A conversation of the turns of a group, in the order that they say, else as they come."""
    turns: list[dict[str, Any]] = [row.value for row in group]
    chat_field = _find_chat_field(turns[0])
    order_field, numbers = _read_order(turns)
    if numbers:
        turns = [turns[index] for index in sorted(range(len(turns)), key=numbers.__getitem__)]
    shared = _find_shared(turns)
    left_out = {chat_field, order_field, *shared}
    messages = [{name: item for name, item in turn.items() if name not in left_out} for turn in turns]
    unread = tuple(dict.fromkeys(f"turn.{name}" for row in group for name in row.unread))
    value = {**({chat_field: turns[0][chat_field]} if chat_field else {}), **shared, "messages": messages}
    return Row(group[0].line, value, "", unread, group[0].language)


def _build_tree(group: Sequence[Row]) -> Iterator[Row]:
    """The tree of a group, as OASST nests it, and a Drop for each message that is not below its root."""
    values = [row.value for row in group]
    shared = _find_shared(values)
    left_out = {*_PARENT_FIELDS, *_MESSAGE_ID_FIELDS, *_CHAT_ID_FIELDS, *shared}
    nodes: list[dict[str, Any]] = [
        {**{name: item for name, item in value.items() if name not in left_out}, "replies": []} for value in values
    ]
    for node, value in zip(nodes, values, strict=True):  # a tree's reader looks for `text`
        name = next(name for name in CONTENT_FIELDS if isinstance(value.get(name), str))
        node["text"] = node.pop(name)
        if isinstance(node.get("rank"), str):  # a table's
            node["rank"] = read_number(node["rank"])
    index_of = {_id_of(value): index for index, value in enumerate(values)}
    root = next((index for index, value in enumerate(values) if _parent_of(value) is None), None)
    below = set() if root is None else {root}
    children: dict[int, list[int]] = {}
    for index, value in enumerate(values):
        parent = index_of.get(_parent_of(value))
        if parent is not None:
            children.setdefault(parent, []).append(index)
    waiting = [(index, 1) for index in below]
    while waiting:
        parent, depth = waiting.pop()
        for index in children.get(parent, ()) if depth < MAX_DEPTH else ():
            if index not in below:
                below.add(index)
                nodes[parent]["replies"].append(nodes[index])
                waiting.append((index, depth + 1))
    if root is not None:
        chat_field = _find_chat_field(values[root])
        ids = {chat_field: values[root][chat_field]} if chat_field else {}
        yield Row(group[root].line, {**ids, **shared, "prompt": nodes[root]})
    for index, row in enumerate(group):
        if index not in below:
            parent_id = _parent_of(row.value)
            detail = "a second root" if parent_id is None else str(parent_id)[:80]
            yield Row(row.line, Drop("no_parent", detail), row.value)


def _find_shared(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields that all messages have alike and that say nothing of a turn: they are the conversation's."""
    if len(turns) < 2:
        return {}
    names = {*ROLE_FIELDS, *CONTENT_FIELDS, *_CHAT_ID_FIELDS, *_PARENT_FIELDS, *_MESSAGE_ID_FIELDS, "deleted", "rank"}
    return {
        name: item
        for name, item in turns[0].items()
        if name not in names
        and not is_turn_field(name)
        and all(name in turn and turn[name] == item for turn in turns[1:])
    }
