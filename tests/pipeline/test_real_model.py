"""A real pretrained Llama goes through every stage of recipes/smollm2_chinese.yaml, in its small budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hanlin.config.recipe_file import read_recipe
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_small_budget_takes_a_real_model_to_its_end(shared_data: Path, tmp_path: Path) -> None:
    """`make real` puts the file into models/; HANLIN_SMOLLM2 names another place."""
    file = Path(os.environ.get("HANLIN_SMOLLM2", ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
    if not file.is_file():
        pytest.skip("the GGUF file of SmolLM2 is not here (make real, or set HANLIN_SMOLLM2)")
    changes = [f"root={shared_data}", f"base.gguf={file}", "budget=small"]
    steps = run(read_recipe(ROOT / "recipes" / "smollm2_chinese.yaml", changes), Store(tmp_path))
    assert all(step.state == "done" for step in steps)
    metrics = {step.stage.name: step.manifest.metrics for step in steps if step.manifest}
    lengths = metrics["grown"]["characters_per_token"]
    assert lengths["after"]["zh"] > lengths["before"]["zh"] * 1.4
    assert metrics["modern_fused"]["bits_per_character"] < metrics["modern_base"]["bits_per_character"]
    assert metrics["gguf"]["parity"]["mismatches"] == 0
