"""A trained model's lossless exports give the same greedy ids in every engine, on 200 held-out questions.

HANLIN_QUICKSTART names a run of the quickstart (`runs/quickstart`). HANLIN_LLAMA_CPP_PYTHON names a Python that has
llama-cpp-python, HANLIN_VLLM the program of a vLLM on a CPU; what is not named is left out. Where two engines differ,
the two likeliest ids must be nearly as likely: sums in another order decide between them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.chat.template import ChatTemplate
from hanlin.core.records import Message
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hanlin.models.load import load_model

pytestmark = pytest.mark.llama_cpp

Export = Callable[..., tuple[Path, dict[str, Any]]]
Answers = list[list[int]]
QUESTIONS, LONGEST = 200, 48
NEAR = {"F32": 1e-3, "BF16": 0.15}
"""How far apart, in logits, the two ids may be that engines differ on: bfloat16 inputs are rounded too."""

_LLAMA_CPP_PYTHON = """
import json, sys
from llama_cpp import Llama
asked = json.load(open(sys.argv[2]))
model = Llama(sys.argv[1], n_ctx=512, verbose=False, n_threads=1)
for ids in asked["prompts"]:
    found = []
    for number in model.generate(ids, temp=0.0, repeat_penalty=1.0):
        found.append(number)
        if number in asked["stops"] or len(found) == asked["longest"]:
            break
    print(json.dumps(found), flush=True)
"""
_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
asked = json.load(open(sys.argv[2]))
model = LLM(sys.argv[1], dtype=sys.argv[3], enforce_eager=True, max_model_len=512)
chosen = SamplingParams(temperature=0, max_tokens=asked["longest"], stop_token_ids=asked["stops"])
for answer in model.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], chosen):
    print(json.dumps(list(answer.outputs[0].token_ids)), flush=True)
"""


@pytest.fixture(scope="module")
def run() -> Path:
    named = os.environ.get("HANLIN_QUICKSTART")
    if not named:
        pytest.skip("HANLIN_QUICKSTART names no run of the quickstart")
    return Path(named)


def ours(engine: str, path: Path, prompts: Sequence[Sequence[int]], stops: Sequence[int], **options: Any) -> Answers:
    opened = create_engine(engine, path, **options)
    try:
        requests = [
            GenerationRequest(tuple(ids), tuple(stops), SamplingParams(max_new_tokens=LONGEST)) for ids in prompts
        ]
        return [list(reply.ids) for reply in opened.generate(requests)]
    finally:
        opened.close()


def theirs(program: Sequence[str | Path], code: str, arguments: Sequence[object], stops: Sequence[int]) -> Answers:
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": ""}
    words = [*map(str, program), "-c", code, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return [row[:-1] if row and row[-1] in stops else row for row in rows]


def rounded(model: Path, folder: Path) -> Path:
    """The model with its weights rounded to bfloat16, kept in float32."""
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file() and file.suffix == ".safetensors":
            tensors = {name: tensor.bfloat16().float() for name, tensor in load_file(file).items()}
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        elif file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("file_type", ["F32", "BF16"])
def test_every_engine_gives_the_same_greedy_ids(file_type: str, run: Path, export: Export, tmp_path: Path) -> None:
    model = (run / "merged").resolve()
    template = ChatTemplate.load(model)
    lines = (run / "world" / "questions" / "validation.jsonl").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    asked = [tuple(Message(turn["role"], turn["text"]) for turn in json.loads(line)["messages"]) for line in lines]
    prompts = [template.render(messages, prompt=True).ids for messages in asked]
    assert len(prompts) == QUESTIONS
    stops = list(template.stop_ids)
    out, _ = export(model, file_type)
    gguf = out / f"model-{file_type}.gguf"
    source = model if file_type == "F32" else rounded(model, tmp_path / "rounded")
    (tmp_path / "asked.json").write_text(json.dumps({"prompts": prompts, "stops": stops, "longest": LONGEST}))
    answers = {
        "transformers": ours("transformers", source, prompts, stops),
        "llama.cpp": ours("llama_cpp", gguf, prompts, stops, parallel=1),
    }
    if python := os.environ.get("HANLIN_LLAMA_CPP_PYTHON"):
        answers["llama-cpp-python"] = theirs([python], _LLAMA_CPP_PYTHON, [gguf, tmp_path / "asked.json"], stops)
    if vllm := os.environ.get("HANLIN_VLLM"):
        number_format = {"F32": "float32", "BF16": "bfloat16"}[file_type]
        arguments = [source, tmp_path / "asked.json", number_format]
        answers["vllm"] = theirs([Path(vllm).with_name("python")], _VLLM, arguments, stops)
    network: Any = load_model(source)
    reference = answers.pop("transformers")
    for name, found in answers.items():
        assert len(found) == QUESTIONS
        gaps = [
            gap_of(network, prompt, one, other)
            for prompt, one, other in zip(prompts, reference, found, strict=True)
            if one != other
        ]
        print(f"{file_type} {name}: {QUESTIONS - len(gaps)} of {QUESTIONS} equal; gaps where not: {sorted(gaps)}")
        assert all(gap < NEAR[file_type] for gap in gaps), (name, gaps)


def gap_of(network: Any, prompt: Sequence[int], one: Sequence[int], other: Sequence[int]) -> float:
    """By how much the logit of the id that one engine chose is above the other's, where they first differ; an end is
    the likeliest id that ends an answer.
    """
    pairs = zip([*one, None], [*other, None], strict=False)
    place = next(place for place, pair in enumerate(pairs) if pair[0] != pair[1])
    with torch.inference_mode():
        logits = network(torch.tensor([[*prompt, *one[:place]]])).logits[0, -1]
    chosen = other[place] if place < len(other) else None
    best = float(logits.max())
    return best - float(logits[chosen] if chosen is not None else logits.topk(2).values[1])
