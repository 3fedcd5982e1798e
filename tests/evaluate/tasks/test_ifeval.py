"""IFEval: an answer follows an instruction where the authors' program says so (`bench/ifeval.py` compares both)."""

from __future__ import annotations

from typing import Any

import pytest

from hanlin.evaluate.tasks.ifeval import count_sentences, follows


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("What a day!!! It costs", 2),
        ("1. First, boil the water. 2. Second.", 4),
        ('She asked, "Why not?" He laughed! ok', 3),
        ("Ph.D. students read A LOT (really). He is.", 2),
        ("The U.S. The U.S. economy", 2),
        ("I went to Washington, D.C. He did not.", 2),
        ("Fruits, e.g. apples, etc. are good.", 3),
        ("No. He is.", 2),
        ("Wait... What? Ok.", 2),
        ("**Bold.** Then.", 2),
        ("J. Smith came. Mr. Lee vs. Ms. B.", 2),
        ("- item one\n- item two\n\nTitle", 1),
    ],
)
def test_sentences_are_counted_as_the_authors_model_counts_them(text: str, count: int) -> None:
    assert count_sentences(text) == count


@pytest.mark.parametrize(
    ("name", "given", "answer", "expected"),
    [
        ("change_case:english_lowercase", {}, "c'est une petite histoire sur mes amis et leur travail.", False),
        ("change_case:english_lowercase", {}, "this is the story of my friends.", True),
        ("change_case:english_capital", {}, "ЭТО ИСТОРИЯ.", False),
        (
            "change_case:capital_word_frequency",
            {"capital_relation": "at least", "capital_frequency": 3},
            "D.C. I",
            False,
        ),
        (
            "change_case:capital_word_frequency",
            {"capital_relation": "at least", "capital_frequency": 3},
            "IT'S X2",
            True,
        ),
        ("language:response_language", {"language": "hi"}, "यह एक छोटी कहानी है।", True),
        ("language:response_language", {"language": "de"}, "This is the story of you.", False),
        ("detectable_format:json_format", {}, "```JSON\n[1, 2]\n```", True),
        ("punctuation:no_comma", {}, "", False),
    ],
)
def test_an_instruction_is_followed_or_not(name: str, given: dict[str, Any], answer: str, expected: bool) -> None:
    assert follows(name, given, "prompt", answer) is expected


def test_a_variant_that_cannot_be_read_takes_nothing_from_the_others() -> None:
    answer = '```json\n{"a": 1}\n```\nI hope this helps!'
    assert not follows("detectable_format:json_format", {}, "", answer)
    assert follows("detectable_format:json_format", {}, "", answer, loose=True)
