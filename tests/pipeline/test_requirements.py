"""Optional packages are asked for before anything runs, for the stages that are not done."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.recipe import Recipe, build_recipe
from hanlin.config.settings.launch import Launch
from hanlin.core.errors import UserError
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.pipeline.requirements import check_packages, missing_packages
from hanlin.pipeline.run import run

find_spec = importlib.util.find_spec
OPTIONAL = {"bitsandbytes", "deepspeed", "tensorboard", "wandb", "swanlab", "ray", "zstandard", "pyarrow"}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any optional package."""

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in OPTIONAL else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def recipe_of(folder: Path, launch: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    """Data, and a training stage on it."""
    (folder / "chats.jsonl").write_text('{"instruction": "问", "output": "答"}\n', encoding="utf-8")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "tokenizer.json").write_text("{}", encoding="utf-8")
    chats = {"kind": "conversations", "sources": [f"{folder}/chats.jsonl"]}
    model = {"kind": "init_model", "tokenizer": f"{folder}/model"}
    sft = {"kind": "sft", "model": "m", "data": ["c"], **settings}
    stages = {"c": chats, "m": model, "s": sft}
    return build_recipe({"name": "r", "launch": launch or {}, "stages": stages}, "r.yaml")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("launch", "settings", "package", "setting"),
    [
        ({}, {"optimizer": "adamw_8bit"}, "bitsandbytes", "optimizer: adamw_8bit"),
        ({}, {"lora": {"quantization": "nf4"}}, "bitsandbytes", "lora.quantization: nf4"),
        ({}, {"report_to": ["wandb"]}, "Weights & Biases", "report_to: wandb"),
        ({}, {"report_to": ["tensorboard"]}, "TensorBoard", "report_to: tensorboard"),
        ({"mode": "zero2"}, {}, "DeepSpeed", "launch.mode: zero2"),
        ({"ray": "auto"}, {}, "Ray", "launch.ray"),
    ],
)
def test_a_run_stops_for_a_missing_package_before_its_first_stage(
    tmp_path: Path, launch: dict[str, Any], settings: dict[str, Any], package: str, setting: str
) -> None:
    store = Store(tmp_path / "home")
    events: list[str] = []
    with pytest.raises(UserError, match=f"{package} is not installed, which {setting} needs") as refused:
        run(recipe_of(tmp_path, launch, **settings), store, lambda event, step: events.append(event))
    assert "pip install" in (refused.value.hint or "") and not events


@pytest.mark.usefixtures("bare")
def test_a_compressed_file_needs_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"(\xb5/\xfd")
    recipe = build_recipe(
        {"name": "r", "stages": {"c": {"kind": "corpus", "sources": [f"{tmp_path}/a.jsonl.zst"]}}}, "r.yaml"
    )
    (step,) = plan(recipe, Store(tmp_path / "home"))
    assert [requirement.module for requirement in missing_packages(step, Launch())] == ["zstandard"]


@pytest.mark.usefixtures("bare")
def test_a_run_without_such_settings_needs_nothing(tmp_path: Path) -> None:
    check_packages(plan(recipe_of(tmp_path), Store(tmp_path / "home")), Launch())
