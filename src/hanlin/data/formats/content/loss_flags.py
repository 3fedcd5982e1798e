"""Fields of a turn that say whether it is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import read_number
from hanlin.data.formats.content.calls import parse_data
from hanlin.data.formats.content.roles import ROLE_NAMES, find_role_name
from hanlin.data.ledger import Drop

LOSS_FIELDS = (
    *("loss_weight", "weight", "loss", "train", "training", "trainable", "train_on", "learn", "loss_scale"),
    *("output_with_loss", "with_loss", "supervised", "train_on_turn", "compute_loss", "calculate_loss", "loss_mask"),
    *("is_train", "is_trainable", "has_loss", "need_loss", "计算损失", "是否训练", "是否学习", "参与训练"),
)
"""Fields that are true or 1 for a turn that is learned."""
MASK_FIELDS = (
    *("masked", "mask", "loss_mask_out", "ignore_loss", "is_masked", "no_loss", "ignore", "ignored", "no_train"),
    *("不训练", "不计算损失"),
)
"""Fields that are true for a turn that is not learned."""

_DETAIL_FIELDS = ("train_detail", "training_detail", "train_details")
"""Fields of a turn that list which of its characters are learned, as for Axolotl."""

_FIELDS = frozenset((*LOSS_FIELDS, *MASK_FIELDS, *_DETAIL_FIELDS))
_LIST_FIELDS = (
    *("loss_mask", "loss_masks", "train_mask", "turn_mask", "turn_loss_mask", "loss_weights", "train_on_turns"),
)
"""Fields of a row that list a flag for each of its turns or answers."""
_ROW_FIELDS = frozenset((*LOSS_FIELDS, *_LIST_FIELDS, "sample_weight"))
"""Fields of a row of which false or 0 means that nothing of it is learned; any other number is a figure for `meta`."""
_FIGURES = frozenset(("loss", "learn", "train", "training"))
"""Those of which any number is a figure, 0 too: only false is a flag."""
_ROW_MASKS = frozenset(MASK_FIELDS)
_LIST_NAMES = frozenset(_LIST_FIELDS)
_ROW_FLAGS = _ROW_FIELDS | _ROW_MASKS
_TEXT_VALUES = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "是": 1.0, "否": 0.0}


def read_loss_flag(turn: Mapping[str, Any]) -> bool | Drop | None:
    """Read whether a turn is learned; None if it does not say.

    A weight other than 0 and 1 is a Drop: training has no weights for turns, and to learn such a turn whole, or not at
    all, would be something else; so is a list of the characters that are learned. If fields contradict each other, the
    turn is not learned.
    """
    if _FIELDS.isdisjoint(turn):
        return None
    for name in _DETAIL_FIELDS:
        if turn.get(name):
            return Drop("loss_weight", f"{name}: {turn[name]!s}"[:80])
    flags = set()
    for names, learned in ((LOSS_FIELDS, True), (MASK_FIELDS, False)):
        for name in names:
            value = _read_flag(turn[name]) if name in turn else None
            if value is None:
                continue
            if value not in (0.0, 1.0):
                return Drop("loss_weight", f"{name}: {turn[name]!s}"[:80])
            flags.add(bool(value) is learned)
    return None if not flags else flags == {True}


def spread_flags(row: Mapping[str, Any], turns: Sequence[Any]) -> tuple[str, list[Any]] | Drop:
    """Give each turn its flag from a list of the row, such as `loss_mask: [0, 1, 0, 1]`.

    Args:
        row: A row.
        turns: Its turns.

    Returns:
        The field of the list, empty without any, and the turns with their flags; a Drop if there are neither as many
        flags as turns, with or without the system text, nor as many as answers, since it is unknown whose they are.
    """
    field, flags = _find_list(row)
    if not field:
        return "", list(turns)
    indices = _find_flagged([_find_role(turn) for turn in turns], len(flags))
    if indices is None:
        return Drop("other_loss_mask", f"{field}: {len(flags)} flags, {len(turns)} turns")
    if any(flag is not None and _read_flag(flag) is None for flag in flags):
        return Drop("loss_weight", f"{field}: {flags!s}"[:80])
    flagged = list(turns)
    for index, flag in zip(indices, flags, strict=True):
        turn = turns[index]
        name = "loss_mask" if isinstance(turn, dict) and "loss_mask" not in turn else "loss"
        flagged[index] = {**turn, name: flag} if isinstance(turn, dict) and flag is not None else turn
    return field, flagged


def _find_role(turn: Any) -> str:
    return ROLE_NAMES.get(find_role_name(turn), "") if isinstance(turn, dict) else ""


def _find_flagged(roles: Sequence[str], count: int) -> Sequence[int] | None:
    """The indices of the turns that so many flags are of: all, those after the system text, or the answers."""
    turns = [index for index, role in enumerate(roles) if role != "system"]
    answers = [index for index, role in enumerate(roles) if role == "assistant"]
    return next((found for found in (range(len(roles)), turns, answers) if len(found) == count), None)


def flag_answers(row: Mapping[str, Any], messages: Sequence[Message]) -> tuple[str, tuple[Message, ...], bool] | Drop:
    """Give the answers of a question and its history their flags from a list of the row.

    The list has a flag for each turn, with or without the system text, or for each answer.

    Args:
        row: A row without a list of turns, such as {instruction, output, history, loss_mask}.
        messages: Its turns.

    Returns:
        The field of the list, empty without any, the turns with their flags, and whether a turn that is no answer is
        flagged to be learned, which nothing obeys; a Drop as in `spread_flags`.
    """
    field, flags = _find_list(row)
    if not field:
        return "", tuple(messages), False
    roles = [message.role for message in messages]
    indices = _find_flagged(roles, len(flags))
    if indices is None:
        turn_count = len(roles) - roles.count("system")
        return Drop("other_loss_mask", f"{field}: {len(flags)} flags, {turn_count} turns")
    flagged = list(messages)
    is_question_flagged = False
    for index, flag in zip(indices, flags, strict=True):
        number = _read_flag(flag)
        if flag is None:
            continue
        if number not in (0.0, 1.0):
            return Drop("loss_weight", f"{field}: {flags!s}"[:80])
        if messages[index].role == "assistant":
            is_learned = bool(number) and messages[index].train is not False
            flagged[index] = replace(messages[index], train=is_learned)
        else:
            is_question_flagged = is_question_flagged or bool(number)
    return field, tuple(flagged), is_question_flagged


def _find_list(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The first list of flags in a row; empty without any."""
    if _LIST_NAMES.isdisjoint(row):
        return "", []
    return next(((name, flags) for name in _LIST_FIELDS if (flags := _read_list(row.get(name)))), ("", []))


