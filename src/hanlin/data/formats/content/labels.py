"""Labels that say whether an answer is good: the fields that hold them, and the values that are one.

A labeled answer is read with its label (`unpaired_preferences`) or not at all: else bad answers would be learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABEL_FIELDS = (
    *("label", "kto_tag", "good", "is_good", "desirable", "is_desirable", "liked", "accepted", "is_accepted"),
    *("thumbs_up", "upvoted", "feedback", "user_feedback", "is_safe", "标签", "评价", "是否采纳", "是否喜欢"),
)
_OUTCOME_FIELDS = frozenset(("resolved", "solved", "success", "is_success", "successful", "passed", "win", "finished"))
"""Fields of a row that say whether what an agent tried came off."""
_OPINIONS = frozenset(("feedback", "user_feedback"))
"""Fields that hold an opinion, never a class of the text."""
_LABEL_NAMES = frozenset(LABEL_FIELDS)
_VERDICT_FIELDS = frozenset(("is_correct", "correct", "answer_correct", "is_answer_correct", "是否正确", "回答正确"))
"""Fields of a row that say whether its answer is right."""
_VERDICTS = dict.fromkeys(["true", "是", "对", "正确"], True) | dict.fromkeys(["false", "否", "错", "错误"], False)
_GOOD = (
    "true 1 +1 1.0 👍 yes y good chosen accept accepted like liked desirable up thumbs_up correct "
    "好 是 对 赞 喜欢 采纳 好评"
)
_BAD = (
    "false 0 0.0 -1 -1.0 👎 no n bad rejected reject dislike disliked undesirable down thumbs_down incorrect wrong "
    "坏 差 否 错 踩 不喜欢 不采纳 差评 不好"
)
_VALUES = dict.fromkeys(_GOOD.split(), True) | dict.fromkeys(_BAD.split(), False)
_ANSWER_FIELDS = (
    *("messages", "conversations", "conversation", "completion", "output", "response", "answer", "reply"),
    *("回答", "回复"),
)


def read_label(value: Any) -> bool | None:
    """Read a label: true, 1, "yes", 好 and the like are good, false, 0, -1, "no", 坏 bad; None for anything else."""
    if isinstance(value, bool):
        return value
    return _VALUES.get(str(value).strip().lower()) if isinstance(value, int | float | str) else None


def _read_opinion(value: Any) -> bool | None:
    named = {"positive": True, "negative": False, "正面": True, "负面": False}
    return named.get(value.strip().lower(), read_label(value)) if isinstance(value, str) else read_label(value)


def find_label(row: Any) -> tuple[str, bool] | None:
    """Find the field of a row that holds a label, and whether it says good.

    A label that is the answer itself, as in sets for classification, says nothing about it.
    """
    if isinstance(row, dict):
        for name in LABEL_FIELDS:
            if name in row:
                good = _read_opinion(row[name]) if name in _OPINIONS else read_label(row[name])
                if good is not None and not _is_answer(row, row[name]):
                    return name, good
    return None


def find_verdicts(row: Mapping[str, Any]) -> dict[str, bool]:
    """Find the fields that say whether a row's answer is right: with booleans, or their names in a table.

    Other values are answers or the numbers of choices, and so are texts in a field `correct`.
    """
    if _VERDICT_FIELDS.isdisjoint(row):
        return {}
    verdicts = {}
    for name in filter(_VERDICT_FIELDS.__contains__, row):
        value = row[name]
        if isinstance(value, str) and name != "correct":
            value = _VERDICTS.get(value.strip().lower())
        if isinstance(value, bool):
            verdicts[name] = value
    return verdicts


def find_wrong_verdict(row: Mapping[str, Any]) -> str | None:
    """Find the field of a row that says that its answer is wrong.

    Sets of sampled answers keep the wrong ones beside the right ones, for a filter that is easily forgotten.
    """
    return next((name for name, is_true in find_verdicts(row).items() if not is_true), None)


def find_failures(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the fields of a row that say that its agent failed: whether its steps are wrong for that is not said."""
    if _OUTCOME_FIELDS.isdisjoint(row):
        return ()
    return tuple(name for name in row if name in _OUTCOME_FIELDS and _is_false(row[name]))


def _is_false(value: Any) -> bool:
    return value is False or (isinstance(value, str) and _VERDICTS.get(value.strip().lower()) is False)


def _is_answer(row: Mapping[str, Any], label: Any) -> bool:
    text = str(label).strip()
    return any(isinstance(row.get(name), str) and row[name].strip() == text for name in _ANSWER_FIELDS)


def is_labeled_answer(row: Any) -> bool:
    """Whether a row is one answer with a label, as for KTO."""
    if not isinstance(row, dict) or _LABEL_NAMES.isdisjoint(row):
        return False
    if "chosen" in row or "rejected" in row:
        return False
    return any(name in row for name in _ANSWER_FIELDS) and find_label(row) is not None
