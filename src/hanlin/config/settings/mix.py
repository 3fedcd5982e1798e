"""Settings of the stage `mix`: how much of each source is taken, and how often."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import tr

_RECORDS = ("documents", "conversations", "preferences", "unpaired_preferences")


class MixSource(Settings):
    """One source of a mixture."""

    data: str = ref(*_RECORDS, description="a stage that makes such records")
    weight: float = setting(1.0, "factor on its natural share; 2: twice as much", gt=0)
    share: float | None = setting(
        None,
        "a fixed share of the tokens instead, for instance for English replay; the other sources divide the rest",
        gt=0,
        le=1,
    )
    max_repeats: float = setting(4.0, "repeat no record more often than this", gt=0)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"data": value} if isinstance(value, str) else value


class Mix(Settings):
    """Mix sources into one by tokens, in a fixed order."""

    sources: tuple[MixSource, ...] = setting(..., "the sources to mix", min_length=1)
    records: Literal["documents", "conversations", "preferences", "unpaired_preferences"] = setting(
        "documents", "kind of the records in the sources"
    )
    tokenizer: str = ref("tokenizer", "model", description="the tokenizer that counts the tokens")
    tokens: int | None = setting(
        None,
        "total number of tokens; none: as many as the sources without a fixed share hold",
        ge=1,
    )
    temperature: float = setting(
        1.0,
        "sources are weighted by size^(1/temperature): 1: by size, higher: more evenly",
        gt=0,
    )

    @model_validator(mode="after")
    def _shares(self) -> Mix:
        shares = [source.share for source in self.sources]
        total = sum(share for share in shares if share is not None)
        if total > 1 + 1e-9 or (None in shares and total > 1 - 1e-9):
            raise ValueError(tr("the fixed shares leave nothing for the other sources"))
        if None not in shares and (total < 1 - 1e-9 or self.tokens is None):
            raise ValueError(tr("if every source has a share, the shares must add up to 1 and `tokens` must be set"))
        return self
