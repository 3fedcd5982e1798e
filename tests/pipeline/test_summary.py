"""The line that a stage gets on the terminal when it is done."""

from __future__ import annotations

from typing import Any

from hanlin.config.recipe import build_recipe
from hanlin.pipeline.manifest import Manifest
from hanlin.pipeline.report import summarize_metrics
from hanlin.pipeline.step import Step


def summary(kind: str, settings: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The line of a stage of a kind whose manifest has these metrics."""
    recipe = build_recipe({"name": "r", "stages": {"s": {"kind": kind, **settings}}}, "r.yaml")
    manifest = Manifest(kind, "", 1, "", "", {}, 0, (), (), metrics, {}, "", "", 1.0)
    return summarize_metrics(Step(recipe.stages["s"], "", "done", "", manifest=manifest))


def test_training_tells_how_many_records_were_refused_and_changed() -> None:
    settings = {"model": "./m", "data": ["./d"]}
    metrics = {"preference_loss": 0.5, "validation_loss": 0.6, "accuracy": 0.7, "margin": 0.1, "steps": 3}
    line = summary("dpo", settings, metrics | {"refused": {"too_long": 6}, "changed": {}})
    assert line.endswith("steps 3 · refused: too_long 6")
    metrics = {"loss": 1.0, "validation_loss": 1.1, "steps": 2, "target_tokens": 10, "tokens_per_second": 5}
    line = summary("sft", settings, metrics | {"refused": {"too_long": 2}, "changed": {"truncate_turns": 4}})
    assert "refused: too_long 2" in line and "changed: truncate_turns 4" in line
    assert "refused" not in summary("sft", settings, metrics | {"refused": {}, "changed": {}})


def test_the_most_frequent_reasons_come_first_with_the_number_of_the_others() -> None:
    dropped = {"advertisement": 1, "duplicate": 2, "repeated_characters": 1, "symbols": 1, "too_short": 8}
    line = summary("corpus", {"sources": ["./a"]}, {"rows_in": 20, "rows_kept": 7, "dropped": dropped})
    assert "too_short 8, duplicate 2, " in line and line.endswith("… (+1)")
