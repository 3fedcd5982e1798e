"""A model with a number that is not finite: every stage that changes a model's shape says which weight it is in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hanlin.config.settings.model import ExtendVocabulary, TrimVocabulary
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.config.settings.surgery.context import ExtendContext
from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.config.settings.surgery.export_checkpoint import ExportCheckpoint
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models import extend_vocab, trim_vocab
from hanlin.models.layouts import export_checkpoint
from hanlin.models.surgery import blocks, context, experts

WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
@pytest.mark.parametrize(
    ("run", "settings"),
    [
        (blocks.run, ExpandBlocks(model="./m", new_blocks=1)),
        (experts.run, UpcycleExperts(model="./m")),
        (context.run, ExtendContext(model="./m", context_length=512)),
        (trim_vocab.run, TrimVocabulary(model="./m", text=("./t",))),
        (extend_vocab.run, ExtendVocabulary(model="./m", text=("./t",))),
        (export_checkpoint.run, ExportCheckpoint(model="./m")),
        (export_checkpoint.run, ExportCheckpoint(model="./m", dtype="bfloat16")),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "model") else "",
)
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(
    run: Callable[..., Any], settings: Any, number: float, tiny_model: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model, folder)
    out.mkdir()
    weights = load_file(folder / "model.safetensors")
    weights[WEIGHT][3, 5] = number
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN or infinite values"):
        run(settings, Inputs({"model": (folder,)}), out, StageContext())
    assert not any(out.iterdir())
