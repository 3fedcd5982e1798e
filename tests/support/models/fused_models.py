"""Run the stage `fuse_models` over folders that are named by a short key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.surgery.fuse import FuseModels
from hanlin.core.context import Inputs, StageContext
from hanlin.core.progress import Progress
from hanlin.models.surgery import fuse


def fuse_into(out: Path, family: dict[str, Path], seed: int = 42, **row: Any) -> dict[str, Any]:
    """Run the stage; models and base are named by their keys in `family`."""
    settings = FuseModels.model_validate(row)
    paths = {f"models.{index}.model": (family[model.model],) for index, model in enumerate(settings.models)}
    if settings.base is not None:
        paths["base"] = (family[settings.base],)
    out.mkdir(exist_ok=True)
    return fuse.run(settings, Inputs(paths), out, StageContext(seed=seed, progress=Progress("fused")))
