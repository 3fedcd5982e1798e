"""Settings of `export_checkpoint`."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting


class ExportCheckpoint(Settings):
    """Write a model in Meta's original layout: params.json and consolidated.*.pth; what was written is compared."""

    model: str = ref("model", description="the model to write")
    shards: int = setting(
        1,
        "into how many files the weights are split, one for each process of model parallelism",
        ge=1,
        le=64,
    )
    dtype: Literal["model", "float32", "bfloat16", "float16"] = setting(
        "model",
        "number format of the weights; model: that of each tensor of the model",
    )
