"""Answers with a verdict become a chosen and a rejected one; without a known verdict nobody guesses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Preferences
from hanlin.data.formats.trees.judged import unfold_judged
from stage_runs import Made

Put = Callable[[str, Any], Path]
ASK = {"prompt": "几点开门？"}
CHAT = [{"role": "user", "content": "几点开门？"}]


@pytest.mark.parametrize(
    "row",
    [
        {**ASK, "response_0": "好", "response_1": "坏", "better_response_id": 0},
        {**ASK, "response_1": "坏", "response_2": "好", "preference_strength": 2},
        {**ASK, "response_1": "坏", "response_2": "好", "winner": "response_2"},
        {**ASK, "回答1": "坏", "回答2": "好", "评分1": 2, "评分2": 5},
        {"context": CHAT, "response1": "好", "response2": "坏", "overall_preference": -1},
        {**ASK, "answer_a": "坏", "answer_b": "好", "winner": "model_b"},
        {**ASK, "response_a": "好", "response_b": "坏", "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
        {"prompt": '["几点开门？"]', "response_a": '["好"]', "response_b": '["坏"]', "winner": "a"},
        {"history": "几点开门？", "human_ref_A": "坏", "human_ref_B": "好", "labels": 0},
        {"question": {"full_text": "几点开门？"}, "answer_0": "坏", "answer_1": "好", "score_0": -1.0, "score_1": 1.0},
        {**ASK, "completions": [{"response": "坏", "overall_score": 2}, {"response": "好", "overall_score": 9.5}]},
        {
            "prompt": "\n\nHuman: 几点开门？\n\nAssistant: ",
            "answers": [{"answer": "好", "rank": 1}, {"answer": "坏", "rank": 2}],
        },
        {
            "conversation_a": [*CHAT, {"role": "assistant", "content": "好"}],
            "conversation_b": [*CHAT, {"role": "assistant", "content": "坏"}],
            "winner": "model_a",
        },
    ],
)  # fmt: skip
def test_the_answer_that_the_verdict_prefers_is_chosen(put: Put, run: Callable[..., Made], row: dict[str, Any]) -> None:
    (pair,) = run(Preferences, put("pairs.jsonl", [row]), validation_fraction=0).rows("preferences.jsonl")
    assert [turn["text"] for turn in (*pair["prompt"], pair["chosen"], pair["rejected"])] == ["几点开门？", "好", "坏"]


@pytest.mark.parametrize(
    "verdict",
    [{"winner": "tie"}, {"winner": "tie (bothbad)"}, {"overall_preference": 0}, {"score_a": 3, "score_b": 3.0}],
)
def test_a_tie_is_dropped_by_name(put: Put, run: Callable[..., Made], verdict: dict[str, Any]) -> None:
    rows = [
        {**ASK, "response_a": "好", "response_b": "坏", **verdict},
        {**ASK, "response_a": "早上好", "response_b": "坏", "winner": "a"},
    ]
    made = run(Preferences, put("pairs.jsonl", rows), validation_fraction=0, max_dropped=0.9)
    assert made.ledger["dropped"] == {"tie": 1}


def test_each_worse_answer_of_a_list_makes_a_pair_and_the_rest_is_named(put: Put, run: Callable[..., Made]) -> None:
    answers = [
        {"text": text, "score": score, "model": "m"} for text, score in (("中", 5), ("好", 9), ("坏", 1), ("佳", 9))
    ]
    made = run(Preferences, put("pairs.jsonl", [{**ASK, "completions": answers}]), validation_fraction=0)
    pairs = [(row["chosen"]["text"], row["rejected"]["text"]) for row in made.rows("preferences.jsonl")]
    assert pairs == [("好", "中"), ("好", "坏")]
    assert made.ledger["files"][0]["unread_fields"] == {"completions": 2}


@pytest.mark.parametrize(
    "row",
    [
        {**ASK, "response_a": "甲", "response_b": "乙"},
        {**ASK, "response_a": "甲", "response_b": "乙", "winner": "model_c"},
        {**ASK, "response_a": "甲", "response_b": "乙", "score_a": float("nan"), "score_b": 1},
        {**ASK, "response_a": "甲", "response_b": 5, "winner": "a"},
        {**ASK, "completions": ["甲", "乙"]},
        {**ASK, "completions": [{"response": "甲", "overall_score": 3}]},
        {**ASK, "answers": {"text": ["甲"]}},
        {**ASK, "chosen": "甲", "rejected": "乙", "response_a": "丙", "response_b": "丁", "winner": "a"},
    ],
)
def test_answers_without_a_known_verdict_are_left_as_they_are(row: dict[str, Any]) -> None:
    assert unfold_judged(row) is row
