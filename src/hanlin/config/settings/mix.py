"""Settings of the stage `mix`: how much of each source is taken, and how often.

Owns no arithmetic: that is `hanlin.data.stages.mix`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import say

_RECORDS = ("documents", "conversations", "preferences", "unpaired_preferences")


class MixSource(Settings):
    """One source of a mix."""

    data: str = ref(*_RECORDS, en="a stage that makes such records", zh="产出此类记录的阶段")
    weight: float = setting(
        1.0, "how many times its natural part it gets; 2: twice as much", "相对其自然份额的倍数；2 为两倍", gt=0
    )
    share: float | None = setting(
        None,
        "a fixed share of the tokens instead, as for replay of English; the other sources divide the rest",
        "固定的词元占比（例如英文回放）；其余来源分剩下的部分",
        gt=0,
        le=1,
    )
    max_repeats: float = setting(4.0, "take no record more often than this", "每条记录最多取这么多次", gt=0)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"data": value} if isinstance(value, str) else value


class Mix(Settings):
    """Mix sources by tokens into one, in a fixed order."""

    sources: tuple[MixSource, ...] = setting(..., "what is mixed", "混合哪些来源", min_length=1)
    records: Literal["documents", "conversations", "preferences", "unpaired_preferences"] = setting(
        "documents", "what the sources hold", "来源中是什么记录"
    )
    tokenizer: str = ref("tokenizer", "model", en="whose tokens are counted", zh="按谁的词元计数")
    tokens: int | None = setting(
        None,
        "tokens in all; none: as many as the sources without a fixed share hold",
        "词元总数；不填：无固定占比的来源共有多少即多少",
        ge=1,
    )
    temperature: float = setting(
        1.0,
        "sizes count with the power 1/temperature: 1 by size, higher more evenly",
        "各来源规模取 1/temperature 次幂：1 按规模，越大越平均",
        gt=0,
    )

    @model_validator(mode="after")
    def _shares(self) -> Mix:
        shares = [source.share for source in self.sources]
        total = sum(share for share in shares if share is not None)
        if total > 1 + 1e-9 or (None in shares and total > 1 - 1e-9):
            raise ValueError(say("the shares leave nothing for the other sources", "固定占比已占满，其余来源无份额"))
        if None not in shares and (total < 1 - 1e-9 or self.tokens is None):
            raise ValueError(
                say(
                    "where every source has a share, they add up to 1 and `tokens` is given",
                    "每个来源都有占比时，其和须为 1 且须给出 tokens",
                )
            )
        return self
