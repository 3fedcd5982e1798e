"""A training run by TRL as `bench/train.py` and `bench/train_gpu.py` ask for it; run by the Python that has TRL.

usage: python with_trl.py JSON. The last line printed is one JSON object: seconds of `train()` and of the preparation
before it (for DPO, with the log-probabilities of the reference), losses, learned tokens, peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def conversations(asked: dict[str, Any]) -> Dataset:
    rows = json.loads(Path(asked["data"]).read_text(encoding="utf-8"))[: asked["count"]]
    chats = []
    for row in rows:
        question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        chats.append({
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        })  # fmt: skip
    return Dataset.from_list(chats)


def pairs(asked: dict[str, Any]) -> Dataset:
    rows = json.loads(Path(asked["data"]).read_text(encoding="utf-8"))[: asked["count"]]
    return Dataset.from_list([
        {
            "prompt": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
            "chosen": [{"role": "assistant", "content": row["chosen"]["value"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]["value"]}],
        }
        for row in rows
    ])  # fmt: skip


def rows(asked: dict[str, Any]) -> Dataset:
    """Rows of random ids, all of them learned."""
    drawn = np.random.default_rng(0).integers(3, asked["entries"], size=(asked["count"], asked["max_seq_length"]))
    return Dataset.from_dict({"input_ids": drawn.tolist(), "labels": drawn.tolist()})


class Clock(TrainerCallback):
    """When a step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def main() -> None:
    asked = json.loads(sys.argv[1])
    half = asked["precision"] == "bfloat16"
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if half and not asked.get("float32_weights") else torch.float32
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_length": asked["max_seq_length"],
        "num_train_epochs": 1,
        "max_steps": asked.get("steps", -1),
        "learning_rate": asked["rate"],
        "bf16": half,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "report_to": [],
        "seed": 0,
        "save_strategy": "no",
        "optim": asked.get("optimizer", "adamw_torch_fused"),
        "gradient_checkpointing": asked.get("checkpointing", False),
        "per_device_train_batch_size": asked["rows_of_pass"],
        "gradient_accumulation_steps": asked["passes"],
    }
    lora = None
    if asked.get("rank"):
        lora = LoraConfig(
            r=asked["rank"], lora_alpha=2 * asked["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
        )
    loading: dict[str, Any] = {"dtype": dtype, "attn_implementation": asked.get("attention", "sdpa")}
    if asked.get("packed"):
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(asked["model"], **loading)
    trainer: Any
    if asked["task"] == "dpo":
        trainer = DPOTrainer(
            model=model,
            train_dataset=pairs(asked),
            args=DPOConfig(**common, precompute_ref_log_probs=True),
            peft_config=lora,
            processing_class=_tokenizer(asked["model"]),
        )
        learned = None
    else:
        plain = asked["task"] == "rows"
        trainer = SFTTrainer(
            model=model,
            train_dataset=rows(asked) if plain else conversations(asked),
            args=SFTConfig(**common, packing=asked.get("packing", False), completion_only_loss=not plain),
            peft_config=lora,
            processing_class=_tokenizer(asked["model"]),
        )
        learned = sum(sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset)
    clock = Clock()
    trainer.add_callback(clock)
    prepared, worked = time.perf_counter(), sum(os.times()[:4])
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    ended, processor = time.perf_counter(), sum(os.times()[:4]) - worked
    told = {
        "seconds": ended - prepared,
        "processor_seconds": processor,
        "before": prepared - begun,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "target_tokens": learned,
        "step_ends": clock.ends,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print("\n" + json.dumps(told))


def _tokenizer(folder: str) -> Any:
    if any(Path(folder).glob("tokenizer*")):
        return AutoTokenizer.from_pretrained(folder)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


if __name__ == "__main__":
    main()
