"""An engine in a process of its own: what is asked of it when it dies, and that it is there again."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.evaluate import predictions
from hanlin.evaluate.predictions import PredictSettings, predict
from hanlin.inference.backends.llama_cpp.header import read_gguf_header
from hanlin.inference.backends.process import engine as process
from hanlin.inference.backends.process.child import _Sender
from hanlin.inference.backends.process.error_output import ErrorOutput
from hanlin.inference.backends.process.messages import CallResult
from hanlin.inference.loading import load_engine
from hanlin.inference.protocol import Completion, Engine, EngineUnavailableError, GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hanlin.parity.backends.llama_cpp import LlamaCppBackend
from waiting import wait_until

PROMPT = (20, 30, 40)
ENDLESS = GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=900))


@pytest.fixture()
def apart(spoken_gguf: Path) -> Iterator[Engine]:
    engine = create_engine("llama_cpp", spoken_gguf / "model-F32.gguf", separate_process=True, cache_type="f32")
    yield engine
    engine.close()


def kill(engine: Engine) -> None:
    os.kill(engine._processes[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]


def spawn(program: str) -> Any:
    """Start a child whose `main` is what a program says, instead of an engine's."""
    child = process._CHILD
    process._CHILD = f"os import abort; {program}"
    try:
        return process_spawn()
    finally:
        process._CHILD = child


process_spawn = process._spawn


def test_answers_in_progress_are_told_when_the_process_is_killed_and_later_ones_are_answered(
    apart: Engine, cpp: Engine
) -> None:
    streams = [apart.stream(ENDLESS) for _ in range(5)]
    for stream in streams:
        next(stream)
    kill(apart)
    for stream in streams:
        with pytest.raises(EngineUnavailableError):
            list(stream)
        assert stream.finish_reason == "cancelled"
        stream.close()
    short = GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=9))
    assert apart.generate([short]) == cpp.generate([short])
    assert apart.restarts == 1  # type: ignore[attr-defined]


def test_whoever_waits_for_a_score_or_whole_answers_is_told_too(apart: Engine) -> None:
    heard: list[BaseException] = []

    def ask(what: str) -> None:
        try:
            if what == "generate":
                apart.generate([ENDLESS] * 40)
            else:
                apart.score([(PROMPT, tuple(range(20, 380)))] * 200)
        except BaseException as error:
            heard.append(error)

    threads = [threading.Thread(target=ask, args=(what,)) for what in ("generate", "score")]
    os.kill(apart._processes[0].pid, signal.SIGSTOP)  # type: ignore[attr-defined]  # so that none ends before
    for thread in threads:
        thread.start()
    wait_until(lambda: len(apart._pending) == 41)  # type: ignore[attr-defined]
    kill(apart)
    for thread in threads:
        thread.join(300)
    assert [type(error) for error in heard] == [EngineUnavailableError, EngineUnavailableError]


def test_each_score_is_told_by_the_process_as_soon_as_it_is_there(apart: Engine) -> None:
    told: list[tuple[int, object]] = []
    pairs = [(PROMPT, (50 + number, 60)) for number in range(4)]
    scores = apart.score(pairs, on_score=lambda *item: told.append(item))
    assert sorted(told, key=lambda item: item[0]) == list(enumerate(scores))
    requests = [GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=count)) for count in (90, 2)]
    answered: list[int] = []
    apart.generate(requests, on_completion=lambda index, _: answered.append(index))
    assert answered == [1, 0]


def test_a_process_that_dies_again_and_again_is_there_each_time(apart: Engine) -> None:
    short = GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=3))
    expected: list[Completion] = apart.generate([short])
    for _ in range(3):
        restarts = apart.restarts  # type: ignore[attr-defined]
        kill(apart)
        while apart.alive and apart.restarts == restarts:  # type: ignore[attr-defined]
            time.sleep(0.001)
        assert apart.generate([short]) == expected


def test_a_file_that_llama_cpp_does_not_take_is_refused_in_the_same_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="cannot load this file"):
        create_engine("llama_cpp", broken, separate_process=True)


def test_a_closed_engine_leaves_no_process(apart: Engine) -> None:
    stream = apart.stream(ENDLESS)
    next(stream)
    process = apart._processes[0]  # type: ignore[attr-defined]
    apart.close()
    assert process.poll() is not None
    list(stream)
    assert stream.finish_reason == "cancelled"
    with pytest.raises(RuntimeError, match="closed"):
        apart.stream(ENDLESS)


