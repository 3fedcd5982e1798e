"""Queries with passages that fit and others that do not, as embedding models and rerankers learn from.

    {"query": "甲", "pos": ["passage"], "neg": ["passage", ...]}

A passage is found, not answered: as preferences they would teach to recite one text rather than another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_QUERIES = frozenset(("query", "anchor", "查询", "检索词"))
"""Fields of what is searched for. A `question` or `prompt` beside two texts may be answered by both."""
_FITTING = ("positive", "pos", "positives", "pos_text", "pos_passage", "positive_passage", "正例", "正样本")
_OTHERS = (
    *("negative", "neg", "negatives", "hard_negative", "hard_negatives", "neg_text", "neg_passage", "negative_passage"),
    *("negative_1", "negative1", "negative_0", "neg_1", "neg1", "负例", "负样本"),
)
_PASSAGES = (
    *(("positive_passages", "negative_passages"), ("positive_ctxs", "negative_ctxs"), ("pos", "neg")),
    *(("positive_ctxs", "hard_negative_ctxs"), ("text_pos", "text_neg"), ("pos_passages", "neg_passages")),
)
"""Names of passages, whatever the query is called."""
_CHAT_FIELDS = frozenset(("messages", "conversations", "conversation", "history", "system", "tools", "chosen"))


def is_retrieval(row: Mapping[str, Any]) -> bool:
    """Whether a row is a query with passages: by names that nobody gives to answers, and without turns of a chat."""
    if not _CHAT_FIELDS.isdisjoint(row):
        return False
    for fitting, other in _PASSAGES:
        if isinstance(row.get(fitting), list | str) and isinstance(row.get(other), list | str):
            return not _is_turns(row[fitting])
    if _QUERIES.isdisjoint(row):
        return False
    name = next((name for name in _FITTING if isinstance(row.get(name), list | str)), "")
    return bool(name) and ("anchor" in row or any(other in row for other in _OTHERS)) and not _is_turns(row[name])


def _is_turns(value: Any) -> bool:
    """Whether a value is an answer with its role."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]
