"""`train_blocks: new` trains the blocks that `expand_blocks` added and no other weight, with and without an adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.config.settings.train import Pretrain
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.estimate.shapes import ModelShape, TrainableCounts
from hanlin.models.surgery import blocks
from hanlin.train import stages
from training_data import document, many


def pretrain(**changes: Any) -> Pretrain:
    settings: dict[str, Any] = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_tokens": 512}
    return Pretrain(**{**settings, "precision": "float32", "steps": 2, "learning_rate": 1e-2, **changes})


@pytest.fixture(scope="module")
def expanded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a new block behind each of its two."""
    folder = tmp_path_factory.mktemp("expanded")
    blocks.run(ExpandBlocks(model="./m", new_blocks=2), Inputs({"model": (tiny_model,)}), folder, StageContext())
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_only_new_blocks_change(expanded: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.pretrain(pretrain(train_blocks="new"), inputs(many(document, 4), expanded), out, StageContext())
    before, after = load_file(expanded / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("model.layers.1.", "model.layers.3.")) for name in changed)
    assert {"model.layers.1.self_attn.o_proj.weight", "model.layers.3.mlp.down_proj.weight"} <= changed
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["new_blocks"] == [1, 3]
    shape = ModelShape.of_config(config, "float32")
    assert TrainableCounts.of(shape, pretrain(train_blocks="new")).total == metrics["trainable_parameters"]


def test_an_adapter_is_put_on_new_blocks_alone(expanded: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    settings = pretrain(train_blocks="new", lora=LoraSettings(rank=2))
    metrics = stages.pretrain(settings, inputs(many(document, 4), expanded), out, StageContext())
    names = load_file(out / "adapter_model.safetensors")
    assert {name.split(".layers.")[1].split(".")[0] for name in names} == {"1", "3"}
    config = json.loads((expanded / "config.json").read_text(encoding="utf-8"))
    shape = ModelShape.of_config(config, "float32")
    assert TrainableCounts.of(shape, settings).total == metrics["trainable_parameters"]


def test_a_model_without_new_blocks_is_refused(tiny_model: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    with pytest.raises(UserError, match="no new blocks"):
        stages.pretrain(pretrain(train_blocks="new"), inputs(many(document, 4), tiny_model), out, StageContext())


def test_a_block_that_the_model_does_not_have_is_refused(
    expanded: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    model = Path(shutil.copytree(expanded, out / "model"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "new_blocks": [1, 7]}), encoding="utf-8")
    with pytest.raises(UserError, match="block 7 as new"):
        stages.pretrain(pretrain(train_blocks="new"), inputs(many(document, 4), model), out, StageContext())


def test_two_choices_of_blocks_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        pretrain(train_blocks="new", train_last_layers=1)


def test_training_all_weights_of_an_expanded_model_is_said(
    expanded: Path, out: Path, inputs: Callable[..., Inputs], capsys: pytest.CaptureFixture[str]
) -> None:
    context = StageContext(progress=Progress(quiet=False))
    stages.pretrain(pretrain(steps=1), inputs(many(document, 4), expanded), out, context)
    assert "2 new blocks" in capsys.readouterr().err
