"""Settings of the kind `quality_model`, and of the rule that uses what it makes."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting


class QualityModel(Settings):
    """Learn from good and bad texts of your own to tell them apart; `quality` of a corpus stage uses the result."""

    good: tuple[str, ...] = ref(
        "documents",
        "files",
        description="texts to keep: documents, or files and folders of .txt (a text on each line) and .jsonl",
        min_length=1,
    )
    bad: tuple[str, ...] = ref("documents", "files", description="texts to drop, in the same forms", min_length=1)
    buckets: int = setting(1 << 18, "number of weights that n-grams are hashed to", ge=1 << 10, le=1 << 24)
    epochs: int = setting(10, "how often each text is learned from", ge=1, le=1_000)
    max_texts: int = setting(100_000, "largest number of texts read of each side", ge=100)
    validation_fraction: float = setting(
        0.1,
        "fraction of the texts that is not learned from, to measure precision and recall",
        ge=0.01,
        le=0.5,
    )


class Quality(Settings):
    """Quality: drop documents that a model of your own good and bad texts scores low."""

    model: str = ref("quality_model", description="a `quality_model` stage")
    min_score: float = setting(0.5, "drop documents whose probability of being good is lower", ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value
