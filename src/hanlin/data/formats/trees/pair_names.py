"""Names of two answers that say only together which one is better: `preferred` and `other`, `winner` and `loser`."""

from __future__ import annotations

from typing import Any

from hanlin.data.formats.base import is_filled
from hanlin.data.formats.trees.retrieval import is_retrieval

_BETTER_WORSE = tuple(
    tuple(pair.split())
    for pair in (
        *("preferred other", "preferred unpreferred", "preferred nonpreferred", "preferred non_preferred"),
        *("preferred not_preferred", "preferred less_preferred", "better worse", "best worst", "winner loser"),
        *("winning losing", "win lose", "accept reject", "chosen reject", "chosen other", "favored disfavored"),
        *("superior inferior", "selected unselected", "y_w y_l"),
    )
)
_BESIDE_ANSWER = (
    *_BETTER_WORSE,
    *(("preferred", "dispreferred"), ("preferred", "rejected"), ("good", "bad"), ("positive", "negative"), ("w", "l")),
    *(("accepted", "rejected"), ("chosen", "rejected"), ("selected", "rejected")),
)
"""Those, and words that say so in longer names: `good_response` and `bad_response`."""
_OF_ANSWERS = ("{}_response", "{}_answer", "{}_completion", "{}_output", "{}_text", "response_{}", "answer_{}")
_NAMED_PAIRS = (
    *_BETTER_WORSE,
    *((pattern.format(better), pattern.format(worse)) for pattern in _OF_ANSWERS for better, worse in _BESIDE_ANSWER),
)
_WORSE_NAMES = frozenset(worse for _, worse in _NAMED_PAIRS)
"""Names of a worse answer that say so beside that of the better one alone."""


def name_pair(row: dict[str, Any]) -> dict[str, Any]:
    """Write two answers whose names together say which one is better as `chosen` and `rejected`."""
    if _WORSE_NAMES.isdisjoint(row) or is_filled(row.get("rejected")) or is_retrieval(row):
        return row
    for better, worse in _NAMED_PAIRS:
        if better in row and worse in row and type(row[better]) is type(row[worse]) in (str, list, dict):
            if not is_filled(row[better]) or not is_filled(row[worse]):
                continue
            names = {better: "chosen", worse: "rejected"}
            return {names.get(name, name): item for name, item in row.items() if name in names or name != "chosen"}
    return row
