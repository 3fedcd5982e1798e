"""A server whose engine is killed, whose model is exchanged, and which serves several adapters over one model."""

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

import httpx
import pytest
import torch
from live_server import Live, live

from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from hanlin.serve.admission import Limits
from hanlin.serve.loaded_model import EngineConfig, LoadedModel, reload_changed
from hanlin.serve.registry import ModelRegistry
from hanlin.tokenizer.tokenizer import Tokenizer
from taught_model import LESSONS

CHAT = "/v1/chat/completions"
ENDLESS = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "temperature": 2, "seed": 1}


@pytest.fixture()
def apart(taught_gguf: Path) -> Iterator[LoadedEngine]:
    opened = load_engine(taught_gguf, "F32", apart=True)
    yield opened
    opened.engine.close()


def kill(opened: LoadedEngine) -> None:
    os.kill(opened.engine._processes[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]


def test_an_engine_killed_in_the_middle_is_told_in_each_apis_form_and_is_there_again(apart: LoadedEngine) -> None:
    with live(apart) as server:
        os.kill(apart.engine._processes[0].pid, signal.SIGSTOP)  # type: ignore[attr-defined]  # no answer ends before
        heard: dict[str, object] = {}

        def ask(name: str, path: str, body: dict) -> None:
            heard[name] = httpx.post(server.address + path, json={**ENDLESS, **body}, timeout=30)

        asked = {
            "whole": (CHAT, {}),
            "streamed": (CHAT, {"stream": True}),
            "ollama": ("/api/chat", {"stream": False}),
            "plain": ("/generate", {"history": ENDLESS["messages"], "messages": None}),
        }
        threads = [threading.Thread(target=ask, args=(name, *what)) for name, what in asked.items()]
        for thread in threads:
            thread.start()
        while len(server.streams) < len(asked):
            time.sleep(0.01)
        time.sleep(0.1)
        kill(apart)
        for thread in threads:
            thread.join(30)
        for name in ("whole", "plain"):
            told = heard[name]
            assert (told.status_code, told.json()["error"]["code"]) == (503, "engine_lost"), told.text  # type: ignore[attr-defined]
            assert int(told.headers["retry-after"]) >= 1  # type: ignore[attr-defined]
        assert heard["ollama"].status_code == 503 and "restarted" in heard["ollama"].json()["error"]  # type: ignore[attr-defined]
        last = json.loads(heard["streamed"].text.strip().split("\n\n")[-1].removeprefix("data: "))  # type: ignore[attr-defined]
        assert last["error"]["code"] == "engine_lost"
        assert says(server, "tiny", LESSONS[0][0]) == LESSONS[0][1]
        key_settings = httpx.get(f"{server.address}/metrics").text
        assert 'hanlin_engine_restarts{model="tiny"} 1.0' in key_settings
        assert httpx.get(f"{server.address}/health").status_code == 200


def test_a_schema_is_kept_in_the_process_apart(apart: LoadedEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with live(apart) as server:
        body = {**ENDLESS, "response_format": form, "max_tokens": 120}
        answer = httpx.post(server.address + CHAT, json=body, timeout=60).json()["choices"][0]
        if answer["finish_reason"] == "stop":
            assert set(json.loads(answer["message"]["content"])) == {"a"}
        else:
            assert answer["message"]["content"].lstrip().startswith("{")


def says(server: Live, model: str, text: str) -> str:
    asked = [{"role": "user", "content": text}]
    done = server.client().chat.completions.create(model=model, messages=asked, max_tokens=20)  # type: ignore[arg-type]
    return done.choices[0].message.content or ""


# ------------------------------------------------------------------------------------------------------ exchanging


def test_a_model_that_is_exchanged_while_it_serves_loses_no_request(taught_gguf: Path, tmp_path: Path) -> None:
    """Clients ask all the time while the link that the server was given points to another folder, three times."""
    other = tmp_path / "other"
    shutil.copytree(taught_gguf, other)
    link = tmp_path / "model"
    link.symlink_to(taught_gguf)
    limits = Limits(parallel=4)
    loaded = LoadedModel(f"tiny={link}", {}, EngineConfig(), limits)
    loaded.load()
    told: list[str] = []
    with live(loaded.served[0].opened, limits=limits, served=loaded.served) as server:
        stop = threading.Event()
        answers: list[str] = []

        def ask() -> None:
            while not stop.is_set():
                answers.append(says(server, "tiny", LESSONS[0][0]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        engines = []
        for target in (other, taught_gguf, other):
            link.unlink()
            link.symlink_to(target)
            assert loaded.is_stale
            engines.append(loaded.served[0].engine)
            asyncio.run_coroutine_threadsafe(reload_changed([loaded], server.models, told.append), server.loop).result(
                60
            )
            assert not loaded.is_stale
        count = len(answers)
        while len(answers) < count + 8:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(30)
    assert told == ["tiny was reloaded"] * 3
    assert set(answers) == {LESSONS[0][1]}
    assert all(engine._processes[0].poll() is not None for engine in engines), "an old engine was left"  # type: ignore[attr-defined]
    loaded.close()


def test_the_command_opens_a_changed_model_anew_on_sighup(taught_gguf: Path, tmp_path: Path) -> None:
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
        told = httpx.post(address + CHAT, json=body, timeout=30).json()
        assert told["choices"][0]["message"]["content"] == LESSONS[0][1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_does_not_open_leaves_the_old_one(taught_gguf: Path, tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to(taught_gguf)
    loaded = LoadedModel(f"tiny={link}", {}, EngineConfig(), Limits())
    loaded.load()
    before = list(loaded.served)
    models = ModelRegistry(before)
    link.unlink()
    (tmp_path / "empty").mkdir()
    link.symlink_to(tmp_path / "empty")
    told: list[str] = []
    asyncio.run(reload_changed([loaded], models, told.append))
    assert len(told) == 1 and told[0].startswith("tiny was not reloaded:")
    assert models.get("tiny") is before[0] and loaded.served == before
    loaded.close()


# ------------------------------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def adapters(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters over the taught model that change its answers, each in another way."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {}
    for seed, name in enumerate(("red", "blue.v2")):
        model = attach_lora(load_model(taught_model), LoraSettings(rank=4), seed=seed)
        torch.manual_seed(seed)
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.3)
        save_adapter(model, folder / name, base=taught_model)
        Tokenizer.load(taught_model).save(folder / name)
        made[name] = folder / name
    return made


def test_adapters_over_one_model_answer_as_each_does_alone(taught_model: Path, adapters: dict[str, Path]) -> None:
    questions = [asked for asked, _ in LESSONS]
    expected = {}
    for name, folder in {"taught": taught_model, **adapters}.items():
        alone = load_engine(folder)
        with live(alone, names=("tiny",)) as server:
            expected[name] = [says(server, "tiny", question) for question in questions]
        alone.engine.close()
    assert len({tuple(answers) for answers in expected.values()}) == 3, "the adapters change nothing"
    loaded = LoadedModel(str(taught_model), adapters, EngineConfig(), Limits())
    loaded.load()
    with live(loaded.served[0].opened, served=loaded.served) as server:
        assert [card.id for card in server.client().models.list()] == ["taught", "red", "blue.v2"]
        found: dict[tuple[str, int], str] = {}

        def ask(name: str, place: int) -> None:
            found[name, place] = says(server, name, questions[place])

        threads = [
            threading.Thread(target=ask, args=(name, place)) for place in range(len(questions)) for name in expected
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {(name, place): text for name, texts in expected.items() for place, text in enumerate(texts)}
    loaded.close()


def test_adapters_over_gguf_are_refused_in_one_sentence(taught_gguf: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="GGUF"):
        LoadedModel(str(taught_gguf), adapters, EngineConfig(), Limits()).load()


def test_an_adapter_of_another_base_is_refused(tiny_model: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="another base"):
        LoadedModel(str(tiny_model), adapters, EngineConfig(), Limits()).load()
