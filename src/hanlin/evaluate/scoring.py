"""Small measures that are shared: whether an answer is right, and how sure a share is.

Does not generate anything; the language of a text is told by `language`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054


def normalized(text: str) -> str:
    """A text as answers are compared: compatibility forms made equal (NFKC: full-width digits, ...), ends stripped."""
    return unicodedata.normalize("NFKC", text).strip()


def is_right(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer equals one of those that count as right, both normalized."""
    given = normalized(answer)
    return any(given == normalized(text) for text in accepted)


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def wilson(hits: int, total: int) -> Interval:
    """The 95 % score interval of a share (Wilson 1927): honest also near 0 and 1 and for few trials."""
    if total == 0:
        return Interval(0.0, 1.0)
    share, spread = hits / total, Z_95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == total else middle + half)


def standard_error(hits: int, total: int) -> float:
    """Of a mean of `total` zeros and ones, `hits` of them ones: the sample's standard deviation over √total."""
    if total < 2:
        return 0.0
    share = hits / total
    return math.sqrt(share * (1 - share) / (total - 1))


def share(hits: Sequence[bool]) -> float | None:
    """The part that is true; None of nothing."""
    return sum(hits) / len(hits) if hits else None
