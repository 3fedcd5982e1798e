"""Continued pre-training by TRL for `bench/worth.py`; run by the Python that has TRL.

usage: python with_trl_text.py JSON. Names of JSON: `model`, `documents` (JSON Lines, a list of token ids each),
`snippets` (JSON: lists of token ids by kind), `marks` (processor seconds), `max_seq_length`, `rows_per_step`,
`learning_rate`, `warmup_steps`. At each mark one JSON object is printed: seconds, steps, tokens, and -log p of each
snippet. Loading and measuring are not counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from text_marks import Budget
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    options = json.loads(sys.argv[1])
    documents = [json.loads(line) for line in Path(options["documents"]).read_text().splitlines()]
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=options["max_seq_length"],
        packing=True,
        packing_strategy="wrapped",
        per_device_train_batch_size=options["rows_per_step"],
        gradient_accumulation_steps=1,
        max_steps=100_000,
        learning_rate=options["learning_rate"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=options["warmup_steps"],
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=True,
        seed=42,
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        report_to=[],
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32),
        train_dataset=Dataset.from_dict({"input_ids": documents}),
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(options["model"]),
        callbacks=[Budget(options)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
