"""Ranked replies in a tree of messages, as OASST publishes it: each question with its best answer and another one.

question ── answer (rank 1)        a pair: question, answer (rank 0) chosen, answer (rank 1) rejected
     └───── answer (rank 0) ── question ── answer (rank 0)     a pair for each question with ranked answers
                                      └─── answer (rank 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hanlin.data.formats.base import is_number
from hanlin.data.formats.content.roles import ROLE_NAMES, find_role_name
from hanlin.data.formats.exports import TREE_FIELDS, list_replies

Turn = Mapping[str, Any]


class RankedPair(NamedTuple):
    """Two answers to the last of some turns.

    Attributes:
        before: The turns from the root to the question.
        best: The answer of the best rank.
        other: An answer of a worse rank.
    """

    before: list[dict[str, Any]]
    best: dict[str, Any]
    other: dict[str, Any]


def find_ranked_pairs(root: Turn) -> Iterator[RankedPair]:
    """Find the pairs of a tree: for each question the answer of the lowest rank with each of a higher rank."""
    waiting: list[tuple[Turn, ...]] = [(root,)]
    while waiting:
        path = waiting.pop()
        replies = list_replies(path[-1])
        waiting += [(*path, reply) for reply in reversed(replies)]
        ranked = sorted(filter(_is_ranked_answer, replies), key=_get_rank)
        for other in ranked[1:]:
            if _get_rank(other) > _get_rank(ranked[0]):
                yield RankedPair(list(map(_strip_node, path)), _strip_node(ranked[0]), _strip_node(other))


def _is_ranked_answer(reply: Turn) -> bool:
    return is_number(reply.get("rank")) and ROLE_NAMES.get(find_role_name(reply)) == "assistant"


def _get_rank(reply: Turn) -> float:
    return float(reply["rank"])


def _strip_node(node: Turn) -> dict[str, Any]:
    return {name: item for name, item in node.items() if name not in TREE_FIELDS}
