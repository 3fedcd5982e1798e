"""What is llama.cpp's alone: its files, its working memory, its ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.inference.backends.llama_cpp.engine import LlamaCppEngine
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hanlin.tokenizer.tokenizer import Tokenizer
from random_requests import requests_of

PROMPT = (20, 30, 40)


def test_working_memory_grows_with_the_longest_request(spoken_gguf: Path) -> None:
    engine = LlamaCppEngine(spoken_gguf / "model-F32.gguf", cache_type="f32", parallel=2)
    short = [GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=8)) for _ in range(3)]
    before = engine.generate(short)
    prompt = tuple(10 + number % 300 for number in range(700))
    (long,) = engine.generate([GenerationRequest(prompt, (), SamplingParams(max_new_tokens=4))])
    assert len(long.ids) == 4
    assert engine.generate([*short, GenerationRequest(prompt, (), SamplingParams(max_new_tokens=4))]) == [*before, long]
    engine.close()


def test_a_small_memory_means_fewer_sequences_at_once_and_the_same_answers(spoken_gguf: Path) -> None:
    requests = requests_of(12)
    answers = []
    for cache_bytes in (1, 1 << 30):
        engine = LlamaCppEngine(spoken_gguf / "model-F32.gguf", cache_type="f32", cache_bytes=cache_bytes)
        answers.append(engine.generate(requests))
        engine.close()
    assert answers[0] == answers[1]


def test_a_second_question_after_a_long_beginning_is_answered_as_if_asked_alone(spoken_gguf: Path) -> None:
    beginning = tuple(10 + number % 300 for number in range(400))
    first, second = (GenerationRequest((*beginning, last), (), SamplingParams(max_new_tokens=8)) for last in (33, 44))
    engine = LlamaCppEngine(spoken_gguf / "model-F32.gguf", cache_type="f32")
    together = [engine.generate([first])[0], engine.generate([second])[0]]
    engine.close()
    fresh = LlamaCppEngine(spoken_gguf / "model-F32.gguf", cache_type="f32")
    assert [fresh.generate([second])[0], fresh.generate([first])[0]] == together[::-1]
    fresh.close()


def test_the_files_own_ends_do_not_end_an_answer_that_the_request_goes_on(spoken_gguf: Path) -> None:
    model = LlamaCppModel(spoken_gguf / "model-F32.gguf", vocabulary_only=True)
    ends = model.end_ids
    model.close()
    engine = LlamaCppEngine(spoken_gguf / "model-F32.gguf", cache_type="f32")
    penalised = SamplingParams(temperature=5.0, seed=1, max_new_tokens=600)
    (reply,) = engine.generate([GenerationRequest(PROMPT, (), penalised)])
    engine.close()
    assert len(reply.ids) == 600
    assert set(reply.ids) & ends


def test_a_quantized_file_answers_nearly_as_the_model(spoken_gguf: Path, spoken_model: Path) -> None:
    pairs = [(PROMPT, (50, 60)), ((99, 98), (97,))]
    exact, rounded = (create_engine("auto", path) for path in (spoken_model, spoken_gguf / "model-Q8_0.gguf"))
    for one, other in zip(exact.score(pairs), rounded.score(pairs), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1.0)
    exact.close()
    rounded.close()


def test_a_folder_with_several_files_asks_for_one(spoken_gguf: Path) -> None:
    with pytest.raises(UserError, match=r"2 GGUF files here: model-F32\.gguf, model-Q8_0\.gguf"):
        create_engine("auto", spoken_gguf)


def test_a_folder_without_a_file_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no GGUF file here"):
        create_engine("llama_cpp", tmp_path)


def test_a_broken_file_is_refused_in_words(spoken_gguf: Path, tmp_path: Path) -> None:
    whole = (spoken_gguf / "model-F32.gguf").read_bytes()
    for name, content, said in (
        ("text.gguf", b"hello world", "not a GGUF file"),
        ("cut.gguf", whole[: len(whole) // 2], r"llama\.cpp cannot load this file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            LlamaCppEngine(tmp_path / name)
    with pytest.raises(UserError, match="no such GGUF file"):
        LlamaCppEngine(tmp_path / "none.gguf")


def test_a_closed_engine_answers_nothing(spoken_gguf: Path) -> None:
    engine = LlamaCppEngine(spoken_gguf / "model-F32.gguf")
    stream = engine.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=900)))
    next(stream)
    engine.close()
    list(stream)
    assert stream.finish_reason == "cancelled"
    with pytest.raises(RuntimeError, match="closed"):
        engine.generate([GenerationRequest(PROMPT, ())])
    engine.close()


def test_half_a_character_is_streamed_as_ids(spoken_gguf: Path) -> None:
    """Each id comes at once, whether or not it completes a character."""
    tokenizer = Tokenizer.load(spoken_gguf)
    engine = LlamaCppEngine(spoken_gguf / "model-F32.gguf", cache_type="f32")
    request = GenerationRequest(PROMPT, (), SamplingParams(temperature=3.0, seed=4, max_new_tokens=200))
    ids = list(engine.stream(request))
    assert len(ids) == 200
    assert any(tokenizer.token_bytes(number)[:1] >= b"\x80" for number in ids)
    engine.close()


def test_a_program_that_forgets_to_close_ends_quietly(spoken_gguf: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hanlin.inference.protocol import *\n"
        "from hanlin.inference.registry import create_engine\n"
        "engine = create_engine('auto', Path(sys.argv[1]))\n"
        "stream = engine.stream(GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=900)))\n"
        "print(next(stream))\n"
    )
    command = [sys.executable, "-c", code, str(spoken_gguf / "model-F32.gguf")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().isdigit()