def _read_list(value: Any) -> list[Any]:
    """A list of flags, which a table holds as text; empty for anything else."""
    if isinstance(value, str):
        text = value.strip()
        value = parse_data(text) if text.startswith("[") else text.split(",") if "," in text else None
    return value if isinstance(value, list) else []


def says_not_to_learn(row: Mapping[str, Any]) -> bool:
    """Whether a row says of itself that it is not learned: `train: false`, `weight: 0`, `masked: true` and the like."""
    if _ROW_FLAGS.isdisjoint(row):
        return False
    for name in row.keys() & _ROW_FIELDS:
        is_false = row[name] is False or str(row[name]).strip().lower() in ("false", "no", "否")
        if is_false or (name not in _FIGURES and _read_flag(row[name]) == 0):
            return True
    return any(_read_flag(row[name]) == 1 for name in row.keys() & _ROW_MASKS)


def find_unread_flags(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the flags of a row that are words which say neither yes nor no: `loss: "maybe"`."""
    if _ROW_FLAGS.isdisjoint(row):
        return ()
    return tuple(name for name, value in row.items() if name in _ROW_FLAGS and _is_no_flag(value))


def _is_no_flag(value: Any) -> bool:
    """Whether a value is a word that is neither yes nor no, or a list that holds one."""
    if isinstance(value, list):
        return any(map(_is_no_flag, value))
    return isinstance(value, str) and bool(value.strip()) and _read_flag(value) is None and not _read_list(value)


def _read_flag(value: Any) -> float | None:
    text = value.strip().lower() if isinstance(value, str) else None
    return _TEXT_VALUES[text] if text in _TEXT_VALUES else read_number(value)
