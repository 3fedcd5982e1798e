"""Settings of the stage `mix`: how much of each source is taken, and how often."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import say

_RECORDS = ("documents", "conversations", "preferences", "unpaired_preferences")


class MixSource(Settings):
    """One source of a mixture."""

    data: str = ref(*_RECORDS, en="a stage that makes such records", zh="产出此类记录的阶段")
    weight: float = setting(
        1.0, "factor on its natural share; 2: twice as much", "相对于自然占比的倍数；2 表示两倍", gt=0
    )
    share: float | None = setting(
        None,
        "a fixed share of the tokens instead, for instance for English replay; the other sources divide the rest",
        "改为固定的词元占比（例如英文回放数据）；其余来源分配剩下的部分",
        gt=0,
        le=1,
    )
    max_repeats: float = setting(4.0, "repeat no record more often than this", "每条记录最多重复的次数", gt=0)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"data": value} if isinstance(value, str) else value


class Mix(Settings):
    """Mix sources into one by tokens, in a fixed order."""

    sources: tuple[MixSource, ...] = setting(..., "the sources to mix", "要混合的来源", min_length=1)
    records: Literal["documents", "conversations", "preferences", "unpaired_preferences"] = setting(
        "documents", "kind of the records in the sources", "来源中记录的类型"
    )
    tokenizer: str = ref("tokenizer", "model", en="the tokenizer that counts the tokens", zh="用于统计词元数的分词器")
    tokens: int | None = setting(
        None,
        "total number of tokens; none: as many as the sources without a fixed share hold",
        "词元总数；不填则由没有固定占比的来源的总量决定",
        ge=1,
    )
    temperature: float = setting(
        1.0,
        "sources are weighted by size^(1/temperature): 1: by size, higher: more evenly",
        "各来源按规模的 1/temperature 次幂加权：1 即按规模，越大越平均",
        gt=0,
    )

    @model_validator(mode="after")
    def _shares(self) -> Mix:
        shares = [source.share for source in self.sources]
        total = sum(share for share in shares if share is not None)
        if total > 1 + 1e-9 or (None in shares and total > 1 - 1e-9):
            raise ValueError(
                say("the fixed shares leave nothing for the other sources", "固定占比之和已满，其余来源没有份额")
            )
        if None not in shares and (total < 1 - 1e-9 or self.tokens is None):
            raise ValueError(
                say(
                    "if every source has a share, the shares must add up to 1 and `tokens` must be set",
                    "所有来源都有固定占比时，占比之和须为 1，且须设置 tokens",
                )
            )
        return self
