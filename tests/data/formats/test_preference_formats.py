"""Every format of preference pairs gives the same prompt and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.preferences import PREFERENCE_FORMATS, ParsedPreference
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

Put = Callable[[str, Any], Path]
USER = {"role": "user", "content": "你好"}
GOOD, BAD = {"role": "assistant", "content": "你好呀"}, {"role": "assistant", "content": "Hello"}


def read(path: Path, **source: Any) -> tuple[str, list[ParsedPreference | Drop]]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        reader = open_records(file, input_file, PREFERENCE_FORMATS, {})
        return reader.format.partition(": ")[2], [found.item for found in reader.rows]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("paired_messages", {"prompt": "你好", "chosen": [USER, GOOD], "rejected": [USER, BAD]}),
        ("paired_messages", {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}),
        ("paired_messages", {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}),
        ("paired_messages", {"prompt": "你好", "chosen": [GOOD], "rejected": [BAD]}),
        (
            "paired_sharegpt",
            {
                "conversations": [{"from": "human", "value": "你好"}],
                "chosen": {"from": "gpt", "value": "你好呀"},
                "rejected": {"from": "gpt", "value": "Hello"},
            },
        ),
        ("paired_sharegpt", {"prompt": [USER], "chosen": "你好呀", "rejected": "Hello"}),
        (
            "paired_sharegpt",
            {
                "id": "a#1",
                "prompt": [{"role": "user", "text": "你好"}],
                "chosen": {"role": "assistant", "text": "你好呀"},
                "rejected": {"role": "assistant", "text": "Hello"},
            },
        ),
        ("paired_alpaca", {"instruction": "你好", "input": "", "chosen": "你好呀", "rejected": "Hello"}),
        ("paired_alpaca", {"instruction": "你好", "input": "", "output": ["你好呀", "Hello"]}),
        ("language_pairs", {"question": "你好", "answer_zh": "你好呀", "answer_en": "Hello"}),
        ("language_pairs", {"prompt": "你好", "english": "Hello", "chinese": "你好呀"}),
        ("paired_answers", {"prompt": "你好", "chosen": "你好呀", "rejected": "Hello"}),
        ("paired_answers", {"question": "你好", "response_j": "你好呀", "response_k": "Hello"}),
        (
            "paired_answers",
            {"chosen": "\n\nHuman: 你好\n\nAssistant: 你好呀", "rejected": "\n\nHuman: 你好\n\nAssistant: Hello"},
        ),
    ],
)
def test_every_format_gives_the_same_preference(put: Put, name: str, row: dict[str, Any]) -> None:
    found, (pair,) = read(put("a.jsonl", [row]))
    assert found == name and isinstance(pair, ParsedPreference)
    assert pair.prompt == (Message("user", "你好"),)
    assert (pair.chosen.text, pair.rejected.text) == ("你好呀", "Hello")


def test_scores_are_kept(put: Put) -> None:
    row = {"prompt": "问", "chosen": "好", "rejected": "坏", "score_chosen": 8.5, "score_rejected": 7}
    _, (pair,) = read(put("a.jsonl", [row]))
    assert isinstance(pair, ParsedPreference) and pair.scores == (8.5, 7.0)


def test_fields_name_the_answers(put: Put) -> None:
    fields = {"prompt": "题", "chosen": "中", "rejected": "英"}
    _, (pair,) = read(put("a.jsonl", [{"题": "你好", "中": "你好呀", "英": "Hello"}]), fields=fields)
    assert isinstance(pair, ParsedPreference) and pair.chosen.text == "你好呀"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": [USER, GOOD], "rejected": [{"role": "user", "content": "别的"}, BAD]}, "different_prompts"),
        ({"chosen": [USER], "rejected": [USER]}, "no_answer"),
        ({"conversations": [{"from": "gpt", "value": "你好"}], "chosen": "甲", "rejected": "乙"}, "no_question"),
        ({"conversations": [{"from": "human", "value": "你好"}], "chosen": USER, "rejected": BAD}, "unknown_role"),
        ({"instruction": "", "chosen": "甲", "rejected": "乙"}, "no_question"),
    ],
)
def test_a_row_without_two_answers_is_dropped_with_a_reason(put: Put, row: dict[str, Any], reason: str) -> None:
    _, (pair,) = read(put("a.jsonl", [row]))
    assert isinstance(pair, Drop) and pair.reason == reason


def test_unpaired_answers_are_refused_in_one_sentence(put: Put) -> None:
    with pytest.raises(UserError, match="single answers labeled good or bad"):
        read(put("a.jsonl", [{"messages": [USER, GOOD], "label": True}]))
