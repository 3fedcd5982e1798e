"""Which blocks a plan counts as new after several expansions is what `config.json` will list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hanlin.config.recipe import build_recipe
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Document, write_jsonl
from hanlin.estimate.memory import Machine
from hanlin.estimate.shapes import ModelShape
from hanlin.estimate.training import Estimate, estimate_training
from hanlin.models.surgery import blocks
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan

TRAINED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "all": {"trained": {"kind": "pretrain"}},
    "new": {"trained": {"kind": "pretrain", "train_blocks": "new"}},
    "last": {"trained": {"kind": "pretrain", "train_last_layers": 1}},
    "rows": {"trained": {"kind": "pretrain", "trainable_tokens": 10}},
    "adapter": {
        "adapter": {"kind": "pretrain", "lora": {"rank": 2}},
        "trained": {"kind": "merge", "adapter": "adapter"},
    },
    "queries": {
        "adapter": {"kind": "pretrain", "lora": {"rank": 2, "targets": ["q_proj"]}},
        "trained": {"kind": "merge", "adapter": "adapter", "model": "once"},
    },
    "fused": {
        "full": {"kind": "pretrain"},
        "trained": {"kind": "fuse_models", "models": ["once", "full"]},
    },
}


def planned(tmp_path: Path, model: str, between: dict[str, dict[str, Any]]) -> ModelShape:
    """The shape of the model that the last stage of a recipe trains: expanded, `between`, expanded again."""
    (tmp_path / "documents").mkdir(exist_ok=True)
    write_jsonl(tmp_path / "documents" / "documents.jsonl", [Document("春天。", "d0")])
    training = {"data": str(tmp_path / "documents"), "max_seq_length": 32, "batch_tokens": 64, "steps": 1}
    made: dict[str, Any] = {"once": {"kind": "expand_blocks", "model": model, "new_blocks": 1}}
    for name, row in between.items():
        made[name] = {"model": "once", **training, **row} if row["kind"] == "pretrain" else row
    made["twice"] = {"kind": "expand_blocks", "model": "trained" if between else "once", "new_blocks": 2}
    made["last"] = {"kind": "pretrain", "model": "twice", **training, "train_blocks": "new"}
    recipe = build_recipe({"name": "r", "stages": made}, "r.yaml")
    found = estimate_training(recipe, plan(recipe, Store(tmp_path / "home")), lambda settings: Machine())
    assert isinstance(found[-1], Estimate), found[-1]
    return found[-1].setup.shape


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ("nothing", (1, 3, 4)),
        ("all", (1, 4)),
        ("new", (1, 4)),
        ("last", (1, 4)),
        ("rows", (1, 3, 4)),
        ("adapter", (1, 4)),
        ("queries", (1, 3, 4)),
        ("fused", (1, 4)),
    ],
)
def test_earlier_new_blocks_stay_new_until_a_stage_trains_them(
    between: str, expected: tuple[int, ...], tiny_model: Path, tmp_path: Path
) -> None:
    shape = planned(tmp_path, str(tiny_model), TRAINED[between])
    assert shape.layers == 5 and shape.new_blocks == expected


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_model_that_is_there_has_the_new_blocks_that_expanding_it_will_list(
    is_trained: bool, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "expanded"
    run_expansion(tiny_model, folder, 1)
    if is_trained:
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.2.mlp.down_proj.weight"][-1, -1] = 1e-6
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run_expansion(folder, tmp_path / "once", 1)
    run_expansion(tmp_path / "once", tmp_path / "twice", 2)
    listed = json.loads((tmp_path / "twice" / "config.json").read_text(encoding="utf-8"))["new_blocks"]
    assert list(planned(tmp_path, str(folder), {}).new_blocks) == listed
    assert len(listed) == (3 if is_trained else 4)


def run_expansion(model: Path, out: Path, new_blocks: int) -> None:
    out.mkdir()
    blocks.run(ExpandBlocks(model="./m", new_blocks=new_blocks), Inputs({"model": (model,)}), out, StageContext())


def test_more_new_blocks_than_the_model_has_are_told_in_the_plan(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "documents").mkdir()
    write_jsonl(tmp_path / "documents" / "documents.jsonl", [Document("春天。", "d0")])
    stages: dict[str, Any] = {
        "expanded": {"kind": "expand_blocks", "model": str(tiny_model), "new_blocks": 8},
        "last": {"kind": "pretrain", "model": "expanded", "data": str(tmp_path / "documents"), "steps": 1},
    }
    recipe = build_recipe({"name": "r", "stages": stages}, "r.yaml")
    (found,) = estimate_training(recipe, plan(recipe, Store(tmp_path / "home")), lambda settings: Machine())
    assert not isinstance(found, Estimate) and "8" in str(found)
