"""Real servers of other programs as engines: llama-server and vLLM, where the environment names them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.inference.backends.http.process import ServerProcess, free_port
from hanlin.inference.backends.http.replicas import Replica
from hanlin.inference.protocol import Completion, Engine, EngineUnavailableError, GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_llama import tiny_llama
from waiting import wait_until

PROMPT = (20, 30, 40)
STOPS = (7, 8, 9, 11, 13)


def test_a_program_that_is_not_there_is_told_in_one_sentence(spoken_gguf: Path, spoken_model: Path) -> None:
    with pytest.raises(UserError, match="there is no program 'no-such-server'"):
        create_engine("llama_server", spoken_gguf / "model-F32.gguf", at=["no-such-server"])
    with pytest.raises(UserError, match="there is no program 'no-such-vllm'"):
        create_engine("vllm", spoken_model, at=["no-such-vllm"])


def test_a_program_that_ends_at_once_says_why(spoken_gguf: Path) -> None:
    with pytest.raises(UserError, match=r"ls does not start \(2\): .*--model"):
        create_engine("llama_server", spoken_gguf / "model-F32.gguf", at=["ls"])


def test_an_address_where_nobody_answers_is_told(spoken_gguf: Path) -> None:
    with pytest.raises(UserError, match="no server of this model can be reached"):
        create_engine("llama_server", spoken_gguf / "model-F32.gguf", at=["http://127.0.0.1:9"])


def test_a_program_that_is_closed_while_it_is_started_again_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    program = ServerProcess(command, {}, Replica(f"http://127.0.0.1:{port}"))
    program.wait_until_healthy("/")
    start, started = program._start, []

    def start_and_close() -> subprocess.Popen[bytes]:
        started.append(start())
        program.close()
        return started[0]

    monkeypatch.setattr(program, "_start", start_and_close)
    os.killpg(program._running[0].pid, signal.SIGKILL)
    wait_until(lambda: started and started[0].poll() is not None and not program.log.exists(), "it is left behind")


def kill(engine: Engine) -> None:
    os.killpg(engine._programs[0]._running[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]


def comes_back(engine: Engine, request: GenerationRequest, seconds: float) -> list[Completion]:
    end = time.monotonic() + seconds
    while True:
        try:
            return engine.generate([request])
        except EngineUnavailableError:
            assert time.monotonic() < end, "it is not started again"
            time.sleep(0.2)


def assert_is_started_again(engine: Engine, long: int, seconds: float) -> None:
    """Killed in the middle of an answer of `long` ids it breaks that one off, and gives the next as before."""
    request = GenerationRequest(PROMPT, STOPS, SamplingParams(max_new_tokens=5))
    before = engine.generate([request])
    stream = engine.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=long)))
    next(stream)
    kill(engine)
    with pytest.raises(EngineUnavailableError):
        list(stream)
    assert comes_back(engine, request, seconds) == before


# ------------------------------------------------------------------------------------------------------ llama-server


@pytest.fixture(scope="module")
def llama_server(spoken_gguf: Path) -> Iterator[Engine]:
    folder = os.environ.get("HANLIN_LLAMA_CPP", "")
    if not folder:
        pytest.skip("HANLIN_LLAMA_CPP names no folder of llama.cpp's tools")
    program = next(Path(folder).rglob("llama-server"))
    engine = create_engine("llama_server", spoken_gguf / "model-F32.gguf", at=[str(program)], context_length=256)
    yield engine
    engine.close()


@pytest.mark.llama_cpp
def test_llama_server_gives_the_ids_of_the_embedded_engine(llama_server: Engine, cpp: Engine) -> None:
    """As far as the answer is text: of bytes that are no UTF-8 the server shows replacement characters."""
    whole = 0
    for number in range(30):
        request = GenerationRequest((20 + number, 30, 40), STOPS, SamplingParams(max_new_tokens=6))
        (ours,), (theirs,) = cpp.generate([request]), llama_server.generate([request])
        if 171 in theirs.ids:  # U+FFFD begins so in this vocabulary
            continue
        whole += 1
        assert theirs.ids == ours.ids[: len(theirs.ids)]
    assert whole >= 8


@pytest.mark.llama_cpp
def test_llama_server_is_started_again(llama_server: Engine) -> None:
    assert_is_started_again(llama_server, long=240, seconds=60)


@pytest.mark.llama_cpp
def test_llama_server_says_what_it_cannot_do(llama_server: Engine) -> None:
    with pytest.raises(UserError, match="no log probabilities"):
        llama_server.stream(GenerationRequest(PROMPT, (), SamplingParams(top_logprobs=1)))
    with pytest.raises(UserError, match="cannot score a given text"):
        llama_server.score([(PROMPT, PROMPT)])
    with pytest.raises(UserError, match="gives no embeddings"):
        llama_server.embed([PROMPT])


# ------------------------------------------------------------------------------------------------------ vLLM


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A tiny model whose heads are wide enough for vLLM on a CPU."""
    tokenizer = Tokenizer.load(tiny_tokenizer)
    folder = tmp_path_factory.mktemp("wide")
    tokenizer.save(folder)
    return tiny_llama(folder, tokenizer, seed=3, hidden_size=128, initializer_range=0.2)


@pytest.fixture(scope="module")
def vllm(wide_model: Path) -> Iterator[Engine]:
    if not os.environ.get("HANLIN_VLLM"):
        pytest.skip("HANLIN_VLLM names no vLLM")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = create_engine("vllm", wide_model, arguments=["--dtype", "float32", "--enforce-eager"])
    yield engine
    engine.close()


@pytest.mark.vllm
def test_vllm_answers_scores_and_stops_as_transformers_does(vllm: Engine, wide_model: Path) -> None:
    ours = create_engine("transformers", wide_model)
    requests = [
        GenerationRequest((20 + number, 30, 40), STOPS, SamplingParams(max_new_tokens=20)) for number in range(8)
    ]
    assert vllm.generate(requests) == ours.generate(requests)
    pairs = [((20, 30), (40, 50, 60)), ((1, 2, 3, 4), (5,))]
    for theirs, mine in zip(vllm.score(pairs), ours.score(pairs), strict=True):
        assert theirs.logprob == pytest.approx(mine.logprob, abs=0.01) and theirs.greedy == mine.greedy
    likely = GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=5, top_logprobs=2))
    mine_stream, their_stream = ours.stream(likely), vllm.stream(likely)
    assert list(mine_stream) == list(their_stream)
    for mine_one, their_one in zip(mine_stream.logprobs, their_stream.logprobs, strict=True):
        assert their_one.logprob == pytest.approx(mine_one.logprob, abs=0.01)
        assert [number for number, _ in their_one.top] == [number for number, _ in mine_one.top]
    ours.close()


@pytest.mark.vllm
def test_vllm_is_started_again(vllm: Engine) -> None:
    assert_is_started_again(vllm, long=200, seconds=600)
