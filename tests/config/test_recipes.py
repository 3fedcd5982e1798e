"""The shipped recipes: each plans when its inputs are there, with a estimate of its memory, and each really runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from hanlin.config.recipe import Recipe
from hanlin.config.settings.train import Sft, Training
from hanlin.estimate.memory import Machine
from hanlin.estimate.training import Estimate, estimate_training
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import run
from recipe_worlds import RECIPES, small_world

OWN = [recipe for recipe in RECIPES if recipe.stem.startswith("llama")]
TINY = {
    "max_seq_length": 128,
    "micro_batch_tokens": 256,
    "steps": 3,
    "eval_steps": 2,
    "batch_tokens": 256,
    "batch_pairs": 2,
    "precision": "float32",
}
"""Settings of a training stage that make its tiny version, where it has them."""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_plans_with_a_forecast_of_its_memory(
    recipe: Path, tmp_path: Path, tiny_model: Path, tiny_tokenizer: Path
) -> None:
    checked = small_world(recipe, tmp_path / "root", tiny_model, tiny_tokenizer)
    fewer = tuple(
        f"{stage.name}.new_blocks=2" for stage in checked.stages.values() if stage.kind.name == "expand_blocks"
    )
    checked = small_world(recipe, tmp_path / "root", tiny_model, tiny_tokenizer, fewer) if fewer else checked
    steps = plan(checked, Store(tmp_path / "home"))
    found = estimate_training(checked, steps, lambda settings: Machine("bfloat16", gpu=True))
    training = [step.stage.name for step in steps if isinstance(step.stage.settings, Training)]
    assert [one.stage for one in found] == training
    for one in found:
        assert isinstance(one, Estimate), one
        assert one.memory.peak > 0 and one.operations > 0 and one.disk.artifact > 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_settings_of_every_stage_survive_the_way_to_its_process(
    recipe: Path, tmp_path: Path, tiny_model: Path, tiny_tokenizer: Path
) -> None:
    checked = small_world(recipe, tmp_path / "root", tiny_model, tiny_tokenizer)
    for stage in checked.stages.values():
        assert type(stage.settings).model_validate(stage.settings.model_dump(mode="json")) == stage.settings


def tiny(recipe: Path, tmp_path: Path, model: Path, tokenizer: Path) -> Recipe:
    """A recipe's tiny version: all its stages and methods over small data, a few steps each."""
    checked = small_world(recipe, tmp_path / "root", model, tokenizer)
    changes = ["launch.threads=1"]
    for name, stage in checked.stages.items():
        settings = stage.settings
        if isinstance(settings, Training):
            for setting, value in TINY.items():
                if getattr(settings, setting, None) is not None or setting in ("steps",):
                    changes.append(f"{name}.{setting}={value}")
            if isinstance(settings, Sft):
                changes.append(f"{name}.template=llama3")  # the tokens that the tiny tokenizer has
            if isinstance(settings.trainable_tokens, int):
                changes.append(f"{name}.trainable_tokens={rows_of(model)}")
        elif stage.kind.name == "perplexity":
            changes.append(f"{name}.window=128")
        elif stage.kind.name in ("corpus", "conversations", "preferences"):
            changes.append(f"{name}.validation_fraction=0.2")
        elif stage.kind.name == "extend_vocabulary":
            changes.append(f"{name}.new_entries=40")
        elif stage.kind.name == "expand_blocks":
            changes.append(f"{name}.new_blocks=2")
        elif stage.kind.name == "extend_context":
            changes.append(f"{name}.context_length=1024")
        elif stage.kind.name == "long_context":
            changes += [f"{name}.lengths=[512]", f"{name}.samples=1"]
        elif stage.kind.name == "gguf":
            changes.append(f"{name}.types=[Q8_0]")
    return small_world(recipe, tmp_path / "root", model, tokenizer, tuple(changes))


def rows_of(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OWN, ids=lambda path: path.stem)
def test_a_tiny_version_of_every_recipe_runs_to_its_end(
    recipe: Path, tmp_path: Path, tiny_model: Path, tiny_tokenizer: Path
) -> None:
    checked = tiny(recipe, tmp_path, tiny_model, tiny_tokenizer)
    stages = [stage.settings for stage in checked.stages.values() if isinstance(stage.settings, Training)]
    eight_or_four_bits = any(s.optimizer == "adamw_8bit" or (s.lora and s.lora.quantization) for s in stages)
    if eight_or_four_bits and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (pip install 'hanlin[qlora]')")
    done = run(checked, Store(tmp_path / "home"))
    assert all(step.state == "done" for step in done)
    trained = [step.manifest.metrics for step in done if isinstance(step.stage.settings, Training) and step.manifest]
    assert all(metrics["steps"] >= 2 and metrics["trainable_parameters"] > 0 for metrics in trained)
