"""A server whose engine crashes, whose model is reloaded, and which serves several adapters over one model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from hanlin.serve.admission import Limits
from hanlin.serve.loaded_model import EngineConfig, LoadedModel, reload_changed
from hanlin.serve.registry import ModelRegistry
from hanlin.serve.server import note_context_length
from hanlin.tokenizer.tokenizer import Tokenizer
from live_server import LiveServer, run_server
from taught_model import LESSONS

CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": "?"}]
OPTIONS = {"temperature": 2, "seed": 1}
ENDLESS = {"model": "tiny", "messages": TURNS, **OPTIONS}


@pytest.fixture()
def apart(taught_gguf: Path) -> Iterator[LoadedEngine]:
    opened = load_engine(taught_gguf, "F32", separate_process=True)
    yield opened
    opened.engine.close()


def kill(opened: LoadedEngine) -> None:
    os.kill(opened.engine._processes[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]


def test_an_engine_that_crashes_is_reported_in_each_apis_form_and_restarted(apart: LoadedEngine) -> None:
    with run_server(apart) as server:
        os.kill(apart.engine._processes[0].pid, signal.SIGSTOP)  # type: ignore[attr-defined]  # so that no answer ends before
        responses: dict[str, httpx.Response] = {}

        def ask(name: str, path: str, body: dict) -> None:
            responses[name] = httpx.post(server.address + path, json=body, timeout=300)

        requests = {
            "whole": (CHAT, ENDLESS),
            "streamed": (CHAT, {**ENDLESS, "stream": True}),
            "ollama": ("/api/chat", {"model": "tiny", "messages": TURNS, "stream": False, "options": OPTIONS}),
            "plain": ("/generate", {"model": "tiny", "history": TURNS, **OPTIONS}),
        }
        threads = [threading.Thread(target=ask, args=(name, *request)) for name, request in requests.items()]
        for thread in threads:
            thread.start()
        while len(server.streams) < len(requests):
            assert not responses, responses
            time.sleep(0.01)
        time.sleep(0.1)
        kill(apart)
        for thread in threads:
            thread.join(300)
        for name in ("whole", "plain"):
            response = responses[name]
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_lost"), response.text
            assert int(response.headers["retry-after"]) >= 1
        assert responses["ollama"].status_code == 503 and "restarted" in responses["ollama"].json()["error"]
        last = json.loads(responses["streamed"].text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "engine_lost"
        assert ask_model(server, "tiny", LESSONS[0][0]) == LESSONS[0][1]
        metrics = httpx.get(f"{server.address}/metrics", timeout=300).text
        assert 'hanlin_engine_restarts{model="tiny"} 1.0' in metrics
        assert httpx.get(f"{server.address}/health", timeout=300).status_code == 200


def test_a_schema_is_obeyed_in_a_separate_process(apart: LoadedEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with run_server(apart) as server:
        body = {**ENDLESS, "response_format": form, "max_tokens": 120}
        answer = httpx.post(server.address + CHAT, json=body, timeout=300).json()["choices"][0]
        if answer["finish_reason"] == "stop":
            assert set(json.loads(answer["message"]["content"])) == {"a"}
        else:
            assert answer["message"]["content"].lstrip().startswith("{")


def ask_model(server: LiveServer, model: str, text: str) -> str:
    messages: Any = [{"role": "user", "content": text}]
    completion = server.client().chat.completions.create(model=model, messages=messages, max_tokens=20)
    return completion.choices[0].message.content or ""


# ------------------------------------------------------------------------------------------------------ reloading


def test_a_model_that_is_reloaded_while_it_serves_loses_no_request(taught_gguf: Path, tmp_path: Path) -> None:
    """Clients send requests all the time while the link to the model is pointed to another folder, three times."""
    other = tmp_path / "other"
    shutil.copytree(taught_gguf, other)
    link = tmp_path / "model"
    link.symlink_to(taught_gguf)
    limits = Limits(parallel=4)
    loaded = LoadedModel(f"tiny={link}", {}, EngineConfig(), limits)
    loaded.load()
    events: list[str] = []
    with run_server(loaded.served[0].opened, limits=limits, served=loaded.served) as server:
        stop = threading.Event()
        answers: list[str] = []

        def ask() -> None:
            while not stop.is_set():
                answers.append(ask_model(server, "tiny", LESSONS[0][0]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        engines = []
        for target in (other, taught_gguf, other):
            link.unlink()
            link.symlink_to(target)
            assert loaded.is_stale
            engines.append(loaded.served[0].engine)
            asyncio.run_coroutine_threadsafe(
                reload_changed([loaded], server.registry, events.append), server.loop
            ).result(300)
            assert not loaded.is_stale
        count = len(answers)
        while len(answers) < count + 8:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(300)
    assert events == ["tiny was reloaded"] * 3
    assert set(answers) == {LESSONS[0][1]}
    assert all(engine._processes[0].poll() is not None for engine in engines), "an old engine was left"  # type: ignore[attr-defined]
    loaded.close()


def test_the_command_reloads_a_changed_model_on_sighup(taught_gguf: Path, tmp_path: Path) -> None:
    shutil.copytree(taught_gguf, tmp_path / "other")
    link = tmp_path / "model"
    link.symlink_to(taught_gguf)
    command = [sys.executable, "-m", "hanlin", "serve", f"tiny={link}", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3].removesuffix("/v1")
        link.unlink()
        link.symlink_to(tmp_path / "other")
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "tiny was reloaded\n"
        body = {"model": "tiny", "messages": [{"role": "user", "content": LESSONS[0][0]}], "max_tokens": 20}
        answer = httpx.post(address + CHAT, json=body, timeout=300).json()
        assert answer["choices"][0]["message"]["content"] == LESSONS[0][1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_fails_to_reload_leaves_the_old_one(taught_gguf: Path, tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to(taught_gguf)
    loaded = LoadedModel(f"tiny={link}", {}, EngineConfig(), Limits())
    loaded.load()
    before = list(loaded.served)
    models = ModelRegistry(before)
    link.unlink()
    (tmp_path / "empty").mkdir()
    link.symlink_to(tmp_path / "empty")
    events: list[str] = []
    asyncio.run(reload_changed([loaded], models, events.append))
    assert len(events) == 1 and events[0].startswith("tiny was not reloaded:")
    assert models.get("tiny") is before[0] and loaded.served == before
    loaded.close()


# ------------------------------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def adapters(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters over the taught model that change its answers, each in another way."""
    folder = tmp_path_factory.mktemp("adapters")
    folders = {}
    for seed, name in enumerate(("red", "blue.v2")):
        model = attach_lora(load_model(taught_model), LoraSettings(rank=4), seed=seed)
        torch.manual_seed(seed)
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.3)
        save_adapter(model, folder / name, base=taught_model)
        Tokenizer.load(taught_model).save(folder / name)
        folders[name] = folder / name
    return folders


