"""Answers to one question with a verdict on them, written as a chosen and a rejected answer.

    {"response_0": "甲", "response_1": "乙", "better_response_id": 1}        chosen 乙, rejected 甲
    {"completions": [{"response": "甲", "overall_score": 8}, ...]}           chosen the best, rejected each worse one
    {"responses": ["甲", "乙"], "scores": [8, 3]}                             the same

Two answers without a known verdict are left as they are. If the verdict is a tie, both get the same score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.data.formats.base import is_number, read_number
from hanlin.data.formats.content.calls import parse_data
from hanlin.data.formats.questions import ANSWER_FIELDS
from hanlin.data.formats.trees.ratings import ANSWER_LISTS, ANSWER_SCORES, SCORED_LISTS

_PAIRS = (
    *(("response_0", "response_1"), ("response_a", "response_b"), ("response_1", "response_2")),
    *(("response1", "response2"), ("answer_0", "answer_1"), ("answer_a", "answer_b"), ("output_a", "output_b")),
    *(("answer_1", "answer_2"), ("answer1", "answer2"), ("output_1", "output_2"), ("output1", "output2")),
    *(
        ("completion_1", "completion_2"),
        ("回答1", "回答2"),
        ("回答一", "回答二"),
        ("回复1", "回复2"),
        ("回答A", "回答B"),
    ),
    *(("completion_a", "completion_b"), ("human_ref_A", "human_ref_B"), ("conversation_a", "conversation_b")),
)
_INDICES = ("better_response_id", "choice")
_STRENGTHS = ("preference_strength", "overall_preference")
"""Fields that are below 0 if the first answer is better, above 0 if the second is."""
_SCORES = (
    *(("score_0", "score_1"), ("score_A", "score_B"), ("score_a", "score_b"), ("score_1", "score_2")),
    *(("score1", "score2"), ("rating_1", "rating_2"), ("评分1", "评分2"), ("得分1", "得分2")),
)
_LISTS = (*ANSWER_LISTS, *SCORED_LISTS)
_SCORE_LISTS = (
    "scores",
    "ratings",
    "rewards",
    "overall_scores",
    "score",
    "rating",
    "reward",
    "ranks",
    "ranking",
    "rank",
)
"""Lists of ratings beside a list of answers, in its order; the least rank is the best."""
_TEXTS = ("response", "answer", "text", "completion", "output", "answer_text")
_ANSWER_READ = frozenset((*_TEXTS, *ANSWER_SCORES, "rank"))
VERDICT_FIELDS = frozenset((*(name for pair in _PAIRS for name in pair), *_LISTS))
Row = dict[str, Any]


def unfold_judged(row: Any) -> Any:
    """Write two or more answers with a verdict as `chosen` and `rejected`; other rows are returned as they are."""
    if not isinstance(row, dict) or VERDICT_FIELDS.isdisjoint(row) or "chosen" in row or "rejected" in row:
        return row
    for name in _LISTS:
        if isinstance(row.get(name), list) and (unfolded := _unfold_list(row, name)) is not None:
            return unfolded
    pair = next((pair for pair in _PAIRS if all(isinstance(row.get(name), str | list) for name in pair)), None)
    if pair is None:
        return row
    found = _find_verdict(row, counts_from_one=pair[0].endswith(("1", "一")))
    if found is None:
        return row
    used, verdict = found
    first, second = _decode_answers(row, *pair)
    rest = {name: item for name, item in row.items() if name not in (*pair, *used)}
    if pair[0] == "human_ref_A" and isinstance(rest.get("history"), str):
        rest["prompt"] = rest.pop("history")
    question = rest.get("question")
    if isinstance(question, dict) and isinstance(question.get("full_text"), str):
        rest["question"] = question["full_text"]
    if isinstance(first, list) and isinstance(second, list) and "conversation_a" not in pair:
        rest.pop("prompt", None)
    chosen, rejected = (second, first) if verdict > 0 else (first, second)
    scores = sorted(float(row[name]) for name in used) if used in _SCORES else [0.0, 0.0] if verdict == 0 else []
    named = {"score_chosen": scores[1], "score_rejected": scores[0]} if scores else {}
    return {**rest, **named, "chosen": chosen, "rejected": rejected}


def find_undecided(row: Any) -> tuple[str, ...]:
    """Find the fields of several answers to one question of which no verdict is known; empty for any other row."""
    if not isinstance(row, dict) or "chosen" in row or "rejected" in row:
        return ()
    if any(isinstance(row.get(name), str) and row[name] for name in ANSWER_FIELDS):
        return ()
    pairs = (*_PAIRS, ("reply_1", "reply_2"))
    pair = next((pair for pair in pairs if all(isinstance(row.get(name), str | list) for name in pair)), ())
    return pair or next(((name,) for name in _LISTS if _is_answers(name, row.get(name))), ())


def _is_answers(name: str, value: Any) -> bool:
    """Whether a list holds several answers: texts, but not those that are all right, or objects with a text."""
    if not isinstance(value, list) or len(value) < 2:
        return False
    if all(isinstance(answer, str) for answer in value):
        return name not in ("answers", "output", "outputs")
    return all(isinstance(answer, dict) and any(isinstance(answer.get(n), str) for n in _TEXTS) for answer in value)


def _find_verdict(row: Row, counts_from_one: bool) -> tuple[tuple[str, ...], float] | None:
    """The fields of the verdict, and below 0 if the first answer is better, above 0 if the second is, 0 for a tie.

    An index says nothing beside answers that are counted from 1: nobody knows from where it counts.
    """
    for name in () if counts_from_one else _INDICES:
        if row.get(name) in (0, 1, "0", "1"):
            return (name,), 1.0 if int(row[name]) else -1.0
    for name in _STRENGTHS:
        if is_number(row.get(name)):
            return (name,), float(row[name])
    if isinstance(row.get("winner"), str):
        winner = row["winner"].strip().lower()
        if winner.startswith(("tie", "both")):
            return ("winner",), 0.0
        side = winner.rpartition("_")[2]
        sides = ("1", "2") if counts_from_one and "_" in winner else ("a", "b")
        return (("winner",), -1.0 if side == sides[0] else 1.0) if side in sides else None
    if all(is_number(row.get(name)) for name in ("winner_model_a", "winner_model_b")):
        used = ("winner_model_a", "winner_model_b", "winner_tie")
        return used, float(row["winner_model_b"]) - float(row["winner_model_a"])
    if "human_ref_A" in row and row.get("labels") in (0, 1):
        return ("labels",), -1.0 if row["labels"] else 1.0
    for pair in _SCORES:
        if all(is_number(row.get(name)) for name in pair):
            return pair, float(row[pair[1]]) - float(row[pair[0]])
    return None


def _decode_answers(row: Row, *pair: str) -> tuple[Any, Any]:
    """The two answers; lists of questions and of answers in turn, as JSON text, become the turns of conversations."""
    questions, *answers = (_decode_texts(row.get(name)) for name in ("prompt", *pair))
    if questions is None or any(texts is None or len(texts) != len(questions) for texts in answers):
        return row[pair[0]], row[pair[1]]
    first, second = (
        [
            turn
            for question, answer in zip(questions, texts or (), strict=True)
            for turn in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        ]
        for texts in answers
    )
    return first, second


def _decode_texts(cell: Any) -> list[str] | None:
    texts = parse_data(cell) if isinstance(cell, str) and cell[:1] == "[" else cell
    return texts if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) else None


def _unfold_list(row: Row, name: str) -> Row | None:
    """A row with a list of answers that have scores or ranks; None if they are anything else.

    What else the answers hold, and those as good as the best, stay in the list.
    """
    row = _join_scores(row, name)
    ranked: list[tuple[float, str]] = []
    for answer in row[name]:
        found = _read_scored(answer) if isinstance(answer, dict) else None
        if found is None:
            return None
        ranked.append(found)
    if len(ranked) < 2:
        return None
    ranked.sort(key=lambda item: -item[0])
    (best, chosen), *others = ranked
    rejected = [text for score, text in others if score < best]
    left = [{key: item for key, item in answer.items() if key not in _ANSWER_READ} for answer in row[name]]
    left = [answer for answer in left if answer] + [{"text": text} for score, text in others if score == best]
    rest = {**{field: item for field, item in row.items() if field != name}, **({name: left} if left else {})}
    if not rejected:
        return {**rest, "score_chosen": best, "score_rejected": best, "chosen": chosen, "rejected": others[0][1]}
    return {**rest, "chosen": chosen, "rejected": rejected}


def _join_scores(row: Row, name: str) -> Row:
    """A row whose answers are texts with their ratings in a list beside them, as answers with a score each."""
    answers = row[name]
    for field in _SCORE_LISTS:
        scores = row.get(field)
        numbers = list(map(_read_score, scores)) if isinstance(scores, list) else []
        if numbers and len(numbers) == len(answers) and None not in numbers:
            key = "rank" if field.startswith("rank") else "score"
            joined = [{"text": text, key: score} for text, score in zip(answers, numbers, strict=True)]
            return {**{other: item for other, item in row.items() if other != field}, name: joined}
    return row


def _read_score(value: Any) -> float | None:
    """A score or a rank, which tables and models write as text; None for anything else, also true and false."""
    return None if isinstance(value, bool) else read_number(value)


def _read_scored(answer: Mapping[str, Any]) -> tuple[float, str] | None:
    text = next((answer[name] for name in _TEXTS if isinstance(answer.get(name), str)), None)
    scores = (_read_score(answer.get(name)) for name in ANSWER_SCORES)
    score = next((found for found in scores if found is not None), None)
    if score is None and (rank := _read_score(answer.get("rank"))) is not None:
        score = -rank
    return None if text is None or score is None else (score, text)
