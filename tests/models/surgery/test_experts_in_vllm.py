"""A real vLLM computes upcycled experts as transformers does: at birth as the dense model, and once they differ.

HANLIN_VLLM names the program of a vLLM on a CPU; without it the tests skip.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.core.context import Inputs, StageContext
from hanlin.models.load import load_model
from hanlin.models.surgery import experts
from hanlin.tokenizer.tokenizer import Tokenizer
from live_vllm import vllm_environment, vllm_program
from tiny_llama import LLAMA3_ROPE, tiny_llama

pytestmark = pytest.mark.vllm

PROMPTS = [[7 + (seed * 31 + place * 17) % 200 for place in range(4 + 3 * seed)] for seed in range(8)]
LONGEST = 24
NEAR = 1e-3
"""How far apart, in nats, log-probabilities in float32 may be: sums are in another order."""

_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
prompts, folders = json.loads(sys.argv[1]), sys.argv[3:]
chosen = SamplingParams(temperature=0, max_tokens=int(sys.argv[2]), ignore_eos=True, logprobs=1, prompt_logprobs=0)
for folder in folders:
    model = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=8)
    answers = model.generate([{"prompt_token_ids": ids} for ids in prompts], chosen)
    rows = []
    for ids, answer in zip(prompts, answers):
        written = answer.outputs[0]
        values = [step[id].logprob for id, step in zip(ids[1:], answer.prompt_logprobs[1:])]
        values += [step[id].logprob for id, step in zip(written.token_ids, written.logprobs)]
        rows.append({"ids": list(written.token_ids), "logprobs": values})
    print(json.dumps(rows), flush=True)
    del model
"""


@dataclass(frozen=True)
class Answer:
    """Greedy ids, and the log-probability of every id of the prompt but the first, then of the answer."""

    ids: list[int]
    logprobs: torch.Tensor


def answers_of_vllm(*folders: Path) -> list[list[Answer]]:
    """The answers of each model to `PROMPTS`. One process computes them all: its start takes longer than the rest."""
    python = Path(vllm_program()).with_name("python")
    words = [str(python), "-c", _VLLM, json.dumps(PROMPTS), str(LONGEST), *map(str, folders)]
    environment = vllm_environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    models = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('[{"ids"')]
    assert len(models) == len(folders)
    return [[Answer(row["ids"], torch.tensor(row["logprobs"])) for row in rows] for rows in models]


def logprobs_of_transformers(network: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of all entries behind each id but the last: a row for every id but the first."""
    with torch.inference_mode():
        return torch.log_softmax(network(torch.tensor([ids])).logits[0, :-1].float(), -1)


def compare(name: str, answers: Sequence[Answer], model: Path) -> None:
    """VLLM's log-probabilities are those of transformers, and the ids it chose the likeliest there."""
    network: Any = load_model(model)
    assert len(answers) == len(PROMPTS)
    farthest = highest = 0.0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert len(answer.ids) == LONGEST
        ids = [*prompt, *answer.ids]
        rows = logprobs_of_transformers(network, ids)
        own = rows[torch.arange(len(rows)), torch.tensor(ids[1:])]
        farthest = max(farthest, float((own - answer.logprobs).abs().max()))
        highest = max(highest, float((rows.amax(-1) - own)[-LONGEST:].max()))
    print(f"{name}: log-probabilities at most {farthest:.1e} nats apart, chosen ids {highest:.1e} below the likeliest")
    assert farthest < NEAR and highest < NEAR


def differing_experts(folder: Path, out: Path) -> Path:
    """The model with noise of its own on each matrix of each expert and router, as a stand-in for training."""
    out.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if "block_sparse_moe" in name:
            tensor += torch.randn(tensor.shape, generator=generator) * tensor.std()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize(("per_token", "rope"), [(2, None), (1, LLAMA3_ROPE)], ids=["two of four", "one of four"])
def test_vllm_computes_upcycled_experts_as_the_dense_model_and_as_transformers(
    per_token: int, rope: dict[str, Any] | None, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    vllm_program()
    tokenizer = Tokenizer.load(tiny_tokenizer)
    # heads of 32 numbers, the smallest that vLLM computes on a CPU; weights are large, so that choices are clear
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.15}
    if rope:
        shape["rope_parameters"] = rope
    dense = tiny_llama(tmp_path / "dense", tokenizer, seed=5, **shape)
    tokenizer.save(dense)
    born = tmp_path / "born"
    born.mkdir()
    settings = UpcycleExperts.model_validate({"model": "./m", "experts": 4, "experts_per_token": per_token})
    experts.run(settings, Inputs({"model": (dense,)}), born, StageContext(seed=42))

    grown = differing_experts(born, tmp_path / "grown")

    of_dense, of_born, of_grown = answers_of_vllm(dense, born, grown)
    compare("at birth, beside transformers", of_born, born)
    compare("at birth, beside the dense model", of_born, dense)
    assert [answer.ids for answer in of_born] == [answer.ids for answer in of_dense]
    compare("experts that differ, beside transformers", of_grown, grown)
    assert [answer.ids for answer in of_grown] != [answer.ids for answer in of_dense]
