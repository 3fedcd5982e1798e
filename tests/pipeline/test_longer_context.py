"""A model that finds a passkey within its context finds it beyond, after the context was extended and trained.

`tests/recipes/longer_context.yaml`: 64 tokens learned, 256 after each method and a few steps on long texts.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.recipe_file import read_recipe
from hanlin.evaluate.long_context import FILLER, NEEDLE, OPENING, QUESTION
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run import run

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "longer_context.yaml"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with a passkey, asked for and told at the end: short ones of at most 54 tokens, long ones of up to 241."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(1)
    opening, filler, needle, question = (parts["zh"] for parts in (OPENING, FILLER, NEEDLE, QUESTION))

    def make(fillers: int) -> str:
        before, key = draw.randint(0, fillers), str(draw.randrange(10_000, 100_000))
        told = needle.format(key=key)
        return f"{opening}{filler * before}{told}{filler * (fillers - before)}{question}{key}"

    (folder / "words.txt").write_text(f"{opening}{filler}{needle.format(key='')}{question}\n" * 3, encoding="utf-8")
    for name, count, lengths in (("short", 12_000, (0, 1, 1)), ("long", 1_600, (1, 4, 8, 12))):
        rows = [json.dumps({"text": make(draw.choice(lengths))}, ensure_ascii=False) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", ["yarn", "theta"])
def test_training_on_long_texts_finds_the_passkey_beyond_the_old_context(texts: Path, method: str) -> None:
    recipe = read_recipe(RECIPE, [f"root={texts}", f"stretched.method={method}"])
    steps = run(recipe, Store(texts / "home"))
    metrics: dict[str, Any] = {step.stage.name: step.manifest.metrics for step in steps if step.manifest}
    assert metrics["keys_taught"]["passkey"]["found"] == 1.0
    before, after, in_llama_cpp = (metrics[f"keys_{name}"] for name in ("before", "after", "in_llama_cpp"))
    assert after["passkey"]["found"] >= before["passkey"]["found"] + 0.3
    (text_before,), (text_after,) = before["positions"], after["positions"]
    assert text_after["perplexity"] < text_before["perplexity"]
    assert in_llama_cpp["passkey"]["found"] == after["passkey"]["found"]
