"""Questions and answers in numbered fields or in lists are turns, or rows of their own; what is left is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.sources import Source
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.trees.question_lists import unfold_questions
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

ASKED, SAID, MORE, LAST = "桥在哪里？", "在江边。", "多长？", "百米。"
WORDING = "桥位于何处？"


def read(folder: Path, *rows: Any, **source: Any) -> list[tuple[list[str] | Drop, tuple[str, ...]]]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        found = list(open_records(file, input_file, CHAT_FORMATS).rows)
    return [
        ([turn.text for turn in row.item.messages] if isinstance(row.item, ParsedChat) else row.item, row.unread)
        for row in found
    ]


@pytest.mark.parametrize(
    ("row", "said", "unread"),
    [
        ({"q1": ASKED, "a1": SAID, "q2": MORE, "a2": LAST}, [[ASKED, SAID, MORE, LAST]], ()),
        ({"id": 7, "Question 1": ASKED, "Answer 1": SAID}, [[ASKED, SAID]], ()),
        ({"question1": ASKED, "answer1": SAID, "question2": MORE, "answer2": LAST}, [[ASKED, SAID, MORE, LAST]], ()),
        ({"问1": ASKED, "答1": SAID, "问2": "", "答2": ""}, [[ASKED, SAID]], ()),
        ({"问题一": ASKED, "回答一": SAID, "问题二": MORE, "回答二": LAST}, [[ASKED, SAID, MORE, LAST]], ()),
        ({"q_0": ASKED, "a_0": SAID, "q_1": MORE, "a_1": None}, [[ASKED, SAID]], ("q_1",)),
        ({"Q": ASKED, "A": SAID}, [[ASKED, SAID]], ()),
        ({"questions": [[ASKED, WORDING]], "answers": [SAID]}, [[ASKED, SAID]], ("questions",)),
        ({"questions": [ASKED, WORDING], "answers": [SAID], "id": 1}, [[ASKED, SAID]], ("questions",)),
        ({"questions": [[ASKED]], "answers": [SAID, "江边"]}, [[ASKED, SAID]], ("answers",)),
        ({"questions": [[ASKED], [MORE]], "answers": [SAID, LAST], "id": 1}, [[ASKED, SAID], [MORE, LAST]], ()),
        ({"role": "悟空", "question": ASKED, "generated": [SAID]}, [[ASKED, SAID]], ("role",)),
        ({"instruction": ASKED, "generated": [SAID, "不知。"]}, [[ASKED, SAID]], ("generated",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_questions_are_read_with_their_answers(
    tmp_path: Path, row: Any, said: list[list[str]], unread: tuple[str, ...]
) -> None:
    assert read(tmp_path, row, row) == [(texts, unread) for texts in said] * 2


def test_a_role_is_told_to_the_model_if_the_recipe_says_so(tmp_path: Path) -> None:
    row = {"role": "你是悟空。", "question": ASKED, "generated": [SAID]}
    assert read(tmp_path, row, fields={"system": "role"}) == [(["你是悟空。", ASKED, SAID], ())]


def test_a_question_in_the_middle_without_an_answer_drops_its_row(tmp_path: Path) -> None:
    whole = {"q1": ASKED, "a1": SAID, "q2": MORE, "a2": LAST}
    ((texts, _), (drop, _)) = read(tmp_path, whole, {**whole, "a1": None})
    assert texts == [ASKED, SAID, MORE, LAST] and isinstance(drop, Drop) and drop.reason == "no_answer"


@pytest.mark.parametrize(
    "row",
    [
        {"question1": ASKED, "question2": WORDING, "is_duplicate": 1},
        {"question": ASKED, "answer1": SAID, "answer2": LAST},
        {"q1": ASKED, "a1": SAID, "q3": MORE, "a3": LAST},
        {"instruction": ASKED, "output": SAID, "q1": MORE, "a1": LAST},
        {"story": "桥志。", "questions": [ASKED, MORE], "answers": [SAID, LAST]},
        {"questions": [ASKED, MORE, WORDING], "answers": [SAID, LAST]},
        {"questions": [{"text": ASKED}], "answers": [SAID]},
        {"text": "桥志。", "questions": [ASKED, MORE], "answers": [SAID, LAST]},
        {"text": "桥志。", "q1": ASKED, "a1": SAID},
        {"question": ASKED, "answer": SAID},
        {"q1": None, "a1": ""},
        {"question": ASKED, "answer": SAID, "generated": [LAST]},
    ],
    ids=" ".join,
)
def test_other_rows_are_left_as_they_are(row: dict[str, Any]) -> None:
    assert unfold_questions(row) == [(row, ())]
