"""A training run, or the preprocessing alone, by LLaMA-Factory as `bench/train.py` and `bench/tokenizing.py` ask for
it; run by the Python that has LLaMA-Factory.

usage: python with_llamafactory.py JSON. The last line printed is one JSON object.
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

os.environ.setdefault("DISABLE_VERSION_CHECK", "1")

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback


def settings(asked: dict[str, Any], out: Path) -> dict[str, Any]:
    """Its settings for what is asked. The data lies in a folder of its own, as it wants."""
    folder = out / "data"
    folder.mkdir()
    (folder / "chats.json").symlink_to(Path(asked["data"]).resolve())
    (folder / "dataset_info.json").write_text(json.dumps({"chats": {"file_name": "chats.json"}}), encoding="utf-8")
    return {
        "model_name_or_path": str(in_format(Path(asked["model"]), asked["precision"], out / "model")),
        "dataset_dir": str(folder),
        "dataset": "chats",
        "template": "llama3",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": asked["rank"],
        "lora_alpha": 2 * asked["rank"],
        "lora_target": "all",
        "cutoff_len": asked["max_seq_length"],
        "packing": True,
        "neat_packing": True,
        "max_samples": asked["count"],
        "overwrite_cache": True,
        "preprocessing_num_workers": asked.get("processes", 1),
        "output_dir": str(out / "made"),
        "per_device_train_batch_size": asked["rows_of_pass"],
        "gradient_accumulation_steps": asked["passes"],
        "learning_rate": asked["rate"],
        "num_train_epochs": 1.0,
        "bf16": asked["precision"] == "bfloat16",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_gradient_checkpointing": True,
    }


def in_format(model: Path, precision: str, folder: Path) -> Path:
    """The model with the number format named in its config.json: from there, and from no setting, it takes the one
    that it computes in."""
    folder.mkdir()
    for file in model.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "dtype": precision}), encoding="utf-8")
    return folder


class Clock(TrainerCallback):
    """Processor time at the beginning and the end of training."""

    def __init__(self, worked: list[float]) -> None:
        self.worked = worked

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.worked.append(sum(os.times()[:4]))

    on_train_end = on_train_begin


def main() -> None:
    asked = json.loads(sys.argv[1])
    out = Path(tempfile.mkdtemp())
    wanted = settings(asked, out)
    if asked["task"] == "tokenize":
        print("\n" + json.dumps(tokenize(wanted)))
        return
    worked: list[float] = []
    run_exp(wanted, callbacks=[Clock(worked)])
    state = json.loads((out / "made" / "trainer_state.json").read_text(encoding="utf-8"))
    told = {
        "seconds": json.loads((out / "made" / "train_results.json").read_text(encoding="utf-8"))["train_runtime"],
        "processor_seconds": worked[-1] - worked[0],
        "losses": [row["loss"] for row in state["log_history"] if "loss" in row],
        "target_tokens": None,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print("\n" + json.dumps(told))


def tokenize(wanted: dict[str, Any]) -> dict[str, Any]:
    """Its own preprocessing, from the file to packed rows of ids and labels."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, _, _ = get_train_args(wanted)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    begun, worked = time.perf_counter(), sum(os.times()[:4])
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    seconds, processor = time.perf_counter() - begun, sum(os.times()[:4]) - worked
    learned = sum(sum(label != -100 for label in row["labels"]) for row in rows)
    tokens = sum(sum(mask != 0 for mask in row["attention_mask"]) for row in rows)
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "rows": len(rows),
        "tokens": tokens,
        "target_tokens": learned,
    }


if __name__ == "__main__":
    main()
