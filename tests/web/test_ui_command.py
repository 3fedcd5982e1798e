"""`hanlin ui` and `hanlin serve --ui`: what they print, refuse and load."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from hanlin.serve.admission import Limits
from hanlin.serve.loaded_model import EngineConfig, ModelLoader
from hanlin.serve.registry import ModelRegistry
from hanlin.web.models import find_models
from waiting import wait_until


def test_the_page_is_up_without_a_model_and_ends_by_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hanlin", "ui", str(tmp_path), "--port", "0", "--lang", "zh"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        address, token = re.findall(r"(http://127\.0\.0\.1:\d+/ui/)#token=(\S+)$", first.strip())[0]
        assert second.strip().endswith(token)
        page = urllib.request.urlopen(address, timeout=60).read().decode("utf-8")
        assert '<html lang="zh-CN">' in page and token not in page
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]
        process.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ui", "nothing"], "there is no such folder"),
        (["ui", "file"], "there is no such folder"),
        (["ui", ".", "--lang", "klingon"], "no language of the page: klingon"),
        (["ui", ".", "--model", "nothing"], "nothing"),
        (["ui", ".", "--adapter", "a=nothing"], "adapters need the model"),
        (["ui", ".", "--model", "a=x", "--model", "b=x", "--adapter", "c=x"], "over a single model only"),
        (["ui", ".", "--model", "file", "--adapter", "nothing"], "there is no adapter here"),
        (["ui", ".", "--host", "0.0.0.0"], "there is no API key"),
        (["ui", ".", "--base-path", "http://x"], "not a path"),
        (["ui", ".", "--api-key", "typed"], "every user of this machine"),
        (["ui", ".", "--api-key-file", "nothing"], "nothing"),
        (["serve", "model", "--ui", "--ui-folder", "nothing"], "there is no such folder"),
        (["serve", "model", "--ui-folder", "other"], "--ui-folder is for the page"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--port", "0"])
    error = result.exception
    said = str(error) if isinstance(error, UserError) else result.output
    assert problem in said
    assert isinstance(error, UserError) or result.exit_code == 2


@pytest.fixture()
def loader() -> Iterator[ModelLoader]:
    made = ModelLoader(ModelRegistry(()), EngineConfig("transformers", {"separate_process": False}), Limits())
    yield made
    made.close()


def test_models_join_a_server_that_runs_and_one_that_fails_says_why(
    loader: ModelLoader, tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 100 if file.suffix == ".safetensors" else None])
    loader.load(f"good={tiny_model}")
    loader.load(f"bad={broken}")
    assert loader.load(f"good={tiny_model}").names == ("good",)
    wait_until(lambda: [state.state for state in loader.states] == ["ready", "failed"])
    good, bad = loader.states
    assert (good.names, bad.names) == (("good",), ("bad",)) and "broken" in bad.problem
    assert [model.served[0].name for model in loader.loaded] == ["good"]


def test_the_terminal_is_told_of_a_model_that_was_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model" / "model.safetensors").touch()
    lines: list[str] = []
    loader = ModelLoader(ModelRegistry(()), EngineConfig(), Limits(), on_event=lines.append)
    loader.load(str(tmp_path / "model"))
    wait_until(lambda: lines)
    assert lines[0].startswith("model was not loaded: ") and loader.states[0].state == "failed"


def test_two_models_of_one_name_are_refused_before_the_second_is_loaded(loader: ModelLoader, tiny_model: Path) -> None:
    loader.load(str(tiny_model))
    with pytest.raises(UserError, match="another model is called"):
        loader.load(f"{tiny_model.name}={tiny_model}")
    with pytest.raises(UserError):
        loader.load("nothing/here")


def test_adapters_are_models_to_switch_to_beside_their_base(
    loader: ModelLoader, tiny_model: Path, tmp_path: Path
) -> None:
    adapted = attach_lora(load_model(tiny_model), LoraSettings(rank=2), seed=0)
    save_adapter(adapted, tmp_path / "polite", base=tiny_model)
    state = loader.load(f"base={tiny_model}", {"polite": tmp_path / "polite"})
    assert state.names == ("base", "polite")
    wait_until(lambda: loader.states[0].state in ("ready", "failed"))
    assert loader.states[0].problem == ""
    base, polite = loader.loaded[0].served
    assert (base.name, base.adapter, polite.name, polite.adapter) == ("base", None, "polite", "polite")
    assert polite.engine is base.engine
    assert find_models(tmp_path) == ["polite"]
