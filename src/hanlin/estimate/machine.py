"""What only the machine can say, asked of a process that may import torch (`train.probe`), and what a plan can tell
without: its memory, whether it has a GPU, and which number format it multiplies faster.

Owns the questions and what is made of the answers. Does not own the measurement.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.process import total_memory
from hanlin.estimate.batch_plan import Portions
from hanlin.estimate.flops import Speed, step_operations
from hanlin.estimate.memory import Account, Machine
from hanlin.estimate.shapes import ModelShape

BLOCKS = 2
ENTRIES = 2048
"""Decoder blocks of a probe's small model; and entries of its vocabulary at least: where the model has many, as large a
part of them as of its blocks, since a head runs at another rate than blocks do."""
LEAST_TOKENS, MOST_TOKENS, OPERATIONS = 512, 2048, 0.4e12
"""Tokens of its step: many, as products of few run slower, but beyond the least no more than these operations take."""
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def machine_of(settings: Training, gpu: bool) -> Machine:
    """This machine, with the number format that `precision: auto` would take (`train.precision`)."""
    if settings.precision != "auto":
        return Machine(settings.precision, gpu)
    return Machine("bfloat16" if gpu or _multiplies_bfloat16() else "float32", gpu)


def has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def _multiplies_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(re.search(r"\b(amx_bf16|avx512_bf16)\b", flags))


def memory_here() -> float | None:
    """Bytes of this machine's memory; None where it does not say."""
    total = total_memory()
    return None if total is None else float(total)


def bytes_of(text: str) -> float:
    """`24GB`, `16GiB`, `80G` as bytes. Raises UserError for another form."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if found is None or found[2] == "I":
        hint = say("write it like 24GB or 16GiB", "请写成 24GB 或 16GiB")
        raise UserError(say(f"'{text}' is no amount of memory", f"“{text}”不是内存大小"), "--memory", hint)
    return float(found[1]) * UNITS[found[2]]


def speeds(asked: list[tuple[str, Account]], timeout: float = 300) -> list[tuple[Speed, float]]:
    """How fast this machine trains each kind and account, and the bytes of an idle worker. One process measures all."""
    rows: list[dict[str, Any]] = []
    small: list[Account] = []
    for kind, account in asked:
        account = _small(account)
        small.append(account)
        shape = account.shape
        model = {
            "vocab_size": shape.entries,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.wide,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "head_dim": shape.head,
            "tie_word_embeddings": shape.tied,
            "max_position_embeddings": max(8, account.settings.max_seq_length),
        }
        settings = account.settings.model_dump(mode="json")
        tokens, learned = account.portions.at_once, account.portions.learned
        rows.append({"kind": kind, "settings": settings, "model": model, "tokens": tokens, "learned": learned})
    command = [sys.executable, "-m", "hanlin.train.throughput"]
    done = subprocess.run(
        command, input=json.dumps(rows), capture_output=True, text=True, encoding="utf-8", timeout=timeout
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise UserError(say(f"the probe failed: {last}", f"探测失败：{last}"), "--probe")
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    return [
        (Speed(answer["products"], step_operations(account) / answer["seconds"]), answer["process"])
        for account, answer in zip(small, answers, strict=True)
    ]


def _small(account: Account) -> Account:
    """The same training of a few blocks with a part of the vocabulary and few tokens."""
    settings = account.settings
    layers = min(BLOCKS, account.shape.layers)
    entries = min(account.shape.entries, max(ENTRIES, account.shape.entries * layers // account.shape.layers))
    shape: ModelShape = replace(account.shape, layers=layers, entries=entries)
    changed: dict[str, Any] = {"trainable_tokens": None} if settings.trainable_tokens is not None else {}
    if settings.train_last_layers is not None or (settings.trainable_tokens is not None and settings.lora is None):
        changed["train_last_layers"] = min(settings.train_last_layers or 1, shape.layers)

    def of_tokens(most: int) -> Account:
        at_once = min(most, account.portions.at_once)
        length = min(settings.max_seq_length, 256, at_once)
        at_once = max(1, at_once // length) * length
        portions = Portions(at_once, 1, float(at_once), account.portions.learned, 1, (float(length),))
        return replace(account, shape=shape, settings=settings.model_copy(update=changed), portions=portions)

    few = of_tokens(LEAST_TOKENS)
    enough = int(few.portions.at_once * OPERATIONS / step_operations(few))
    return of_tokens(min(MOST_TOKENS, max(LEAST_TOKENS, enough)))
