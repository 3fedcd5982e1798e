"""Schemas of clients run in processes of their own: what costs too much is ended there, and nobody else notices."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.serve.errors import ApiError
from hanlin.serve.grammar_worker import LIMITS
from hanlin.serve.guided_decoding import GrammarCompiler, GrammarConstraint
from hanlin.tokenizer.tokenizer import Tokenizer
from live_server import run_server
from waiting import hang_limit

NAME = {"type": "object", "properties": {"名": {"enum": ["甲", "乙"]}}, "required": ["名"]}


def patterns(*parts: str) -> dict[str, Any]:
    return {"type": "string", "allOf": [{"pattern": part} for part in parts]}


COSTLY: dict[str, dict[str, Any]] = {
    "periods": patterns(*(f"^(.{{{count}}})*$" for count in (97, 101, 103, 107))),
    "intersections": patterns(*(f"a.{{{count}}}b" for count in range(97, 137))),
    "prime": {"type": "integer", "multipleOf": 1_000_000_007},
    "growing references": {
        "$defs": {
            "d0": {"type": "object", "properties": {"z": {"type": "string"}}},
            **{
                f"d{level}": {
                    "allOf": [
                        {"anyOf": [{"$ref": f"#/$defs/d{level - 1}"}, {"properties": {f"{side}{level}": {}}}]}
                        for side in "pq"
                    ]
                }
                for level in range(1, 30)
            },
        },
        "$ref": "#/$defs/d29",
    },
}


@pytest.fixture(scope="module")
def compiler(taught_model: Path) -> Iterator[GrammarCompiler]:
    tokenizer = Tokenizer.load(taught_model)
    assert tokenizer.eos_id is not None
    compiler = GrammarCompiler((tokenizer.eos_id,), taught_model)
    compiler.compile_schema(NAME, "x")
    yield compiler
    compiler.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@pytest.mark.parametrize("schema", COSTLY.values(), ids=COSTLY)
def test_a_schema_that_costs_too_much_is_refused_and_its_memory_comes_back(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as refusal:
        compiler.compile_schema(schema, "response_format")
    assert (refusal.value.status, refusal.value.param) == (400, "response_format")
    resident = 0
    for child in children(compiler.process_id):
        resident += int(Path(f"/proc/{child}/statm").read_text(encoding="ascii").split()[1]) << 12
    assert resident < LIMITS.memory_bytes * 2  # idle workers: the pages that they share are counted in each


def test_other_grammars_are_stepped_while_a_costly_one_is_compiled(opened: LoadedEngine) -> None:
    with run_server(opened) as server, httpx.Client(base_url=server.address, timeout=300) as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 40}
        ordinary = {**body, "response_format": {"type": "json_schema", "json_schema": {"schema": NAME}}}
        costly = {**body, "response_format": {"type": "json_schema", "json_schema": {"schema": COSTLY["periods"]}}}
        assert client.post("/v1/chat/completions", json=ordinary).status_code == 200
        refused: list[httpx.Response] = []
        attack = threading.Thread(
            target=lambda: refused.append(httpx.post(f"{server.address}/v1/chat/completions", json=costly, timeout=300))
        )
        attack.start()
        answered = 0
        while attack.is_alive() and answered < 1000:
            answer = client.post("/v1/chat/completions", json=ordinary).json()
            assert json.loads(answer["choices"][0]["message"]["content"])["名"] in "甲乙"
            answered += 1
        attack.join()
        assert answered >= 2
        assert refused[0].status_code == 400 and refused[0].json()["error"]["param"], refused[0].text


def test_an_answer_whose_worker_is_lost_ends_and_those_beside_it_go_on(
    compiler: GrammarCompiler, untaught: LoadedEngine
) -> None:
    digits = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
    constraint = compiler.compile_schema(digits, "x")
    sampling = SamplingParams(max_new_tokens=60)
    stream = untaught.engine.stream(GenerationRequest((1, 2), compiler.stop_ids, sampling, constraint))
    beside = untaught.engine.stream(GenerationRequest((1, 3), (), sampling))
    next(stream)
    for worker in children(compiler.process_id):
        os.kill(worker, signal.SIGKILL)
    assert len(list(stream)) < 59 and stream.finish_reason == "stop"
    assert "MB" in constraint.failed
    assert len(list(beside)) == 60
    compiler.compile_schema(NAME, "x")


@pytest.mark.parametrize("is_costly", [False, True])
def test_only_the_worker_of_a_costly_grammar_stands_back_when_an_engine_takes_it_over(
    compiler: GrammarCompiler, is_costly: bool
) -> None:
    compiled = compiler.compile_schema(NAME, "x")
    grammar, spec = compiled._grammar, compiled.spec
    compiled.close()
    constraint = GrammarConstraint(compiler.address, compiler.stop_ids, grammar, spec, is_costly=is_costly)
    with hang_limit():
        restored = pickle.loads(pickle.dumps(constraint))
        assert restored.allowed_tokens().any()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    priorities = {os.getpriority(os.PRIO_PROCESS, worker) for worker in children(compiler.process_id)}
    assert (max(priorities) > own) is is_costly
    restored.close()


def test_a_constraint_that_is_not_ready_holds_up_no_answer_beside_it(untaught: LoadedEngine) -> None:
    class Late:
        """A constraint that has its first mask when all of the answer beside it has been read."""

        failed = ""
        spec: ClassVar[Mapping[str, Any]] = {}

        def is_ready(self, seconds: float = 0.0) -> bool:
            return ready.wait(seconds)

        def close(self) -> None:
            pass

        def allowed_tokens(self) -> Any:
            assert ready.is_set()
            return np.arange(300) == 7

        def accept_token(self, token_id: int) -> None:
            pass

    ready = threading.Event()
    sampling = SamplingParams(max_new_tokens=20)
    list(untaught.engine.stream(GenerationRequest((1, 2), (), sampling)))
    late = untaught.engine.stream(GenerationRequest((1, 2), (), sampling, Late()))
    beside = untaught.engine.stream(GenerationRequest((1, 3), (), sampling))
    try:
        with hang_limit():
            assert len(list(beside)) == 20
    finally:
        ready.set()
    assert list(late) == [7] * 20


def test_the_grammar_process_ends_with_the_server_and_is_started_again_if_it_is_lost(taught_model: Path) -> None:
    tokenizer = Tokenizer.load(taught_model)
    assert tokenizer.eos_id is not None
    compiler = GrammarCompiler((tokenizer.eos_id,), taught_model)
    compiler.compile_schema(NAME, "x")
    first = compiler.process_id
    os.kill(first, signal.SIGKILL)
    for _ in range(100):
        if compiler.process_id != first:
            break
        time.sleep(0.01)
        compiler.compile_schema(NAME, "x")
    folder = Path(compiler.address).parent
    process_id = compiler.process_id
    assert folder.is_dir() and process_id != first
    compiler.close()
    assert not folder.exists() and not Path(f"/proc/{process_id}").exists()
