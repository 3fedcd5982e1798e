"""JSON of others is read in one place, `parse_json`: whatever is wrong with it is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from hanlin.cli.chat.repl import ChatSession
from hanlin.core.discover import read_texts, record_class
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.records import Conversation, Document, read_jsonl
from hanlin.core.resumable import read_rows
from hanlin.data.dedup.question_sets import read_questions
from hanlin.data.text.quality_model import QualityModel
from hanlin.evaluate.contamination import load_contamination

DEEP = 100_000
HOSTILE = {
    "brackets": "[" * DEEP + "]" * DEEP,
    "objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "deep but within Python's stack": "[" * 600 + "]" * 600,
    "digits": "9" * 5_000,
    "half a character": r'"\ud83d"',
    "the other half": r'{"a\uDE00": 1}',
    "nothing": "",
    "a beginning": '{"text": "',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_python_cannot_hold_is_no_json(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)
    with pytest.raises(json.JSONDecodeError):
        parse_json(text.encode())


def test_what_is_wide_or_a_whole_pair_is_json() -> None:
    wide: list[list[list[int]]] = [[[]]] * 1_000
    assert parse_json(json.dumps(wide)) == wide
    assert parse_json(r'"\ud83d\ude00"') == "😀"
    assert parse_json('"\\\\ud83d"') == "\\ud83d"
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'"\xff"')


def read_first(rows: Any) -> Any:
    return next(iter(rows))


READERS: dict[str, Callable[[Path], Any]] = {
    "documents": lambda file: read_first(read_jsonl(file, Document)),
    "conversations": lambda file: read_first(read_jsonl(file, Conversation)),
    "texts": lambda file: read_first(read_texts([file])),
    "rows": read_rows,
    "a chat": lambda file: ChatSession(cast(Any, None), file=file).resume(),
    "questions of an exam": lambda file: list(read_questions(file, "exam")),
    "what was searched in questions": lambda file: load_contamination([file]),
    "a model of quality": lambda file: QualityModel.load(file.parent),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_row_is_one_sentence_for_every_reader(text: str, tmp_path: Path) -> None:
    row = f'{{"id": "a", "text": "好", "messages": [], "x": {text}}}\n'
    for name in ("a.jsonl", "quality.json"):
        (tmp_path / name).write_text(row, encoding="utf-8")
    for read in READERS.values():
        with pytest.raises(UserError) as error:
            read(tmp_path / "a.jsonl")
        assert str(tmp_path) in str(error.value)
    assert record_class(tmp_path / "a.jsonl") is Document
