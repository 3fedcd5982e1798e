"""Labels that say whether an answer is good: the fields that hold them, and the values that are one.

A labeled answer is read with its label (`unpaired_preferences`) or not at all: else bad answers would be learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.data.formats.content.roles import ROLE_NAMES, find_role_name

LABEL_FIELDS = (
    *("label", "kto_tag", "good", "is_good", "desirable", "is_desirable", "liked", "accepted", "is_accepted"),
    *("thumbs_up", "upvoted", "feedback", "user_feedback", "is_safe", "标签", "评价", "是否采纳", "是否喜欢"),
    *(
        "chosen",
        "preferred",
        "kto_label",
        "human_label",
        "preference_label",
        "is_chosen",
        "is_preferred",
        "is_helpful",
        "is_positive",
    ),
    *("用户反馈", "反馈", "好坏", "是否好", "是否满意", "是否合格", "是否通过", "点赞"),
)
_OUTCOME_FIELDS = frozenset(("resolved", "solved", "success", "is_success", "successful", "passed", "win", "finished"))
"""Fields of a row that say whether what an agent tried came off."""
_OPINIONS = frozenset((
    *("feedback", "user_feedback", "kto_label", "human_label", "preference_label", "用户反馈", "反馈"),
))  # fmt: skip
"""Fields that hold an opinion, never a class of the text."""
_LABEL_NAMES = frozenset(LABEL_FIELDS)
_ANSWER_NAMES = frozenset(("chosen", "preferred"))
"""Those that are names of an answer too: only true, false and numbers under them are labels."""
_VERDICT_FIELDS = frozenset(("is_correct", "correct", "answer_correct", "is_answer_correct", "是否正确", "回答正确"))
"""Fields of a row that say whether its answer is right."""
_VERDICTS = dict.fromkeys(["true", "是", "对", "正确"], True) | dict.fromkeys(["false", "否", "错", "错误"], False)
_GOOD = (
    "true t 1 +1 1.0 👍 yes y good chosen accept accepted like liked desirable up thumbs_up correct right "
    "pass passed helpful ok approved useful 好 是 对 赞 喜欢 采纳 好评 正确 满意 合格 通过 有用 有帮助 接受 采用 达标"
)
_BAD = (
    "false f 0 0.0 -1 -1.0 👎 no n bad rejected reject dislike disliked undesirable down thumbs_down incorrect wrong "
    "fail failed unhelpful ng disapproved useless "
    "坏 差 否 错 踩 不喜欢 不采纳 差评 不好 错误 不正确 不满意 不合格 不通过 未通过 没用 无用 没帮助 "
    "拒绝 不采用 弃用 驳回 不达标"
)
_VALUES = dict.fromkeys(_GOOD.split(), True) | dict.fromkeys(_BAD.split(), False)
ANSWER_FIELDS = (
    *("messages", "conversations", "conversation", "completion", "output", "response", "answer", "reply"),
    *("回答", "回复", "a", "答", "答案", "target", "generation", "model_output", "model_response", "llm_response"),
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
            if name in row and not (name in _ANSWER_NAMES and isinstance(row[name], str)):
                good = _read_opinion(row[name]) if name in _OPINIONS else read_label(row[name])
                if good is not None and not _is_answer(row, row[name]):
                    return name, good
    return None


def obey_turn_labels(turns: Sequence[Any]) -> list[Any]:
    """Take the answers of a chat that are labeled bad, each in its own turn, out of the loss.

    Labels are those of the answers alone: a field that other turns have too, or that holds other values, is a class of
    what is said, such as an emotion.

    Args:
        turns: The turns of a row.

    Returns:
        The turns without their labels, those labeled bad with `loss: false`.
    """
    named = {name for turn in turns if isinstance(turn, dict) for name in turn.keys() & _LABEL_NAMES}
    for name in named:
        labeled = [turn for turn in turns if isinstance(turn, dict) and turn.get(name) is not None]
        read = _read_opinion if name in _OPINIONS else read_label
        if any(read(turn[name]) is None or ROLE_NAMES.get(find_role_name(turn)) != "assistant" for turn in labeled):
            continue
        turns = [
            turn
            if not isinstance(turn, dict) or name not in turn
            else {key: item for key, item in turn.items() if key != name}
            | ({"loss": False} if read(turn[name]) is False else {})
            for turn in turns
        ]
    return list(turns)


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
    return any(isinstance(row.get(name), str) and row[name].strip() == text for name in ANSWER_FIELDS)


def is_labeled_answer(row: Any) -> bool:
    """Whether a row is one answer with a label, as for KTO."""
    if not isinstance(row, dict) or _LABEL_NAMES.isdisjoint(row):
        return False
    if "rejected" in row or ("chosen" in row and not isinstance(row["chosen"], bool | int)):
        return False
    return any(name in row for name in ANSWER_FIELDS) and find_label(row) is not None
