"""How fast this machine multiplies matrices and trains a small model. `hanlin plan --probe` runs this as a process.

The small model has a few blocks of the real width and a short vocabulary, and is trained by the very code of a run, on
random tokens. `hanlin.estimate` estimates whole runs from the figures.
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

from hanlin.config.kinds import get_kind
from hanlin.config.settings.preference import AlignmentSettings
from hanlin.config.settings.train import Training
from hanlin.core.hardware.devices import is_cpu, synchronize
from hanlin.core.process import peak_host_memory
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.runtime import faster_precision
from hanlin.train.dataset.document_layout import DocumentLayout
from hanlin.train.dataset.packed import MicroBatch
from hanlin.train.distributed.context import DistContext
from hanlin.train.load import load_train_model

CPU_MATRIX_SIZE = 1024
"""Rows and columns of the matrices that are multiplied on a CPU; on a GPU eight times as many."""
WARMUP_STEPS, MEASURED_STEPS = 2, 5
"""In the first steps kernels are chosen and memory is allocated; the others count."""


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Measure one stage.

    Args:
        request: `kind` and `settings` of the stage, the `model`'s configuration, the `tokens` of a micro-batch and the
            fraction of them that is `learned`.

    Returns:
        `products`, operations per second of a matrix product; `seconds` of a forward and backward pass; `process`, the
        bytes that this process held before it made a model.
    """
    dist = DistContext.initialize()
    bytes_before = float(peak_host_memory() or 0)
    settings: Any = get_kind(request["kind"]).settings.model_validate(request["settings"])
    precision = faster_precision(dist.device) if settings.precision == "auto" else settings.precision
    products = measure_matmul_rate(dist.device, getattr(torch, precision))
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        hf_model = LlamaForCausalLM(LlamaConfig(**request["model"]))
        hf_model.to(getattr(torch, precision)).save_pretrained(folder)
        del hf_model
        model = load_train_model(Path(folder), settings, 0, dist.device, precision)
        vocab_size = int(request["model"]["vocab_size"])
        batch = _random_batch(int(request["tokens"]), settings, vocab_size, float(request["learned"]))
        seconds = _median_seconds(lambda: _train_step(model, batch.to(dist.device), settings), dist.device)
    return {"products": products, "seconds": seconds, "process": bytes_before}


def measure_matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one product of square matrices."""
    size = CPU_MATRIX_SIZE * (1 if is_cpu(device) else 8)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / _median_seconds(lambda: left @ right, device)


def _train_step(model: TrainModel, batch: MicroBatch, settings: Training) -> None:
    model.refresh()
    if not isinstance(settings, AlignmentSettings):
        model.loss_sum(batch).backward()
    else:
        model.token_logprobs(batch).sum().backward()
    for _, parameter in model.trainable_parameters():
        parameter.grad = None


def _random_batch(tokens: int, settings: Training, vocab_size: int, target_fraction: float) -> MicroBatch:
    """Random tokens in documents of a few hundred, the last of each learned."""
    length = min(settings.max_seq_length, 256, tokens)
    count = max(1, tokens // length)
    tokens = count * length
    first_target = length - max(1, round(length * target_fraction))
    target_positions = torch.arange(tokens).view(count, length)[:, first_target:].reshape(-1)
    return MicroBatch(
        input_ids=torch.randint(0, vocab_size, (1, tokens)),
        position_ids=torch.arange(length).repeat(count)[None],
        target_positions=target_positions,
        targets=torch.randint(0, vocab_size, (len(target_positions),)),
        target_counts=(len(target_positions) // count,) * count,
        documents=DocumentLayout([length] * count),
        sample_indices=tuple(range(count)),
        tokens=tokens,
    )


def _median_seconds(function: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for step in range(WARMUP_STEPS + MEASURED_STEPS):
        start = time.perf_counter()
        function()
        synchronize(device)
        if step >= WARMUP_STEPS:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    requests = json.loads(sys.stdin.read())
    print(json.dumps([measure(request) for request in requests]))
