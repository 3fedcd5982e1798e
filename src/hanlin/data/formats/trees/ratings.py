"""Ratings of answers: numbers and grades beside a conversation that say how good it is, and what they rule out.

    {"instruction": "…", "output": "…", "rating": 1}        rating 1
    {"instruction": "…", "output": "…", "grade": "B+"}      grade B+, of letters
    {"messages": […], "labels": {"quality": 0.2}}           labels.quality 0.2
    {"messages": […], "labels": {"name": ["quality"], "value": [0.2]}}      the same
    {"prompt": "…", "response": "…", "scores": [4, 5]}      scores 4.5, the mean of several people
    {"prompt": "…", "response": "…", "annotations": [{"score": 4}, {"score": 5}]}      annotations.score 4.5
    {"prompt": "…", "completions": [{"response": "…", "overall_score": 7}, …]}   completions.overall_score, the best one
    {"messages": [{"role": "assistant", "content": "…", "score": 2}]}       turn.score, each answer by its own

No scale is known: 1 is the best of school grades and the worst of five stars. So no row is dropped for a rating unless
`min_rating` says so, and a rating that nothing was asked about counts as an unread field. A row below `min_rating` is
dropped; of a conversation whose turns are rated, an answer below it is read and not learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from hanlin.config.grades import Grade, read_grade
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import show_name
from hanlin.data.ledger import Drop

RATING_FIELDS = frozenset((
    *("rating", "ratings", "score", "scores", "quality", "quality_score", "stars", "star_rating", "reward"),
    *("reward_score", "overall_score", "overall", "helpfulness", "correctness", "coherence", "preference_score"),
    *("judge_score", "gpt_score", "gpt4_score", "llm_score", "human_score", "human_rating", "average_rating"),
    *("average_score", "avg_score", "mean_score", "final_score", "answer_score", "response_quality", "grade"),
    *("votes", "upvotes", "pm_score", "input_quality", "instruct_reward", "deepseek_grade", "gemini_grade"),
    *("评分", "得分", "分数", "打分", "质量", "星级", "质量分"),
))  # fmt: skip
_GROUPS = frozenset(("labels", "ratings", "scores", "annotations", "quality", "meta", "metadata"))
"""Fields that may hold several ratings, as an object or as a list of objects."""
ANSWER_LISTS = ("completions", "answers", "responses", "candidates")
"""Fields with several answers to one question, of which the best is chosen."""
SCORED_LISTS = ("outputs", "output", "generations", "generated_responses")
"""Fields with several answers if a list of their ratings is beside them."""
ANSWER_SCORES = ("overall_score", "score", "rating", "reward", "pm_score")
"""Ratings of an answer in such a list."""
TURN = "turn."
_TURN_LISTS = ("messages", "conversations", "conversation", "dialogue", "turns", "chosen", "chosen_messages")
_VALUES = ("value", "rating", "score")
_Least = Mapping[str, float | str]


def find_ratings(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the fields of a row that hold a rating, `labels.quality` for one in an object."""
    if RATING_FIELDS.isdisjoint(row) and _GROUPS.isdisjoint(row):
        return ()
    found = [name for name in row if name in RATING_FIELDS and _read(row[name]) is not None]
    for group in _GROUPS.intersection(row):
        names = RATING_FIELDS.intersection(name for item in _list_objects(row[group]) for name in item)
        found += [f"{group}.{name}" for name in names if _get_rating(row, f"{group}.{name}") is not None]
    return tuple(sorted(found))


def is_rating(name: str) -> bool:
    """Whether `name` is one that `find_ratings` gives to a field, or that of a turn."""
    group, dot, field = name.partition(".")
    return field in RATING_FIELDS and group in {*_GROUPS, TURN.rstrip(".")} if dot else name in RATING_FIELDS


def judge_ratings(row: Any, min_rating: _Least) -> Drop | None:
    """Say why a row is dropped for its ratings; None if it stays, as one does that has none.

    Args:
        row: The row as the file has it.
        min_rating: The lowest rating that is kept, by field.
    """
    for name, least in min_rating.items():
        value = _get_rating(row, name)
        if name.startswith(TURN) or value in (None, "", []):
            continue
        limit = _read_least(least)
        grade = _read(value, limit.scale, best=_is_answer_score(row, name))
        if grade is None or grade.scale != limit.scale:
            return Drop("broken_rating", f"{name}: {str(value)[:40]}")
        if grade.rank < limit.rank:
            return Drop("low_rating", f"{name} {str(value)[:40]}, least {least if grade.scale else _show(least)}")
    return None


def mark_low_turns(row: Any, min_rating: _Least) -> Any:
    """Mark the turns of a row that are rated too low, by a field that `min_rating` names as `turn.score`, as unlearned.

    Args:
        row: The row, its turns decoded.
        min_rating: The lowest rating that is kept, by field.

    Returns:
        The row; a Drop if the answer that a pair would choose is rated too low.
    """
    least_of = {name.removeprefix(TURN): least for name, least in min_rating.items() if name.startswith(TURN)}
    if not least_of or not isinstance(row, dict):
        return row
    for name in _TURN_LISTS:
        turns = row.get(name)
        if not isinstance(turns, list | dict):
            continue
        marked = [_mark(turn, least_of) for turn in (turns if isinstance(turns, list) else [turns])]
        low = next((turn for turn in marked if isinstance(turn, Drop)), None)
        if low is not None and (low.reason == "broken_rating" or "rejected" in row or "rejected_messages" in row):
            return low
        if low is not None:
            pairs = zip(turns, marked, strict=True)
            return {**row, name: [{**turn, "train": False} if isinstance(new, Drop) else turn for turn, new in pairs]}
    return row