def test_an_engine_that_is_closed_while_it_is_started_again_is_closed(
    apart: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, closing = apart._spawn, threading.Thread(target=apart.close)  # type: ignore[attr-defined]

    def start_slowly() -> object:
        closing.start()
        time.sleep(0.3)
        return start()

    monkeypatch.setattr(apart, "_spawn", start_slowly)
    kill(apart)
    apart._listener.join(300)  # type: ignore[attr-defined]
    closing.join(300)
    assert not closing.is_alive() and apart._processes[0].poll() is not None  # type: ignore[attr-defined]


def test_a_process_that_cannot_be_started_is_told_and_tried_again(
    apart: Engine, cpp: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, tries = apart._spawn, []  # type: ignore[attr-defined]

    def start_at_last() -> object:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("no memory")
        return start()

    monkeypatch.setattr(apart, "_spawn", start_at_last)
    kill(apart)
    short = GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=3))
    told: list[str] = []
    while len(told) < 200:
        try:
            assert apart.generate([short]) == cpp.generate([short])
            break
        except EngineUnavailableError as error:
            told.append(str(error))
            time.sleep(0.1)
    assert len(tries) == 3 and any("does not start again: no memory" in text for text in told)


THREE_TOKENS = GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=3))


def test_a_request_that_is_being_written_when_the_process_ends_is_told(
    apart: Engine, cpp: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = apart._connection  # type: ignore[attr-defined]
    send = connection._send_bytes

    def send_slowly(message: object) -> None:
        kill(apart)
        time.sleep(0.3)
        send(message)

    monkeypatch.setattr(connection, "_send_bytes", send_slowly)
    with pytest.raises(EngineUnavailableError):
        apart.generate([THREE_TOKENS])
    assert apart.generate([THREE_TOKENS]) == cpp.generate([THREE_TOKENS])


def test_a_request_to_a_process_that_ended_reaches_none_that_is_started_after_it(
    apart: Engine, cpp: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, handshake = apart._write, apart._handshake  # type: ignore[attr-defined]
    started, written = threading.Event(), threading.Event()

    def write_late(*message: object) -> None:
        kill(apart)
        assert started.wait(300)
        monkeypatch.setattr(apart, "_write", write)
        write(*message)
        written.set()

    def handshake_late() -> object:
        started.set()
        assert written.wait(300)
        return handshake()

    monkeypatch.setattr(apart, "_write", write_late)
    monkeypatch.setattr(apart, "_handshake", handshake_late)
    with pytest.raises(EngineUnavailableError):
        apart.generate([THREE_TOKENS])
    assert apart.generate([THREE_TOKENS]) == cpp.generate([THREE_TOKENS])
    assert apart.restarts == 1  # type: ignore[attr-defined]


class Wire:
    """What a sender writes to, and a clock that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.messages: list[list[tuple[int, object]]] = []
        monkeypatch.setattr("hanlin.inference.backends.process.engine.time.monotonic", lambda: self.now)

    def send_bytes(self, data: bytes) -> None:
        self.messages.append(pickle.loads(data))


def steps(sender: _Sender, wire: Wire, seconds: float, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        sender.put(1, number)
        sender.after_step()
        wire.now += seconds


def test_the_ids_of_quick_steps_travel_together_and_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    steps(_Sender(wire), wire, 0.006, 9)  # type: ignore[arg-type]
    assert wire.messages == [[(1, 0)], [(1, 1), (1, 2), (1, 3), (1, 4)], [(1, 5), (1, 6), (1, 7), (1, 8)]]


def test_the_ids_of_slow_steps_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    steps(_Sender(wire), wire, 0.03, 5)  # type: ignore[arg-type]
    assert wire.messages == [[(1, number)] for number in range(5)]


def test_the_end_of_an_answer_and_what_was_told_before_a_new_request_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = Wire(monkeypatch)
    sender = _Sender(wire)  # type: ignore[arg-type]
    steps(sender, wire, 0.001, 3)
    sender.flush_next_step()
    steps(sender, wire, 0.001, 1, first=3)
    assert wire.messages == [[(1, 0)], [(1, 1), (1, 2), (1, 3)]]
    steps(sender, wire, 0.001, 1, first=4)
    sender.put(1, CallResult("stop"))
    sender.after_step()
    assert [number for number, _ in wire.messages[-1]] == [1, 1]
    assert isinstance(wire.messages[-1][-1][1], CallResult)


def test_a_process_that_does_not_answer_is_lost_then_ended_and_started_again(
    apart: Engine, cpp: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("HEARTBEAT_SECONDS", 0.05), ("SILENT_SECONDS", 2.0), ("LOST_SECONDS", 4.0)):
        monkeypatch.setattr(process, name, seconds)
    short = GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=9))
    time.sleep(2.1)  # the beat that was being waited for
    assert apart.alive and apart.restarts == 0  # type: ignore[attr-defined]
    stream = apart.stream(ENDLESS)
    os.kill(apart._processes[0].pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    wait_until(lambda: not apart.alive)  # type: ignore[attr-defined]
    with pytest.raises(EngineUnavailableError):
        list(stream)
    assert apart.generate([short]) == cpp.generate([short])
    assert apart.alive and apart.restarts == 1  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def without_layers(spoken_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says that it has no layers: llama.cpp aborts (GGML_ASSERT) when it reads its header."""
    data, key = (spoken_gguf / "model-F32.gguf").read_bytes(), b"llama.block_count"
    place = data.index(key) + len(key) + 4
    file = tmp_path_factory.mktemp("layers") / "m.gguf"
    file.write_bytes(data[:place] + bytes(4) + data[place + 4 :])
    return file


def test_a_file_that_aborts_is_one_sentence_in_whatever_opens_it(
    without_layers: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"ended while it loaded this model \(exit code -6: .*GGML_ASSERT"):
        load_engine(without_layers)
    assert read_gguf_header(without_layers).context_length == 1024  # which needs no layers
    with pytest.raises(UserError, match="server does not start on this file"):
        LlamaCppBackend(without_layers)
    assert capfd.readouterr() == ("", "")


def test_other_lines_of_the_process_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    child, connection = spawn("import os; os.write(2, b'a warning\\n' * 3); main = abs #")
    with connection:
        assert child.stderr is not None
        output = ErrorOutput(child.stderr)
        child.wait()
        assert output.abort_message() == "" and capfd.readouterr().err == "a warning\n" * 3


def test_commands_lose_no_finished_answers_when_llama_cpp_aborts(
    spoken_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`generate` goes on where it stopped; the server's half of the process is tested above."""
    monkeypatch.setattr(predictions, "_CHUNK_SIZE", 2)
    questions, settings = tmp_path / "questions.txt", PredictSettings(max_new_tokens=5, raw=True)
    questions.write_text("你好\n春天\n院子\n", encoding="utf-8")
    file, quiet, asked = spoken_gguf / "model-F32.gguf", Progress(quiet=True), []
    predict(file, questions, tmp_path / "whole.json", settings, quiet)
    send = process.EngineProcess._send

    def kill_at_the_second(engine: process.EngineProcess, kind: str, tasks: Sequence[Any]) -> None:
        asked.append(len(tasks))
        if len(asked) == 2:
            os.kill(engine._processes[0].pid, signal.SIGSTOP)
        send(engine, kind, tasks)
        if len(asked) == 2:
            kill(engine)

    monkeypatch.setattr(process.EngineProcess, "_send", kill_at_the_second)
    with pytest.raises(UserError, match=r"llama\.cpp ended in the middle of its work \(exit code -9\)"):
        predict(file, questions, tmp_path / "broken.json", settings, quiet)
    predict(file, questions, tmp_path / "broken.json", settings, quiet)
    assert asked == [2, 1, 1] and capfd.readouterr().err == ""
    assert (tmp_path / "broken.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.slow
def test_a_transformers_engine_that_hangs_is_lost_then_ended_and_started_again(
    spoken_model: Path, hf: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("HEARTBEAT_SECONDS", 0.05), ("SILENT_SECONDS", 0.5), ("LOST_SECONDS", 2.0)):
        monkeypatch.setattr(process, name, seconds)
    engine = create_engine("transformers", spoken_model, separate_process=True)
    try:
        assert engine.name == "transformers" and engine.generate([THREE_TOKENS]) == hf.generate([THREE_TOKENS])
        stream = engine.stream(ENDLESS)
        os.kill(engine._processes[0].pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        with pytest.raises(EngineUnavailableError):
            list(stream)
        assert engine.generate([THREE_TOKENS]) == hf.generate([THREE_TOKENS])
        assert engine.alive and engine.restarts == 1  # type: ignore[attr-defined]
    finally:
        engine.close()
