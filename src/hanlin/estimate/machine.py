"""What only the machine can tell: its memory, whether it has a GPU, the faster number format, and measured speeds.

Speeds are measured in a child process (`train.throughput`), because estimates do not import torch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.hardware.devices import VISIBLE_GPUS
from hanlin.core.i18n import tr
from hanlin.core.process import python_command, run_process, total_memory
from hanlin.estimate.batch_plan import BatchPlan
from hanlin.estimate.flops import Speed, step_operations
from hanlin.estimate.memory import Machine, TrainingSetup
from hanlin.estimate.shapes import ModelShape

BLOCKS = 2
ENTRIES = 2048
"""Decoder blocks of a probe's small model; and entries of its vocabulary at least: where the model has many, as large a
part of them as of its blocks, since a head runs at another rate than blocks do."""
LEAST_TOKENS, MOST_TOKENS, OPERATIONS = 512, 2048, 0.4e12
"""Tokens of its step: many, as products of few run slower, but beyond the least no more than these operations take."""
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def detect_machine(settings: Training, gpu: bool) -> Machine:
    """This machine, with the number format that `precision: auto` means on it (as `train.compute.runtime` decides)."""
    if settings.precision != "auto":
        return Machine(settings.precision, gpu)
    return Machine("bfloat16" if gpu or _multiplies_bfloat16() else "float32", gpu)


def has_gpu() -> bool:
    """Whether an NVIDIA GPU can be used here, without importing torch.

    `CUDA_VISIBLE_DEVICES` hides all of them if it is empty or begins with a number that none has (`-1`).
    """
    is_hidden = re.match(r"\s*(-|$)", os.environ.get(VISIBLE_GPUS, "0")) is not None
    return any(Path("/dev").glob("nvidia[0-9]*")) and not is_hidden


def gpu_memory() -> float | None:
    """Bytes of the smallest NVIDIA GPU of this machine, or None if there is none or its driver does not answer."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = run_process(query, capture_output=True, text=True, encoding="utf-8", timeout=10, check=True).stdout
        return min(float(line) for line in shown.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _multiplies_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(re.search(r"\b(amx_bf16|avx512_bf16)\b", flags))


def machine_memory() -> float | None:
    """Bytes of this machine's main memory, or None if the system does not say."""
    total = total_memory()
    return None if total is None else float(total)


def parse_memory_size(text: str) -> float:
    """The bytes of `24GB`, `16GiB` or `80G`. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] == "I":
        hint = tr("write it like 24GB or 16GiB")
        raise UserError(tr("'{text}' is not an amount of memory", text=text), "--memory", hint)
    return float(match[1]) * UNITS[match[2]]


def measure_speeds(stages: list[tuple[str, TrainingSetup]], timeout: float = 300) -> list[tuple[Speed, float]]:
    """Measure how fast this machine trains, in one child process.

    Args:
        stages: Stage kinds with their setups.
        timeout: Seconds after which the measurement is given up.

    Returns:
        For each of them the speed, and the bytes of an idle worker process.

    Raises:
        UserError: The measurement failed.
    """
    rows: list[dict[str, Any]] = []
    small: list[TrainingSetup] = []
    for kind, setup in stages:
        setup = _small(setup)
        small.append(setup)
        shape = setup.shape
        model = {
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "tie_word_embeddings": shape.tied,
            "max_position_embeddings": max(8, setup.settings.max_seq_length),
        }
        settings = setup.settings.model_dump(mode="json")
        tokens, learned = setup.batch.micro_batch_tokens, setup.batch.learned
        rows.append({"kind": kind, "settings": settings, "model": model, "tokens": tokens, "learned": learned})
    command = python_command("-m", "hanlin.train.throughput")
    try:
        process = run_process(
            command, input=json.dumps(rows), capture_output=True, text=True, encoding="utf-8", timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        what = tr("the measurement did not end within {seconds:g} s", seconds=timeout)
        raise UserError(what, "--probe", tr("measure again when nothing else runs, or plan without it")) from error
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or [""])[-1]
        raise UserError(tr("the measurement failed: {last}", last=last), "--probe")
    answers = json.loads(process.stdout.strip().splitlines()[-1])
    return [
        (Speed(answer["products"], step_operations(setup) / answer["seconds"]), answer["process"])
        for setup, answer in zip(small, answers, strict=True)
    ]


def _small(setup: TrainingSetup) -> TrainingSetup:
    """The same training of a few blocks with a part of the vocabulary and few tokens."""
    settings = setup.settings
    layers = min(BLOCKS, setup.shape.layers)
    vocab_size = min(setup.shape.vocab_size, max(ENTRIES, setup.shape.vocab_size * layers // setup.shape.layers))
    shape: ModelShape = replace(setup.shape, layers=layers, vocab_size=vocab_size)
    updates: dict[str, Any] = {"trainable_tokens": None} if settings.trainable_tokens is not None else {}
    if settings.trains_some_blocks or (settings.trainable_tokens is not None and settings.lora is None):
        updates |= {"train_last_layers": min(settings.train_last_layers or 1, shape.layers), "train_blocks": None}

    def with_tokens(max_tokens: int) -> TrainingSetup:
        micro_batch_tokens = min(max_tokens, setup.batch.micro_batch_tokens)
        length = min(settings.max_seq_length, 256, micro_batch_tokens)
        micro_batch_tokens = max(1, micro_batch_tokens // length) * length
        batch = BatchPlan(micro_batch_tokens, 1, float(micro_batch_tokens), setup.batch.learned, 1, (float(length),))
        return replace(setup, shape=shape, settings=settings.model_copy(update=updates), batch=batch)

    smallest = with_tokens(LEAST_TOKENS)
    enough_tokens = int(smallest.batch.micro_batch_tokens * OPERATIONS / step_operations(smallest))
    return with_tokens(min(MOST_TOKENS, max(LEAST_TOKENS, enough_tokens)))