def _mark(turn: Any, least_of: _Least) -> Any:
    return (judge_ratings(turn, least_of) if isinstance(turn, dict) else None) or turn


def check_ratings(rows: Sequence[Any], min_rating: _Least, where: Any) -> None:
    """Raise UserError if none of the first rows of a file has a field that `min_rating` names, or on another scale."""
    for name, least in min_rating.items():
        values = [value for row in rows for value in _list_values(row, name)]
        if rows and not values:
            known = sorted({found for row in rows if isinstance(row, dict) for found in _list_known(row)})
            hint = tr("fields with ratings here: {names}", names=join_list(known)) if known else None
            near = did_you_mean(name, known) if known else None
            what = tr("no row has the field {name} that `min_rating` names", name=show_name(name))
            raise UserError(what, where, near or hint)
        values = [value for value in values if value not in (None, "", [])]
        scale = _read_least(least).scale
        grades = [_read(value, scale) for value in values]
        if values and not any(grade is not None and grade.scale == scale for grade in grades):
            what = tr(
                "the ratings in {name} are not comparable with {least}: the first is {value}",
                name=show_name(name),
                least=least,
                value=str(values[0])[:40],
            )
            hint = tr("`min_rating` takes a number, or a grade as the rows have them, such as B or good")
            raise UserError(what, where, hint)


def describe_ratings(unread: Mapping[str, int]) -> str | None:
    """Say how rows with low ratings are left out, if there are ratings among the unread fields; else None.

    It proposes no number: 3 would drop every row of a scale from 0 to 1.
    """
    rated = [name for name in unread if is_rating(name)]
    if not rated:
        return None
    name = max(rated, key=lambda name: (unread[name], name))
    return tr(
        "rows are learned whatever their rating; `min_rating: {{{name}: N}}` of a source, or --min-rating {name}=N "
        "(--sources.min-rating in the command of a stage), drops those rated below N",
        name=name,
    )


def _list_known(row: Mapping[str, Any]) -> Iterator[str]:
    """The ratings of a row, of its lists of answers and of its turns."""
    yield from find_ratings(row)
    for name in (*ANSWER_LISTS, *_TURN_LISTS):
        value = row.get(name)
        for item in value if isinstance(value, list) else ():
            for field in item if isinstance(item, dict) else ():
                if name in ANSWER_LISTS and field in ANSWER_SCORES:
                    yield f"{name}.{field}"
                elif name in _TURN_LISTS and field in RATING_FIELDS:
                    yield TURN + field


def _list_values(row: Any, name: str) -> Iterator[Any]:
    """The values of a field of a row, of each turn for `turn.score`."""
    if not name.startswith(TURN):
        value = _get_rating(row, name)
        if value is not None:
            yield value
        return
    for field in _TURN_LISTS if isinstance(row, dict) else ():
        turns = row.get(field)
        for turn in turns if isinstance(turns, list) else [turns]:
            if isinstance(turn, dict) and name.removeprefix(TURN) in turn:
                yield turn[name.removeprefix(TURN)]


def _get_rating(row: Any, name: str) -> Any:
    """The value of a field of a row, `group.name` for one in an object or in a list of them; None if there is none."""
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    group, dot, field = name.partition(".")
    if not dot or (group in ANSWER_LISTS and field not in ANSWER_SCORES):
        return None
    found = [_unwrap(item[field]) for item in _list_objects(row.get(group)) if field in item]
    return found if isinstance(row.get(group), list) and found else next(iter(found), None)


def _is_answer_score(row: Any, name: str) -> bool:
    """Whether the ratings in a field are of several answers, one of which is chosen."""
    if name.partition(".")[0] in ANSWER_LISTS:
        return True
    ratings = row.get(name) if isinstance(row, dict) else None
    return isinstance(ratings, list) and any(
        isinstance(row.get(field), list) and len(row[field]) == len(ratings) for field in (*ANSWER_LISTS, *SCORED_LISTS)
    )


def _list_objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects with ratings that a field holds: one, several, or two lists as Open Assistant has them."""
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict)]
    if not isinstance(value, dict):
        return []
    names, numbers = value.get("name"), value.get("value")
    if isinstance(names, list) and isinstance(numbers, list) and len(names) == len(numbers):
        return [{str(name): number for name, number in zip(names, numbers, strict=True)}]
    return [value]


def _unwrap(value: Any) -> Any:
    """The rating in an object that also says who gave it or why, as in Open Assistant's trees and UltraFeedback."""
    if not isinstance(value, dict):
        return value
    lower = {str(name).lower(): item for name, item in value.items()}
    return next((lower[name] for name in _VALUES if name in lower), value)


def _read(value: Any, scale: str = "", best: bool = False) -> Grade | None:
    """Read a rating; of a list of them the mean, or the best, if they are on one scale."""
    if not isinstance(value, list):
        return read_grade(_unwrap(value), scale)
    grades = [grade for item in value if (grade := read_grade(_unwrap(item), scale)) is not None]
    if not grades or len(grades) < len(value) or len({grade.scale for grade in grades}) > 1:
        return None
    ranks = [grade.rank for grade in grades]
    return Grade(grades[0].scale, max(ranks) if best else fmean(ranks))


def _read_least(least: float | str) -> Grade:
    grade = read_grade(least)
    if grade is None:  # settings and options are checked
        raise AssertionError(least)
    return grade


def _show(least: float | str) -> str:
    return f"{_read_least(least).rank:g}"
