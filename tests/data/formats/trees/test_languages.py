"""A row that holds its texts in several languages is read in one that the user can see and choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.config.settings.data import Conversations, Corpus, Preferences
from hanlin.config.settings.sources import LANGUAGES, Source
from hanlin.core.errors import UserError
from hanlin.data.formats.trees import languages
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
QUESTION, ANSWER, ASKED, ANSWERED = "桥在哪里？", "在江边。", "Where is the bridge?", "By the river."
COLUMNS = {"instruction_zh": QUESTION, "output_zh": ANSWER, "instruction_en": ASKED, "output_en": ANSWERED}


def said(made: Made) -> list[list[str]]:
    return [[turn["text"] for turn in row["messages"]] for row in made.kept]


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        (COLUMNS, ["instruction_en", "output_en"]),
        (
            {"instruction": ASKED, "output": ANSWERED, "instruction_zh": QUESTION, "input_zh": "", "output_zh": ANSWER},
            ["instruction", "output"],
        ),
        (
            {"en_instruction": ASKED, "instruction": QUESTION, "en_output": ANSWERED, "output": ANSWER},
            ["en_instruction", "en_output"],
        ),
        (
            {"questionEn": ASKED, "questionZh": QUESTION, "answerEn": ANSWERED, "answerZh": ANSWER},
            ["answerEn", "questionEn"],
        ),
        (
            {"英文问题": ASKED, "中文问题": QUESTION, "英文回答": ANSWERED, "中文回答": ANSWER},
            ["英文回答", "英文问题"],
        ),
        (
            {"telugu_instruction": ASKED, "telugu_output": ANSWERED, "instruction": QUESTION, "output": ANSWER},
            ["telugu_instruction", "telugu_output"],
        ),
        (
            {"question": {"en": ASKED, "zh": QUESTION}, "answer": {"en": ANSWERED, "zh": ANSWER}},
            ["answer.en", "question.en"],
        ),
        (
            {"en": {"prompt": ASKED, "response": ANSWERED}, "zh": {"prompt": QUESTION, "response": ANSWER}},
            ["en.prompt", "en.response"],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": ASKED, "content_zh": QUESTION},
                    {"role": "assistant", "content": ANSWERED, "content_zh": ANSWER},
                ]
            },
            ["turn.content"],
        ),
    ],
)
def test_chinese_is_read_by_default_and_the_other_columns_are_named(
    put: Put, run: Run, row: dict[str, Any], unread: list[str]
) -> None:
    path = put("a.jsonl", [row, row])  # a single object may be rows by their ids
    made = run(Conversations, path, validation_fraction=0)
    assert said(made) == [[QUESTION, ANSWER]] and made.ledger["unread_fields"] == dict.fromkeys(unread, 2)
    assert list(made.metrics["read_languages"].values()) == [2] and not made.kept[0].get("meta")
    both = run(Conversations, path, source={"read_language": "all"}, validation_fraction=0)
    assert sorted(said(both)) == sorted([[QUESTION, ANSWER], [ASKED, ANSWERED]])
    assert both.ledger["rows_in"] == 4 and both.ledger["unread_fields"] == {}


def test_another_language_is_read_if_it_is_asked_for(put: Put, run: Run) -> None:
    made = run(Conversations, put("a.jsonl", [COLUMNS]), source={"read_language": "en"}, validation_fraction=0)
    assert said(made) == [[ASKED, ANSWERED]]
    assert made.ledger["read_languages"] == {"en": 1}
    assert made.ledger["unread_fields"] == {"instruction_zh": 1, "output_zh": 1}


def test_a_row_that_lacks_a_text_in_a_language_is_not_read_half_in_it(put: Put, run: Run) -> None:
    rows = [
        {**COLUMNS, "output_zh": ""},
        {
            "instruction": ASKED,
            "input": "The old one.",
            "output": ANSWERED,
            "instruction_zh": QUESTION,
            "output_zh": ANSWER,
        }
        | {"input_zh": ""},
    ]
    made = run(Conversations, put("a.jsonl", rows), validation_fraction=0)
    assert said(made) == [[ASKED, ANSWERED], [f"{ASKED}\nThe old one.", ANSWERED]]
    assert made.ledger["read_languages"] == {"en": 1, "plain": 1}


def test_reasoning_in_one_language_alone_is_named_with_it(put: Put, run: Run) -> None:
    made = run(Conversations, put("a.jsonl", [{**COLUMNS, "reasoning_en": "A bridge spans a river."}]))
    assert said(made) == [[QUESTION, ANSWER]] and made.ledger["unread_fields"]["reasoning_en"] == 1


def test_an_answer_in_two_languages_to_one_question_stays_a_pair(put: Put, run: Run) -> None:
    path = put("a.jsonl", [{"question": QUESTION, "answer_zh": ANSWER, "answer_en": ANSWERED}])
    (pair,) = run(Preferences, path, validation_fraction=0).kept
    assert (pair["chosen"]["text"], pair["rejected"]["text"]) == (ANSWER, ANSWERED)


def test_what_is_beside_a_plain_answer_is_named(put: Put, run: Run) -> None:
    made = run(Conversations, put("a.jsonl", [{"question": ASKED, "answer": ANSWERED, "answer_zh": ANSWER}]))
    assert said(made) == [[ASKED, ANSWERED]] and made.ledger["unread_fields"] == {"answer_zh": 1}


def test_pairs_and_documents_are_read_in_one_language_too(put: Put, run: Run) -> None:
    pair = {
        f"{name}_{code}": f"{text}{code}" for code in ("en", "zh") for name, text in zip(
            ("prompt", "chosen", "rejected"), ("桥在哪里", "在江边", "没有桥"), strict=True)
    }  # fmt: skip
    (kept,) = run(Preferences, put("p.jsonl", [pair]), validation_fraction=0).kept
    assert (kept["chosen"]["text"], kept["rejected"]["text"]) == ("在江边zh", "没有桥zh")
    text = "江南的春天来得很早，河边的柳树发了芽。"
    made = run(Corpus, put("d.jsonl", [{"content_en": ASKED, "content_zh": text}]), validation_fraction=0)
    assert made.texts == [text] and made.ledger["unread_fields"] == {"content_en": 1}


def test_columns_of_one_language_alone_and_other_endings_are_no_choice(put: Put, run: Run) -> None:
    made = run(Conversations, put("a.jsonl", [{"question_zh": QUESTION, "answer_zh": ANSWER, "output_id": 7}]))
    assert said(made) == [[QUESTION, ANSWER]] and "read_languages" not in made.ledger
    assert made.kept[0]["meta"] == {"output_id": 7}
    for name in ("input_ids", "text_id", "answer_it", "output_length", "content_type", "en", "zh"):
        assert languages.split_column(name) == ("", "")


def test_fields_that_the_recipe_names_are_read_as_it_says(put: Put, run: Run) -> None:
    fields = {"prompt": "instruction_en", "response": "output_en"}
    made = run(Conversations, put("a.jsonl", [COLUMNS]), source={"fields": fields}, validation_fraction=0)
    assert said(made) == [[ASKED, ANSWERED]]


def test_a_dropped_row_is_kept_as_the_file_has_it(put: Put, run: Run) -> None:
    row = {**COLUMNS, "output_en": "", "output_zh": " "}
    made = run(Conversations, put("a.jsonl", [row, COLUMNS]), validation_fraction=0, max_dropped=0.5)
    assert [dropped["row"] for dropped in made.dropped] == [row]


def test_inspect_and_convert_say_which_language_was_read_and_how_to_read_another(put: Put, tmp_path: Path) -> None:
    path, runner = str(put("a.jsonl", [COLUMNS])), CliRunner()
    shown = runner.invoke(app, ["data", "inspect", path]).output
    assert "unread fields: instruction_en 1, output_en 1" in shown and "read in: zh 1" in shown
    out = tmp_path / "out.jsonl"
    done = runner.invoke(app, ["data", "convert", path, "--to", "messages", "--out", str(out), "--read-language", "en"])
    assert "read in: en 1" in done.output and ANSWERED in out.read_text(encoding="utf-8")
    refused = runner.invoke(app, ["data", "inspect", path, "--read-language", "zhh"]).exception
    assert isinstance(refused, UserError) and "zhh" in str(refused)


def test_the_setting_knows_the_languages_that_columns_are_known_by() -> None:
    assert set(LANGUAGES) == set(languages.LANGUAGES)
    with pytest.raises(ValueError, match="no language 'xx' here"):
        Source(path="x", read_language="xx")


@pytest.mark.parametrize(("read", "other"), [("plain", "en"), ("zh", "en"), ("en", "zh")])
def test_the_language_that_the_hint_proposes_is_another_one_than_was_read(read: str, other: str) -> None:
    shown = languages.describe_languages({read: 2})
    assert f"read in: {read} 2" in shown
    assert f"--read-language {other}, reads another" in shown