def embed(server: LiveServer, name: str) -> list[float]:
    return server.client().embeddings.create(model=name, input="春天", encoding_format="float").data[0].embedding


def test_adapters_over_one_model_answer_as_each_does_alone(taught_model: Path, adapters: dict[str, Path]) -> None:
    questions = [question for question, _ in LESSONS]
    expected, vectors = {}, {}
    for name, folder in {"taught": taught_model, **adapters}.items():
        alone = load_engine(folder)
        with run_server(alone, names=("tiny",)) as server:
            expected[name] = [ask_model(server, "tiny", question) for question in questions]
            vectors[name] = embed(server, "tiny")
        alone.engine.close()
    assert len({tuple(answers) for answers in expected.values()}) == 3, "the adapters change nothing"
    loaded = LoadedModel(str(taught_model), adapters, EngineConfig(), Limits())
    loaded.load()
    with run_server(loaded.served[0].opened, served=loaded.served) as server:
        assert [card.id for card in server.client().models.list()] == ["taught", "red", "blue.v2"]
        answers: dict[tuple[str, int], str] = {}

        def ask(name: str, index: int) -> None:
            answers[name, index] = ask_model(server, name, questions[index])

        threads = [
            threading.Thread(target=ask, args=(name, index)) for index in range(len(questions)) for name in expected
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        for name, vector in vectors.items():
            assert embed(server, name) == pytest.approx(vector, abs=1e-3)
    assert len({tuple(np.round(vector, 2)) for vector in vectors.values()}) == 3, "the adapters change no embedding"
    assert answers == {(name, index): text for name, texts in expected.items() for index, text in enumerate(texts)}
    loaded.close()


def test_adapters_over_gguf_are_refused_in_one_sentence(taught_gguf: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="GGUF"):
        LoadedModel(str(taught_gguf), adapters, EngineConfig(), Limits()).load()


def test_an_adapter_of_another_base_is_refused(tiny_model: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="another base"):
        LoadedModel(str(tiny_model), adapters, EngineConfig(options={"separate_process": False}), Limits()).load()


@pytest.mark.parametrize(("wanted", "is_said"), [(10**6, True), (8, False), (None, False)])
def test_a_context_shorter_than_asked_for_is_said(
    opened: LoadedEngine, capsys: pytest.CaptureFixture[str], wanted: int | None, is_said: bool
) -> None:
    note_context_length("tiny", opened.engine, wanted)
    said = capsys.readouterr().out
    assert (f"the context length stays {opened.engine.context_length} tokens" in said) == is_said
