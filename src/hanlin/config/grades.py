"""Ratings as data holds them: numbers (4, "4.5", "95%", "8/10", "★★★") and grades ("B+", "良", "excellent", "yes")."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(
    r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:[%％分星]|/\s*\d+\.?\d*|out of \d+|stars?|points?)?", re.I
)
_STARS = re.compile(r"(★{1,10})☆{0,10}|(⭐{1,10})")
_LETTERS = {
    f"{letter}{sign}": 5 - index + shift
    for index, letter in enumerate("abcdef")
    for sign, shift in (("+", 0.3), ("", 0.0), ("-", -0.3))
}
_WORDS = (
    (
        "excellent perfect",
        "good",
        "average fair acceptable okay",
        "poor bad",
        "terrible awful unacceptable",
    ),
    ("优秀 优", "良好 良", "中等 一般 中", "及格 较差", "不及格 差 很差"),
)
_WORD_RANKS = {word: 5.0 - index for words in _WORDS for index, group in enumerate(words) for word in group.split()} | {
    "very good": 4.5,
    "very poor": 1.0,
    "very bad": 1.0,
    "好": 4.0,
}
_SCALES: tuple[tuple[str, dict[str, float]], ...] = (
    ("letters", _LETTERS),
    ("words", _WORD_RANKS),
    ("levels", {"high": 3.0, "高": 3.0, "medium": 2.0, "moderate": 2.0, "中": 2.0, "low": 1.0, "低": 1.0}),
    ("heavenly stems", {"甲": 4.0, "乙": 3.0, "丙": 2.0, "丁": 1.0}),
    ("verdicts", {"yes": 1.0, "no": 0.0, "pass": 1.0, "fail": 0.0, "通过": 1.0, "不通过": 0.0}),
)
_MAX_CHARS = 40


@dataclass(frozen=True, slots=True)
class Grade:
    """A rating.

    Attributes:
        scale: What it is comparable with; empty for numbers.
        rank: The number, or the rank of the grade on its scale, higher is better.
    """

    scale: str
    rank: float


def read_grade(value: Any, scale: str = "") -> Grade | None:
    """Read a number or a grade; None for anything else, and for truth values, NaN and infinity.

    Of "8/10" and "4 out of 5" the first number is read: all ratings of a field have one scale.

    Args:
        value: Any value of data.
        scale: The scale that a word of several is read on: 中 is between 高 and 低, and between 良 and 差.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value)
    if not isinstance(value, str) or len(value) > _MAX_CHARS:
        return None
    text = value.strip().lower()
    if (number := _NUMBER.fullmatch(text)) is not None:
        return _finite(number[1])
    if (stars := _STARS.fullmatch(text)) is not None:
        return Grade("", float(len(stars[1] or stars[2])))
    found = {name: ranks[text] for name, ranks in _SCALES if text in ranks}
    name = scale if scale in found else next(iter(found), "")
    return Grade(name, found[name]) if found else None


def _finite(value: int | float | str) -> Grade | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return Grade("", number) if math.isfinite(number) else None
