"""The hours of a plan: by the rate of a former run on this machine, else by a measurement, else by none."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.recipe_file import parse_recipe
from hanlin.core.errors import UserError
from hanlin.estimate.flops import Speed
from hanlin.estimate.plan import estimate_plan
from hanlin.estimate.training import Estimate
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run_record import RunSource, record_run
from hanlin.web.recipes import rates as module
from hanlin.web.recipes.rates import Rates, is_this_machine, show_duration
from page_worlds import commit, write_rows
from web_client import make_client

RECIPE = """
name: mine
stages:
  chats: { kind: conversations, sources: [./chats.jsonl], validation_fraction: 0 }
  tuned: { kind: sft, model: ./model, data: [chats], max_seq_length: 64, steps: 1000, precision: float32 }
"""


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> Store:
    shutil.copytree(tiny_model, tmp_path / "model")
    write_rows(tmp_path / "chats.jsonl", [{"instruction": f"第{n}问？", "output": f"答{n}。"} for n in range(9)])
    return Store(tmp_path)


def estimate(store: Store, text: str = RECIPE) -> Estimate:
    recipe = parse_recipe(text, "mine.yaml", (), "mine")
    recipe = replace(recipe, root=store.home / recipe.root)
    (result,) = estimate_plan(recipe, plan(recipe, store), "", "cpu", False)
    assert isinstance(result, Estimate)
    return result


def note_run(store: Store, result: Estimate, **changed: Any) -> None:
    """A run that trained the same model by the same method, at 500 tokens a second."""
    size = result.setup.shape.parameters
    metrics = {"tokens_per_second": 500.0, "parameters": size, "precision": "float32", "processes": 1, **changed}
    settings = result.setup.settings.model_dump(mode="json")
    artifact = commit(
        store, "sft", "model", "1" * 16, {}, run_stage=("before", "tuned"), settings=settings, metrics=metrics
    )
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    manifest["made_by"]["cores"] = os.cpu_count()
    (artifact / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with record_run("before", store, RunSource()):
        pass


def test_a_former_run_of_the_same_size_and_method_gives_the_time_and_is_named(store: Store) -> None:
    result = estimate(store)
    rates = Rates(store, store.home / "cache")
    assert rates.find_duration("sft", result, "auto") is None
    note_run(store, result)
    duration = rates.find_duration("sft", result, "auto")
    assert duration is not None and "before / tuned" in duration.source and "500 tokens/s" in duration.source
    assert duration.seconds == pytest.approx(1000 * result.setup.batch.step_tokens / 500)
    assert rates.find_duration("dpo", result, "auto") is None


@pytest.mark.parametrize("changed", [{"parameters": 10**9}, {"precision": "bfloat16"}, {"processes": 4}])
def test_a_run_of_another_size_format_or_number_of_processes_gives_none(store: Store, changed: dict[str, Any]) -> None:
    result = estimate(store)
    note_run(store, result, **changed)
    assert Rates(store, store.home / "cache").find_duration("sft", result, "auto") is None


def test_a_run_of_another_method_or_machine_gives_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    note_run(store, estimate(store))
    lora = estimate(store, RECIPE.replace("steps: 1000", "steps: 1000, lora: { rank: 4 }"))
    rates = Rates(store, store.home / "cache")
    assert rates.find_duration("sft", lora, "auto") is None
    assert rates.find_duration("sft", estimate(store), "gpu" if is_this_machine("cpu") else "cpu") is None
    monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
    assert rates.find_duration("sft", estimate(store), "auto") is None


def test_a_measurement_is_kept_and_stands_until_a_run_knows_better(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured is a child process that trains; here its answer stands for it, see `estimate`'s own tests."""
    monkeypatch.setattr(module, "measure_speeds", lambda stages: [(Speed(4e9, 1e9), 0.0) for _ in stages])
    result = estimate(store)
    Rates(store, store.home / "cache").measure([("sft", result)])
    duration = Rates(store, store.home / "cache").find_duration("sft", result, "auto")
    assert duration is not None and "1 GFLOP/s, measured" in duration.source
    assert duration.seconds == pytest.approx(1000 * result.operations / 1e9)
    epochs = estimate(store, RECIPE.replace("steps: 1000", "steps: 10, learning_rate: 1e-5"))
    shorter = Rates(store, store.home / "cache").find_duration("sft", epochs, "auto")
    assert shorter is not None and shorter.seconds == pytest.approx(duration.seconds / 100)


def test_two_measurements_at_once_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, result = Rates(store, store.home / "cache"), estimate(store)

    def measure_again(stages: Any) -> list[Any]:
        with pytest.raises(UserError, match="being measured already"):
            rates.measure([("sft", result)])
        return [(Speed(1e9, 1e9), 0.0)]

    monkeypatch.setattr(module, "measure_speeds", measure_again)
    rates.measure([("sft", result)])


def test_the_form_tells_the_time_and_measures_with_the_token_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_speeds", lambda stages: [(Speed(4e9, 1e9), 0.0) for _ in stages])
    client, draft = make_client(store.home), {"text": RECIPE, "name": "mine"}
    plan_ = client.post("/ui/recipes/check", json=draft).json()["plan"]
    assert (plan_["time"], plan_["can_measure"]) == ("", True)
    assert any("assumed 100 TFLOP/s" in name for name, _ in plan_["estimates"][0]["shown"])
    without = make_client(store.home, with_start_token=False)
    assert without.post("/ui/recipes/measure", json=draft).json()["error"]["code"] == "start_token"
    assert client.post("/ui/recipes/measure", json=draft).status_code == 200
    plan_ = client.post("/ui/recipes/check", json=draft).json()["plan"]
    assert plan_["time"] and not plan_["can_measure"]
    assert any("measured on this machine" in value for _, value in plan_["estimates"][0]["shown"])


@pytest.mark.parametrize(("seconds", "shown"), [(3, "1 min"), (600, "10 min"), (9000, "2.5 h"), (360_000, "4.2 days")])
def test_times_are_shown_as_people_say_them(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown
