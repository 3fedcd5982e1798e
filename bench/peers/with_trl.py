"""A training run by TRL for `bench/train.py` and `bench/train_gpu.py`; run by the Python that has TRL.

usage: python with_trl.py JSON. The last line printed is one JSON object: seconds of `train()` and of the preparation
before it (for DPO, with the log-probabilities of the reference), losses, target tokens, peak memory.
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


def load_conversations(options: dict[str, Any]) -> Dataset:
    rows = json.loads(Path(options["data"]).read_text(encoding="utf-8"))[: options["count"]]
    chats = []
    for row in rows:
        question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        chats.append({
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        })  # fmt: skip
    return Dataset.from_list(chats)


def load_preferences(options: dict[str, Any]) -> Dataset:
    rows = json.loads(Path(options["data"]).read_text(encoding="utf-8"))[: options["count"]]
    return Dataset.from_list([
        {
            "prompt": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
            "chosen": [{"role": "assistant", "content": row["chosen"]["value"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]["value"]}],
        }
        for row in rows
    ])  # fmt: skip


def make_random_rows(options: dict[str, Any]) -> Dataset:
    """Rows of random ids, all of them target tokens."""
    token_ids = np.random.default_rng(0).integers(
        3, options["entries"], size=(options["count"], options["max_seq_length"])
    )
    return Dataset.from_dict({"input_ids": token_ids.tolist(), "labels": token_ids.tolist()})


class StepTimer(TrainerCallback):
    """When a step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def main() -> None:
    options = json.loads(sys.argv[1])
    half = options["precision"] == "bfloat16"
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if half and not options.get("float32_weights") else torch.float32
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_length": options["max_seq_length"],
        "num_train_epochs": 1,
        "max_steps": options.get("steps", -1),
        "learning_rate": options["rate"],
        "bf16": half,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "report_to": [],
        "seed": 0,
        "save_strategy": "no",
        "optim": options.get("optimizer", "adamw_torch_fused"),
        "gradient_checkpointing": options.get("checkpointing", False),
        "per_device_train_batch_size": options["rows_per_micro_batch"],
        "gradient_accumulation_steps": options["accumulation_steps"],
    }
    lora = None
    if options.get("rank"):
        lora = LoraConfig(
            r=options["rank"], lora_alpha=2 * options["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
        )
    loading: dict[str, Any] = {"dtype": dtype, "attn_implementation": options.get("attention", "sdpa")}
    if options.get("quantization"):
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    start_time = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options["model"], **loading)
    trainer: Any
    if options["task"] == "dpo":
        trainer = DPOTrainer(
            model=model,
            train_dataset=load_preferences(options),
            args=DPOConfig(**common, precompute_ref_log_probs=True),
            peft_config=lora,
            processing_class=_tokenizer(options["model"]),
        )
        target_tokens = None
    else:
        plain = options["task"] == "rows"
        trainer = SFTTrainer(
            model=model,
            train_dataset=make_random_rows(options) if plain else load_conversations(options),
            args=SFTConfig(**common, packing=options.get("packing", False), completion_only_loss=not plain),
            peft_config=lora,
            processing_class=_tokenizer(options["model"]),
        )
        target_tokens = sum(sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset)
    step_timer = StepTimer()
    trainer.add_callback(step_timer)
    prepared, cpu_start = time.perf_counter(), sum(os.times()[:4])
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    ended, processor = time.perf_counter(), sum(os.times()[:4]) - cpu_start
    report = {
        "seconds": ended - prepared,
        "processor_seconds": processor,
        "before": prepared - start_time,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "target_tokens": target_tokens,
        "step_ends": step_timer.ends,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print("\n" + json.dumps(report))


def _tokenizer(folder: str) -> Any:
    if any(Path(folder).glob("tokenizer*")):
        return AutoTokenizer.from_pretrained(folder)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


if __name__ == "__main__":
    main()
