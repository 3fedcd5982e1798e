"""Ratings of answers: numbers beside a conversation that say how good it is, and the rows that they rule out.

    {"instruction": "…", "output": "…", "rating": 1}        rating 1
    {"messages": […], "labels": {"quality": 0.2}}           labels.quality 0.2
    {"messages": […], "labels": {"name": ["quality"], "value": [0.2]}}      the same

No scale is known: 1 is the best of school grades and the worst of five stars. So no row is dropped for a rating unless
`min_rating` says so, and a rating that nothing was asked about counts as an unread field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import show_name
from hanlin.data.ledger import Drop

RATING_FIELDS = frozenset((
    *("rating", "ratings", "score", "scores", "quality", "quality_score", "stars", "star_rating", "reward"),
    *("reward_score", "overall_score", "overall", "helpfulness", "correctness", "coherence", "preference_score"),
    *("judge_score", "gpt_score", "gpt4_score", "llm_score", "human_score", "human_rating", "average_rating"),
    *("average_score", "avg_score", "mean_score", "final_score", "answer_score", "response_quality", "grade"),
    *("votes", "upvotes", "pm_score", "评分", "得分", "分数", "打分", "质量", "星级", "质量分"),
))  # fmt: skip
_GROUPS = frozenset(("labels", "ratings", "scores", "annotations", "quality", "meta", "metadata"))
"""Fields that may hold several ratings as an object."""


def find_ratings(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the fields of a row that hold a rating, `labels.quality` for one in an object."""
    if RATING_FIELDS.isdisjoint(row) and _GROUPS.isdisjoint(row):
        return ()
    found = [name for name in row if name in RATING_FIELDS and to_number(row[name]) is not None]
    for group in _GROUPS.intersection(row):
        found += [f"{group}.{name}" for name in _read_group(row[group]) if name in RATING_FIELDS]
    return tuple(sorted(found))


def is_rating(name: str) -> bool:
    """Whether `name` is one that `find_ratings` gives to a field."""
    group, dot, field = name.partition(".")
    return field in RATING_FIELDS and group in _GROUPS if dot else name in RATING_FIELDS


def judge_ratings(row: Any, min_rating: Mapping[str, float]) -> Drop | None:
    """Say why a row is dropped for its ratings; None if it stays, as one does that has none.

    Args:
        row: The row as the file has it.
        min_rating: The lowest rating that is kept, by field.
    """
    for name, least in min_rating.items():
        value = _get_rating(row, name)
        if value in (None, ""):
            continue
        number = to_number(value)
        if number is None:
            return Drop("broken_rating", f"{name}: {str(value)[:40]}")
        if number < least:
            return Drop("low_rating", f"{name} {value}, least {least:g}")
    return None


def check_ratings(rows: Sequence[Any], min_rating: Mapping[str, float], where: Any) -> None:
    """Raise UserError if none of the first rows of a file has a field that `min_rating` names."""
    for name in min_rating:
        if rows and all(_get_rating(row, name) is None for row in rows):
            known = sorted({found for row in rows if isinstance(row, dict) for found in find_ratings(row)})
            hint = tr("fields with ratings here: {names}", names=join_list(known)) if known else None
            near = did_you_mean(name, known) if known else None
            what = tr("no row has the field {name} that `min_rating` names", name=show_name(name))
            raise UserError(what, where, near or hint)


def describe_ratings(unread: Mapping[str, int]) -> str | None:
    """Say how rows with low ratings are left out, if there are ratings among the unread fields; else None.

    It proposes no number: 3 would drop every row of a scale from 0 to 1.
    """
    rated = [name for name in unread if is_rating(name)]
    if not rated:
        return None
    name = max(rated, key=lambda name: (unread[name], name))
    return tr(
        "rows are learned whatever their rating; `min_rating: {{{name}: N}}` of a source, or --min-rating {name}=N, "
        "drops those rated below N",
        name=name,
    )


def _get_rating(row: Any, name: str) -> Any:
    """The value of a field of a row, `group.name` for one in an object; None if there is none."""
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    group, dot, field = name.partition(".")
    return _read_group(row.get(group)).get(field) if dot else None


def _read_group(value: Any) -> Mapping[str, Any]:
    """The ratings that an object holds by name, or in two lists as Open Assistant has them; none for anything else."""
    if not isinstance(value, dict):
        return {}
    names, numbers = value.get("name"), value.get("value")
    if isinstance(names, list) and isinstance(numbers, list) and len(names) == len(numbers):
        return {str(name): number for name, number in zip(names, numbers, strict=True)}
    return {str(name): _unwrap(number) for name, number in value.items()}


def _unwrap(value: Any) -> Any:
    """The number of a rating that is an object with the count of those who gave it, as in Open Assistant's trees."""
    return value["value"] if isinstance(value, dict) and "value" in value else value


def to_number(value: Any) -> float | None:
    """The number that a value is, or is written as in a table (4, 4.5, 95%); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value.rstrip("%％ ") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
