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
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Budget(TrainerCallback):
    """Measures when a mark of processor time is reached, and stops the run at the last."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.marks = list(options["marks"])
        self.step_tokens = options["rows_per_step"] * options["max_seq_length"]
        self.snippets = json.loads(Path(options["snippets"]).read_text())
        self.started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.started = time.process_time()
        self.reach_marks(model, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.reach_marks(model, state, control)

    def reach_marks(self, model: Any, state: Any, control: Any) -> None:
        begun = time.process_time()
        if begun - self.started < self.marks[0]:
            return
        row = {"at": self.marks.pop(0), "processor_seconds": round(begun - self.started, 1)}
        row |= {"steps": state.global_step, "tokens": state.global_step * self.step_tokens}
        print("\n" + json.dumps({**row, "nats": self.measure(model)}), flush=True)
        control.should_training_stop = not self.marks
        self.started += time.process_time() - begun

    @torch.no_grad()
    def measure(self, model: Any) -> dict[str, list[float]]:
        """-log p of each snippet but for its first token."""
        model.eval()
        found: dict[str, list[float]] = {}
        for kind, snippets in self.snippets.items():
            found[kind] = []
            for ids in snippets:
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
                logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
                found[kind].append(round(-float(logprobs.double().sum()), 3))
        model.train()
        return found


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
