"""mergekit fuses the same models into the same weights: all methods, with the same masks where they are random."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fused_models import fuse_into
from hanlin.models.surgery import fuse_reference, pruning
from mergekit_fusion import draw_fixed

pytestmark = pytest.mark.mergekit

HALF = {"density": 0.5}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # our settings, mergekit's parameters; both besides method, models, weights and base
    "linear": ({}, {}),
    "linear sum": ({"method": "linear", "normalize": False}, {"normalize": False}),
    "task_arithmetic": ({"scale": 0.7}, {"lambda": 0.7}),
    "task_arithmetic mean": ({"method": "task_arithmetic", "normalize": True}, {"normalize": True}),
    "ties": (HALF, HALF),
    "ties sum": ({"method": "ties", "density": 0.2, "normalize": False}, {"density": 0.2, "normalize": False}),
    "ties l1": ({"method": "ties", "density": 0.3, "rescale": "l1"}, {"density": 0.3, "rescale": True}),
    "breadcrumbs": ({"density": 0.8, "gamma": 0.05}, {"density": 0.8, "gamma": 0.05}),
    "breadcrumbs_ties": ({"density": 0.99, "gamma": 0.05}, {"density": 0.99, "gamma": 0.05}),
    "dare_linear": ({**HALF, "rescale": "l1"}, HALF),
    "dare_linear plain": ({"method": "dare_linear", **HALF, "rescale": "none"}, {**HALF, "rescale": False}),
    "dare_ties": ({**HALF, "rescale": "l1"}, HALF),
    "della": ({**HALF, "rescale": "l1", "epsilon": 0.3}, {**HALF, "epsilon": 0.3}),
    "della_linear": ({**HALF, "rescale": "none"}, {**HALF, "rescale": False}),
    "model_stock": ({}, {}),
}
WEIGHTS = {"a": 0.6, "b": [0.1, 0.9], "c": 0.3}


@pytest.fixture(scope="module")
def judged(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What mergekit makes of every case, by its name."""
    python = os.environ.get("HANLIN_MERGEKIT", "")
    if not python:
        pytest.skip("set HANLIN_MERGEKIT to the python of an environment with mergekit")
    folder = tmp_path_factory.mktemp("mergekit")
    cases, outs = [], {}
    for name, (_, parameters) in CASES.items():
        method = name.split()[0]
        weighted = method != "model_stock"
        models = [
            {"model": str(family[key]), "parameters": {"weight": weight} if weighted else {}}
            for key, weight in WEIGHTS.items()
        ]
        base = {} if method == "linear" else {"base_model": str(family["base"])}
        outs[name] = folder / name.replace(" ", "_")
        config = {"merge_method": method, "models": models, "parameters": parameters, "dtype": "float32", **base}
        cases.append({"config": config, "out": str(outs[name])})
    outs["slerp"] = folder / "slerp"
    slerp: dict[str, Any] = {"merge_method": "slerp", "models": [{"model": str(family[key])} for key in ("a", "b")]}
    mixing = {"t": [{"filter": "mlp", "value": [0.0, 0.5]}, {"value": 0.3}]}
    slerp |= {"base_model": str(family["a"]), "dtype": "float32", "parameters": mixing}
    cases.append({"config": slerp, "out": str(outs["slerp"])})
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    script = Path(__file__).parents[2] / "support" / "models" / "mergekit_fusion.py"
    done = subprocess.run([python, script, folder / "cases.json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return outs


def largest_difference(one: Path, other: Path) -> float:
    ours = load_file(one / "model.safetensors")
    theirs: dict[str, torch.Tensor] = {}
    for file in other.glob("*.safetensors"):
        theirs |= load_file(file)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("name", CASES)
def test_mergekit_fuses_to_the_same_weights(
    name: str, judged: dict[str, Path], family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return draw_fixed(probabilities)

    for module in (pruning, fuse_reference):
        monkeypatch.setattr(module, "draw_mask", draw)
    settings, _ = CASES[name]
    row: dict[str, Any] = {"method": name.split(maxsplit=1)[0], **settings}
    weighted = row["method"] != "model_stock"
    row["models"] = [{"model": key, **({"weight": weight} if weighted else {})} for key, weight in WEIGHTS.items()]
    if row["method"] != "linear":
        row["base"] = "base"
    fuse_into(tmp_path / "out", family, **row)
    assert largest_difference(tmp_path / "out", judged[name]) < 1e-6


def test_mergekit_interpolates_to_the_same_weights(
    judged: dict[str, Path], family: dict[str, Path], tmp_path: Path
) -> None:
    other = {"model": "b", "weight": 0.3, "rules": [{"tensors": "*mlp*", "weight": [0.0, 0.5]}]}
    first = {"model": "a", "weight": 0.7, "rules": [{"tensors": "*mlp*", "weight": [1.0, 0.5]}]}
    fuse_into(tmp_path / "out", family, method="slerp", models=[first, other])
    assert largest_difference(tmp_path / "out", judged["slerp"]) < 1e-6
