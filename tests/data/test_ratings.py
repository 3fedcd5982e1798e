"""A rating of an answer is named, never obeyed unasked; `min_rating` drops the rows that are rated lower."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.config.settings.data import Conversations, Corpus, Preferences
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.data.formats.trees.ratings import find_ratings, judge_ratings
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]


def chat(number: int, **fields: Any) -> dict[str, Any]:
    return {"instruction": f"第{number}座桥在哪里？", "output": f"第{number}座桥在江边。", **fields}


RATED = [chat(1, rating=1), chat(2, rating="5"), chat(3), chat(4, rating=3)]
OPEN_ASSISTANT = {"labels": {"name": ["spam", "quality"], "value": [0.0, 0.2]}}


def test_a_rating_that_nothing_was_asked_about_is_an_unread_field_and_goes_to_meta(
    put: Put, run: Callable[..., Made]
) -> None:
    made = run(Conversations, put("a.jsonl", RATED), validation_fraction=0)
    assert made.ledger["unread_fields"] == {"rating": 3} and made.ledger["rows_kept"] == 4
    assert [row.get("meta", {}).get("rating") for row in made.kept] == [1, "5", None, 3]


def test_min_rating_drops_rows_rated_lower_and_keeps_those_without_a_rating(put: Put, run: Callable[..., Made]) -> None:
    made = run(Conversations, put("a.jsonl", RATED), source={"min_rating": {"rating": 3}}, validation_fraction=0)
    assert [row["source"] for row in made.kept] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]
    assert made.ledger["dropped"] == {"low_rating": 1} and made.ledger["unread_fields"] == {}
    (dropped,) = made.dropped
    assert (dropped["reason"], dropped["row"]) == ("low_rating", RATED[0])


def test_a_rating_in_an_object_is_named_by_its_path() -> None:
    assert find_ratings(OPEN_ASSISTANT) == ("labels.quality",)
    assert judge_ratings(OPEN_ASSISTANT, {"labels.quality": 0.5}) is not None
    assert judge_ratings({"labels": {"quality": {"value": 0.7, "count": 3}}}, {"labels.quality": 0.5}) is None


def test_a_rating_in_the_meta_of_a_row_and_one_in_percent_are_ratings() -> None:
    assert find_ratings({"meta": {"score": 1}, "score": "95%"}) == ("meta.score", "score")
    assert judge_ratings({"score": "95%"}, {"score": 90}) is None
    assert judge_ratings({"meta": {"score": 1}}, {"meta.score": 3}) is not None


def test_ratings_of_pairs_and_of_several_kinds_are_named(put: Put) -> None:
    pair = {"prompt": "桥在哪里？", "chosen": "在江边。", "rejected": "不知道。", "score": -3}
    helpsteer = {"prompt": "桥在哪里？", "response": "在江边。", "helpfulness": 0, "correctness": 1, "verbosity": 2}
    (first,), (second,) = (list(inspect([str(put(f"{n}.jsonl", [row]))])) for n, row in enumerate((pair, helpsteer)))
    assert first["unread_fields"] == {"score": 1}
    assert second["unread_fields"] == {"correctness": 1, "helpfulness": 1}


def test_other_words_and_truth_values_are_no_ratings_and_documents_keep_theirs_in_meta(
    put: Put, run: Callable[..., Made]
) -> None:
    assert find_ratings({"quality": "新", "rating": True, "score": None, "votes": "nan"}) == ()
    made = run(
        Corpus,
        put("a.jsonl", [{"text": "江南的春天来得很早，河边的柳树发了芽。", "score": 0.1}]),
        validation_fraction=0,
    )
    assert made.ledger["unread_fields"] == {} and made.kept[0]["meta"] == {"score": 0.1}


def test_a_rating_that_is_no_number_drops_the_row_with_its_own_reason() -> None:
    drop = judge_ratings(chat(1, quality="low"), {"quality": 3})
    assert drop is not None and (drop.reason, drop.detail) == ("broken_rating", "quality: low")
    assert judge_ratings(chat(1, quality=""), {"quality": 3}) is None


def test_a_field_that_no_row_has_is_refused_with_the_nearest_one(put: Put, run: Callable[..., Made]) -> None:
    with pytest.raises(UserError, match="no row has the field 'ratng'") as error:
        run(Conversations, put("a.jsonl", RATED), source={"min_rating": {"ratng": 3}})
    assert error.value.hint is not None and "rating" in error.value.hint


def test_inspect_and_convert_name_ratings_and_the_way_to_use_them(put: Put, tmp_path: Path) -> None:
    path, runner = str(put("a.jsonl", RATED)), CliRunner()
    shown = runner.invoke(app, ["data", "inspect", path]).output
    assert "unread fields: rating 3" in shown and "--min-rating rating=N" in shown and "--sources.min-rating" in shown
    out = tmp_path / "out.jsonl"
    done = runner.invoke(
        app, ["data", "convert", path, "--to", "messages", "--out", str(out), "--min-rating", "rating=3"]
    )
    assert "low_rating" in done.output and len(out.read_text(encoding="utf-8").splitlines()) == 3
    for option in ("rating", "rating=", "=3", "rating=nan", "rating=1e999"):
        refused = runner.invoke(app, ["data", "inspect", path, "--min-rating", option]).exception
        assert isinstance(refused, UserError) and refused.hint == "write --min-rating rating=3"


# --- grades, lists of ratings, and ratings of turns ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "least", "kept"),
    [
        (["A", "b+", "B-", "D"], "B", ["A", "b+"]),
        (["优", "良", "差", "不及格"], "良", ["优", "良"]),
        (["excellent", "Good", "average", "very poor"], "good", ["excellent", "Good"]),
        (["高", "中", "低", "low"], "高", ["高"]),
        (["8/10", "6/10", "9/10", "3 / 10"], 8, ["8/10", "9/10"]),
        (["★★★★☆", "★★☆☆☆", "★★★★★", "★"], 4, ["★★★★☆", "★★★★★"]),
        ([[4, 5], [1, 2], ["5", "5"], [3]], 4, [[4, 5], ["5", "5"]]),
    ],
)
def test_grades_and_lists_of_ratings_are_compared_on_their_own_scale(
    put: Put, run: Callable[..., Made], values: list[Any], least: Any, kept: list[Any]
) -> None:
    rows = [chat(number, quality=value) for number, value in enumerate(values)]
    assert all(find_ratings(row) == ("quality",) for row in rows)
    source = {"min_rating": {"quality": least}}
    made = run(Conversations, put("a.jsonl", rows), source=source, validation_fraction=0, dedup="none", max_dropped=0.9)
    assert [rows[int(row["source"].split(":")[1]) - 1]["quality"] for row in made.kept] == kept
    assert set(made.ledger["dropped"]) <= {"low_rating", "broken_rating"}


def test_a_number_asked_of_grades_is_refused_before_a_row_is_dropped(put: Put, run: Callable[..., Made]) -> None:
    graded = [chat(number, grade=grade) for number, grade in enumerate("ABCD")]
    with pytest.raises(UserError, match="the ratings in 'grade' are not comparable with 3") as error:
        run(Conversations, put("a.jsonl", graded), source={"min_rating": {"grade": 3}})
    assert error.value.hint is not None and "such as B" in error.value.hint
    with pytest.raises(ValueError, match="'soso' is no rating"):
        Source(path="x", min_rating={"grade": "soso"})
    assert Source(path="x", min_rating={"a": True, "b": "4", "c": "b+"}).min_rating == {"a": "yes", "b": 4.0, "c": "b+"}


def test_what_several_people_gave_counts_by_its_mean() -> None:
    row = chat(1, annotations=[{"annotator": 1, "score": 2}, {"annotator": 2, "score": 5}, {"comment": "无"}])
    assert find_ratings(row) == ("annotations.score",)
    assert judge_ratings(row, {"annotations.score": 3}) is None
    assert judge_ratings(row, {"annotations.score": 4}) is not None
    rated = {"annotations": {"helpfulness": {"Rating": "2", "Rationale": "短"}}}
    assert judge_ratings(rated, {"annotations.helpfulness": 3}) is not None


ANSWERS = [("甲座桥。", 9), ("乙座桥。", 4)]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"completions": [{"response": text, "overall_score": n} for text, n in ANSWERS]}, "completions.overall_score"),
        ({"responses": [text for text, _ in ANSWERS], "scores": [n for _, n in ANSWERS]}, "scores"),
    ],
)
def test_of_a_list_of_answers_the_best_one_is_chosen_and_counts(
    put: Put, run: Callable[..., Made], row: dict[str, Any], name: str
) -> None:
    path = put("a.jsonl", [{"instruction": "哪座桥最老？", **row}])
    made = run(Preferences, path, source={"min_rating": {name: 8}}, validation_fraction=0)
    assert [(pair["chosen"]["text"], pair["rejected"]["text"]) for pair in made.kept] == [("甲座桥。", "乙座桥。")]
    with pytest.raises(UserError, match="its rating is below"):
        run(Preferences, path, source={"min_rating": {name: 9.5}})


def test_an_answer_among_others_that_is_rated_low_is_read_and_not_learned(put: Put, run: Callable[..., Made]) -> None:
    turns = [
        {"role": "user", "content": "桥在哪里？"},
        {"role": "assistant", "content": "在江边。", "score": 5},
        {"role": "user", "content": "多长？"},
        {"role": "assistant", "content": "不知道。", "score": 1},
    ]
    path = put("a.jsonl", [{"messages": turns}, {"messages": json.dumps(turns, ensure_ascii=False)}])
    made = run(Conversations, path, source={"min_rating": {"turn.score": 3}}, validation_fraction=0, dedup="none")
    for row in made.kept:
        assert [turn.get("train") for turn in row["messages"]] == [None, None, None, False]
    assert len(made.kept) == 2 and made.ledger["unread_fields"] == {}
    assert run(Conversations, path, validation_fraction=0).ledger["unread_fields"] == {"turn.score": 2}


def test_a_pair_whose_chosen_turn_is_rated_low_is_dropped(put: Put, run: Callable[..., Made]) -> None:
    pair = {
        "prompt": "桥在哪里？",
        "chosen": {"content": "在江边。", "score": 2},
        "rejected": {"content": "无。", "score": 1},
    }
    better = {**pair, "chosen": {"content": "在江边。", "score": 4}}
    source = {"min_rating": {"turn.score": 3}}
    made = run(Preferences, put("a.jsonl", [pair, better]), source=source, validation_fraction=0, max_dropped=0.5)
    (dropped,) = made.dropped
    assert (dropped["reason"], dropped["row"]) == ("low_rating", pair)
