"""How fast this machine multiplies matrices, and how fast it trains a small model of a given width: `hanlin plan
--probe` runs this file as a process of its own.

Owns the measurement. What is made of it stands in `estimate`. The small model has a few blocks of the width asked for
and a short vocabulary, and is trained by the very code of a run, on random tokens.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hanlin.config.settings.preference import Dpo, Kto, Orpo, Simpo
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.core.process import peak_host_memory
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.runtime import faster_dtype
from hanlin.train.dataset.document_layout import DocumentLayout
from hanlin.train.dataset.packed import MicroBatch
from hanlin.train.distributed.context import DistContext
from hanlin.train.load import load_train_model

KINDS = {form.__name__.lower(): form for form in (Pretrain, Sft, Dpo, Orpo, Simpo, Kto)}
ROUNDS = 5
SIDE = 1024
"""Rows and columns of the matrices that are multiplied on a CPU; on a GPU eight times as many."""
WARM = 2
"""Steps before the first that counts: kernels are chosen and memory is taken."""


def probe(row: dict[str, Any]) -> dict[str, float]:
    """`row` holds `kind` and `settings` of a stage, the `model`'s configuration and `tokens` of a pass.

    Returns the rates in operations a second (`products`), the `seconds` of a forward and backward pass, and the bytes
    that this process held before it made a model (`process`).
    """
    dist = DistContext.initialize()
    held = float(peak_host_memory() or 0)
    settings: Any = KINDS[row["kind"]].model_validate(row["settings"])
    number_format = faster_dtype(dist.device) if settings.precision == "auto" else settings.precision
    products = product_rate(dist.device, getattr(torch, number_format))
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        fresh = LlamaForCausalLM(LlamaConfig(**row["model"]))
        fresh.to(getattr(torch, number_format)).save_pretrained(folder)
        del fresh
        model = load_train_model(Path(folder), settings, 0, dist.device, number_format)
        batch = _pass(int(row["tokens"]), settings, int(row["model"]["vocab_size"]), float(row["learned"]))
        seconds = _median(lambda: _learn(model, batch.to(dist.device), settings), dist.device)
    return {"products": products, "seconds": seconds, "process": held}


def product_rate(device: torch.device, number_format: torch.dtype) -> float:
    """Operations a second of one product of square matrices."""
    side = SIDE * (8 if device.type == "cuda" else 1)
    one, other = (torch.randn(side, side, device=device, dtype=number_format) for _ in range(2))
    return 2.0 * side**3 / _median(lambda: one @ other, device)


def _learn(model: TrainModel, batch: MicroBatch, settings: Training) -> None:
    model.refresh()
    if isinstance(settings, Pretrain | Sft):
        model.loss_sum(batch).backward()
    else:
        model.token_logprobs(batch).sum().backward()
    for _, parameter in model.trainable_parameters():
        parameter.grad = None


def _pass(tokens: int, settings: Training, entries: int, learnt_share: float) -> MicroBatch:
    """Random tokens in documents of a few hundred, the last of each learned."""
    length = min(settings.max_seq_length, 256, tokens)
    count = max(1, tokens // length)
    tokens = count * length
    learned = torch.arange(tokens).view(count, length)[:, length - max(1, round(length * learnt_share)) :].reshape(-1)
    return MicroBatch(
        input_ids=torch.randint(0, entries, (1, tokens)),
        position_ids=torch.arange(length).repeat(count)[None],
        target_positions=learned,
        targets=torch.randint(0, entries, (len(learned),)),
        target_counts=(len(learned) // count,) * count,
        documents=DocumentLayout([length] * count),
        sample_indices=tuple(range(count)),
        tokens=tokens,
    )


def _median(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for turn in range(WARM + ROUNDS):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= WARM:
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    rows = json.loads(sys.stdin.read())
    print(json.dumps([probe(row) for row in rows]))
