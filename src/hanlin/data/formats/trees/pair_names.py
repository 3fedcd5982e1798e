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
        *(
            "更好的回答 更差的回答",
            "更好的回复 更差的回复",
            "较好的回答 较差的回答",
            "优选回答 劣选回答",
            "正样本 负样本",
        ),
        *("优选 劣选", "首选回答 次选回答", "好的 坏的", "胜 负", "采纳的回答 拒绝的回答", "接受的回答 拒绝的回答"),
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

WORSE_ANSWERS = tuple(
    name
    for worse in ("bad", "negative", "neg", "worse", "dispreferred", "rejected", "losing", "inferior", "poor", "reject")
    for answer in ("response", "answer", "completion", "output", "reply", "messages")
    for name in (f"{worse}_{answer}", f"{answer}_{worse}")
)
"""Names of a worse answer, beside an answer whose name says nothing."""
_WORSE_ANSWERS = frozenset(WORSE_ANSWERS)


def may_name_worse(row: dict[str, Any]) -> bool:
    """Whether a row has a field with one of `WORSE_ANSWERS` for its name."""
    return not _WORSE_ANSWERS.isdisjoint(row)


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
