"""A training run, or the preprocessing alone, by LLaMA-Factory for `bench/train.py` and `bench/tokenizing.py`.

Run by the Python that has LLaMA-Factory: `with_llamafactory.py JSON`. The last line printed is one JSON object.
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


def make_settings(options: dict[str, Any], out: Path) -> dict[str, Any]:
    """LLaMA-Factory's settings for our options. It wants the data in a folder with a `dataset_info.json`."""
    folder = out / "data"
    folder.mkdir()
    (folder / "chats.json").symlink_to(Path(options["data"]).resolve())
    (folder / "dataset_info.json").write_text(json.dumps({"chats": {"file_name": "chats.json"}}), encoding="utf-8")
    return {
        "model_name_or_path": str(set_dtype(Path(options["model"]), options["precision"], out / "model")),
        "dataset_dir": str(folder),
        "dataset": "chats",
        "template": "llama3",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": options["rank"],
        "lora_alpha": 2 * options["rank"],
        "lora_target": "all",
        "cutoff_len": options["max_seq_length"],
        "packing": True,
        "neat_packing": True,
        "max_samples": options["count"],
        "overwrite_cache": True,
        "preprocessing_num_workers": options.get("processes", 1),
        "output_dir": str(out / "run"),
        "per_device_train_batch_size": options["rows_per_micro_batch"],
        "gradient_accumulation_steps": options["accumulation_steps"],
        "learning_rate": options["rate"],
        "num_train_epochs": 1.0,
        "bf16": options["precision"] == "bfloat16",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_gradient_checkpointing": True,
    }


def set_dtype(model: Path, precision: str, folder: Path) -> Path:
    """A copy of the model with `dtype` in its config.json: LLaMA-Factory reads the compute format there only."""
    folder.mkdir()
    for file in model.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "dtype": precision}), encoding="utf-8")
    return folder


class CpuTimer(TrainerCallback):
    """Processor time at the beginning and the end of training."""

    def __init__(self, cpu_start: list[float]) -> None:
        self.cpu_start = cpu_start

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.cpu_start.append(sum(os.times()[:4]))

    on_train_end = on_train_begin


def main() -> None:
    options = json.loads(sys.argv[1])
    out = Path(tempfile.mkdtemp())
    settings = make_settings(options, out)
    if options["task"] == "tokenize":
        print("\n" + json.dumps(tokenize(settings)))
        return
    cpu_start: list[float] = []
    run_exp(settings, callbacks=[CpuTimer(cpu_start)])
    state = json.loads((out / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    report = {
        "seconds": json.loads((out / "run" / "train_results.json").read_text(encoding="utf-8"))["train_runtime"],
        "processor_seconds": cpu_start[-1] - cpu_start[0],
        "losses": [row["loss"] for row in state["log_history"] if "loss" in row],
        "target_tokens": None,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print("\n" + json.dumps(report))


def tokenize(settings: dict[str, Any]) -> dict[str, Any]:
    """Its own preprocessing, from the file to packed rows of ids and labels."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, _, _ = get_train_args(settings)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    start_time, cpu_start = time.perf_counter(), sum(os.times()[:4])
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    seconds, processor = time.perf_counter() - start_time, sum(os.times()[:4]) - cpu_start
    target_tokens = sum(sum(label != -100 for label in row["labels"]) for row in rows)
    tokens = sum(sum(mask != 0 for mask in row["attention_mask"]) for row in rows)
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "rows": len(rows),
        "tokens": tokens,
        "target_tokens": target_tokens,
    }


if __name__ == "__main__":
    main()
