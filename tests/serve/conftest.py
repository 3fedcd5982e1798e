"""Fixtures: a model that has learned some answers, a model of random weights, and a server of the first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import taught_model as taught
from hanlin.chat.packaged import read_packaged_template
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf
from hanlin.core.context import Inputs, StageContext
from hanlin.export.gguf.export import run as export_gguf
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.inference.protocol import FinishReason
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.serve.registry import ServedModel
from hanlin.tokenizer.tokenizer import Tokenizer
from live_server import LiveServer, run_server
from scripted_model import ScriptedModel


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path) -> Path:
    return taught.taught_model(tiny_model)


@pytest.fixture(scope="session")
def taught_gguf(taught_model: Path) -> Path:
    return taught.taught_gguf(taught_model)


@pytest.fixture(scope="session")
def opened(taught_model: Path) -> Iterator[LoadedEngine]:
    model = load_engine(taught_model)
    yield model
    model.engine.close()


@pytest.fixture(scope="session")
def untaught(tiny_model: Path) -> Iterator[LoadedEngine]:
    """A model of random weights: it goes on until the context is full."""
    model = load_engine(tiny_model)
    yield model
    model.engine.close()


@pytest.fixture(scope="session")
def untaught_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a folder with a GGUF file."""
    return _export_f32(tiny_model, tmp_path_factory.mktemp("untaught"))


@pytest.fixture()
def server(opened: LoadedEngine) -> Iterator[LiveServer]:
    with run_server(opened) as running:
        yield running


@pytest.fixture(scope="session")
def long_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with Llama 3.1's template and a context long enough for its text about tools."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}), encoding="utf-8")
    ChatTemplate.from_packaged("llama3.1", Tokenizer.load(folder)).save(folder)
    return folder


@pytest.fixture(scope="session")
def long_gguf(long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export_f32(long_model, tmp_path_factory.mktemp("long_gguf"))


@pytest.fixture(scope="session")
def tool_server(long_model: Path) -> Iterator[LiveServer]:
    opened = load_engine(long_model)
    with run_server(opened) as running:
        yield running
    opened.engine.close()


def _export_f32(model: Path, out: Path) -> Path:
    export_gguf(Gguf(model="m", types=("F32",), compare=False), Inputs({"model": (model,)}), out, StageContext())
    return out


SOURCES = {
    "no reasoning": "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{{ eos_token }}{% endfor %}"
}


@pytest.fixture(scope="session")
def opened_long(long_model: Path) -> Iterator[LoadedEngine]:
    opened = load_engine(long_model)
    yield opened
    opened.engine.close()


@pytest.fixture(scope="session")
def grammar_compilers() -> Iterator[dict[tuple[int, ...], GrammarCompiler]]:
    """By the ids that end an answer: one grammar process for the servers of many tests."""
    compilers: dict[tuple[int, ...], GrammarCompiler] = {}
    yield compilers
    for compiler in compilers.values():
        compiler.close()


@pytest.fixture()
def serve_template(
    opened_long: LoadedEngine,
    grammar_compilers: dict[tuple[int, ...], GrammarCompiler],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Make a server of the model under a packaged template; the special tokens that it lacks are written as text."""

    def get_compiler(model: ServedModel) -> GrammarCompiler:
        if model.stop_ids not in grammar_compilers:
            grammar_compilers[model.stop_ids] = GrammarCompiler(model.stop_ids, model.opened.location.folder)
        return grammar_compilers[model.stop_ids]

    monkeypatch.setattr(ServedModel, "grammar_compiler", property(get_compiler))

    @contextmanager
    def make(name: str, text: str, finish_reason: FinishReason = "stop") -> Iterator[tuple[ScriptedModel, LiveServer]]:
        engine_stream = opened_long.engine.stream
        template = ChatTemplate(SOURCES.get(name) or read_packaged_template(name), opened_long.tokenizer, name)
        monkeypatch.setattr(LoadedEngine, "load_template", lambda _: template)
        script = ScriptedModel(opened_long, text, finish_reason)
        try:
            with run_server(opened_long) as server:
                yield script, server
        finally:
            opened_long.engine.stream = engine_stream  # type: ignore[method-assign]

    return make
