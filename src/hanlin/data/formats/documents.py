"""Formats of documents to pre-train on: text files, and rows with a text field.

Decides which fields are text and how lines, chapters and titles become one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.data.formats.base import Format, collect_meta, find_unread_fields, is_filled, is_own_record
from hanlin.data.formats.content.media import find_media_field, find_placeholder
from hanlin.data.io.tables import is_numbered
from hanlin.data.ledger import Drop

TEXT_FIELDS = (
    "text",
    "content",
    "completion",
    "raw_content",
    "paragraphs",
    "chapters",
    "body",
    "article",
    "passage",
    "document",
    "sections",
    "contents",
    "chunks",
    "正文",
    "内容",
    "段落",
    "章节",
)
_ADDRESS = re.compile(r"[a-z]+://\S*$")
_TITLE_FIELDS = ("title", "rhythmic", "chapter", "主题")
_POSTS = "回复"
"""The field of a thread of MNBVC that holds its posts, and of each post that holds its text."""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """The text of a row, its other fields, and the names of those that are in neither."""

    text: str
    meta: Mapping[str, Any]
    unread: tuple[str, ...] = field(default=(), compare=False)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_TURN_LISTS = ("messages", "conversations", "conversation")
_PRETRAINING_ROLES = ("pretrain", "assistant", "gpt")


def find_pretraining_text(row: Any) -> tuple[str, str] | None:
    """Find the text of a row for pre-training that is written as a conversation of one turn, the model's alone.

    XTuner and ms-swift write it so.

    Returns:
        (the field, the text); None for any other row.
    """
    if not isinstance(row, dict):
        return None
    for name in _TURN_LISTS:
        if row.get(name):
            break
    else:
        return None
    turns = row[name]
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], dict):
        return None
    turn = turns[0]
    text = next((turn[key] for key in ("content", "value", "text") if isinstance(turn.get(key), str)), "")
    is_model = turn.get("role", turn.get("from")) in _PRETRAINING_ROLES
    return (name, text) if is_model and text.strip() and len(turn) == 2 else None


def _is_document(value: Any) -> bool:
    if isinstance(value, dict):
        if find_pretraining_text(value) is not None:
            return True
        name = _find_text_field(value)
        return name is not None and _join_body(value[name]) is not None
    return isinstance(value, str)


def _find_text_field(row: Mapping[str, Any]) -> str | None:
    """Find the field of the text: by its name, or as the only text of numbered values, alone or beside its address.

    An empty field is not it if another one has a text.
    """
    name = next((name for name in TEXT_FIELDS if isinstance(row.get(name), str | list)), None)
    if name is not None and not is_filled(row[name]):
        names = (name for name in TEXT_FIELDS if isinstance(row.get(name), str | list) and is_filled(row[name]))
        name = next(names, name)
    if name is None and "1" in row and is_numbered(row):
        strings = [number for number, value in row.items() if isinstance(value, str)]
        texts = [number for number in strings if not _ADDRESS.match(row[number])]
        has_address = len(texts) < len(strings)
        return texts[0] if len(texts) == 1 and (has_address or len(row) == 1) else None
    return _POSTS if name is None and _are_posts(row.get(_POSTS)) else name


def _are_posts(value: Any) -> bool:
    """Whether a value is a list of posts, each with its text."""
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(post, dict) and isinstance(post.get(_POSTS), str) for post in value)


def read_text(value: Any) -> Iterator[ParsedText | Drop]:
    """Read a plain text as one document."""
    yield ParsedText(value, {}) if isinstance(value, str) else Drop("other_format")


def read_document(value: Any) -> Iterator[ParsedText | Drop]:
    """Read one document: a text, or a row with one.

    If the text is a list of lines (poems, classics), title and author are put above it, as in a book. Otherwise the
    title goes to `meta`, because it usually opens the text already; name it in `fields` to put it above.
    """
    if isinstance(value, str):
        yield ParsedText(value, {})
        return
    if not isinstance(value, dict):
        yield Drop("other_format", type(value).__name__)
        return
    as_turn = find_pretraining_text(value)
    name = _find_text_field(value) if as_turn is None else as_turn[0]
    body = as_turn[1] if as_turn is not None else None if name is None else _join_body(value[name])
    if name is None or not body:
        yield Drop("no_text", f"fields {', '.join(map(str, list(value)[:12]))}")
        return
    if find_media_field(value) and (mark := find_placeholder(body)) is not None:
        yield Drop("media", mark[:40])
        return
    if as_turn is not None:
        yield ParsedText(body, collect_meta(value, (name,)), find_unread_fields(value, (name,)))
        return
    own_fields = {"id", "text", "source", "meta"}
    if name == "text" and set(value) <= own_fields and is_own_record(value):
        yield ParsedText(body, value["meta"] if isinstance(value.get("meta"), dict) else {})
        return
    used: tuple[str, ...] = (name,)
    answers = _find_answers(value, name, body)
    if isinstance(value[name], list):
        body = "\n".join([*_collect_heading(value), body])
        used = (name, *_TITLE_FIELDS, "author")
    unread = (*find_unread_fields(value, used), *_find_unread_parts(name, value[name]))
    yield ParsedText(body, collect_meta(value, (name,)), (*unread, *(name for name in answers if name not in unread)))


def _find_unread_parts(field: str, body: Any) -> tuple[str, ...]:
    """The fields of the parts of a text, such as its paragraphs, that are no part of it, as `paragraphs.md5`."""
    if not isinstance(body, list):
        return ()
    unread: dict[str, None] = {}
    for part in body:
        if not isinstance(part, dict):
            continue
        name = _find_text_field(part) or _POSTS
        used = (name, *_TITLE_FIELDS, "author")
        unread |= {f"{field}.{key}": None for key, item in part.items() if key not in used and is_filled(item)}
        unread |= dict.fromkeys(_find_unread_parts(f"{field}.{name}", part.get(name)))
    return tuple(unread)


_ANSWERS = frozenset(("answer", "answers", "response", "output", "completion", "code", "solution", "回答", "答案"))
"""Fields of what answers a text, which a model that reads the text alone does not learn."""


def _find_answers(row: Mapping[str, Any], field: str, text: str) -> tuple[str, ...]:
    """The fields of a row that answer its text and that the text does not hold itself."""
    if _ANSWERS.isdisjoint(row):  # as most rows are, and there are millions
        return ()
    texts = {name: row[name] for name in row if name in _ANSWERS and name != field and isinstance(row[name], str)}
    return tuple(name for name, answer in texts.items() if answer.strip() and answer.strip() not in text)


def read_titled_document(value: Any) -> Iterator[ParsedText | Drop]:
    """Read as `read_document`, with the title above the text unless the text begins with it."""
    for parsed in read_document(value):
        title = value.get("title") if isinstance(value, dict) else None
        if isinstance(parsed, ParsedText) and isinstance(title, str) and not parsed.text.lstrip().startswith(title):
            unread = tuple(name for name in parsed.unread if name != "title")
            parsed = replace(parsed, text=f"{title}\n{parsed.text}", unread=unread)
        yield parsed


def _collect_heading(row: Mapping[str, Any]) -> list[str]:
    names = [
        str(row[name]) for name in (*_TITLE_FIELDS, "author") if isinstance(row.get(name), str) and row[name].strip()
    ]
    return list(dict.fromkeys(names))


def _join_body(value: Any) -> str | None:
    """Join text, lines of text, or chapters with titles and texts into one text; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        name = _find_text_field(value) or (_POSTS if isinstance(value.get(_POSTS), str) else None)
        inner = None if name is None else _join_body(value[name])
        return None if inner is None else "\n".join([*_collect_heading(value), inner])
    if isinstance(value, list):
        parts = [_join_body(part) for part in value]
        return None if None in parts else "\n".join(part for part in parts if part)
    return None


DOCUMENT_FORMATS: tuple[Format[ParsedText], ...] = (
    Format("documents", _is_document, read_document),
    Format("text", _is_text, read_text),
    Format("text_blocks", _is_text, read_text),
    Format("text_lines", _is_text, read_text),
)
TITLED_FORMATS = (Format("documents", _is_document, read_titled_document), *DOCUMENT_FORMATS[1:])
