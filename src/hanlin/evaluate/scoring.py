"""Whether an answer is correct, and how certain a fraction is."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054


def normalize_answer(text: str) -> str:
    """Normalize an answer for comparison: NFKC (full-width digits become ASCII), white space at the ends removed."""
    return unicodedata.normalize("NFKC", text).strip()


def is_correct(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer equals one of the accepted ones, both normalized."""
    normalized = normalize_answer(answer)
    return any(normalized == normalize_answer(text) for text in accepted)


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def wilson_interval(hits: float, total: int) -> Interval:
    """The 95 % score interval of a fraction (Wilson 1927): valid also near 0 and 1 and for few trials.

    Args:
        hits: How many trials hit; a mean over several samples of each trial need not be whole.
        total: The trials that are independent of each other.
    """
    if total == 0:
        return Interval(0.0, 1.0)
    share, spread = hits / total, Z_95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == total else middle + half)


def standard_error(hits: int, total: int) -> float:
    """Standard error of the mean of `total` zeros and ones, `hits` of them ones: the sample's standard deviation over
    √total.
    """
    if total < 2:
        return 0.0
    share = hits / total
    return math.sqrt(share * (1 - share) / (total - 1))


def fraction(hits: Sequence[bool]) -> float | None:
    """The fraction that is true; None for an empty sequence."""
    return sum(hits) / len(hits) if hits else None
