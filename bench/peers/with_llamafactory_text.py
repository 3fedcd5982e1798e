"""Continued pre-training by LLaMA-Factory for `bench/worth.py`; run by the Python that has LLaMA-Factory.

usage: python with_llamafactory_text.py JSON, with the names of `with_trl_text.py`. LLaMA-Factory gets the token ids by
its `tokenized_path`, one text after another in rows of the same length, as its own preprocessing of stage `pt` makes
them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from itertools import chain
from pathlib import Path

os.environ.setdefault("DISABLE_VERSION_CHECK", "1")

from datasets import Dataset, DatasetDict
from llamafactory.train.tuner import run_exp
from text_marks import Budget
from with_llamafactory import set_dtype


def main() -> None:
    options = json.loads(sys.argv[1])
    out = Path(tempfile.mkdtemp())
    documents = [json.loads(line) for line in Path(options["documents"]).read_text().splitlines()]
    ids, row = list(chain.from_iterable(documents)), options["max_seq_length"]
    rows = [ids[start : start + row] for start in range(0, len(ids) // row * row, row)]
    encoded = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * row for _ in rows]})
    DatasetDict({"train": encoded}).save_to_disk(str(out / "encoded"))
    settings = {
        "model_name_or_path": str(set_dtype(Path(options["model"]), "bfloat16", out / "model")),
        "tokenized_path": str(out / "encoded"),
        "dataset": "encoded",
        "template": "empty",
        "stage": "pt",
        "do_train": True,
        "finetuning_type": "full",
        "cutoff_len": row,
        "output_dir": str(out / "run"),
        "per_device_train_batch_size": options["rows_per_step"],
        "gradient_accumulation_steps": 1,
        "learning_rate": options["learning_rate"],
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": options["warmup_steps"],
        "max_steps": 100_000,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": True,
        "use_cpu": True,
        "seed": 42,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_gradient_checkpointing": True,
        "disable_tqdm": True,
    }
    run_exp(settings, callbacks=[Budget(options)])


if __name__ == "__main__":
    main()
