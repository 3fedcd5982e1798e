"""Training a model of the 8B shape on one GPU, compared with TRL: LoRA of rank 64, QLoRA, and all weights.

Rows of 4,096 tokens, bfloat16, random weights and tokens (neither changes the speed).

`python bench/train_gpu.py [--ways lora,qlora,full] [--out FOLDER]`; the folder takes the model (16 GB) and pictures of
the profiles. HANLIN_TRL names the Python that has TRL; by default this one if it has it. All weights are trained
with AdamW in 8 bits over float32 masters, by both, and need a card of 141 GB. Reported are seconds per step without the
first two, peak memory, and the share of the card's own rate of matrix products: two operations for each weight
forward, two for the gradient of inputs, two more for that of trained weights, and attention; what is computed again is
not counted.

`--toy` does the same at a small shape on any machine: for trying the program, not for figures. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import folder_to_write, names_among, positive_int, refuse, run_main
from runs import run_for_json, run_worker, summarize

HERE = Path(__file__).parent
WARMUP_STEPS = 2
"""Steps that are not timed: kernels are chosen and compiled in them."""
SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
TOY = SHAPE | {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WAYS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 64},
    "qlora": {"rank": 64, "quantization": "nf4"},
    "full": {"float32_weights": True, "checkpointing": True, "optimizer": "adamw_8bit"},
}


def write_model(folder: Path, shape: dict[str, Any]) -> None:
    """A model folder with random weights, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=1, eos_token_id=2))
    torch.set_default_dtype(default)
    model.save_pretrained(folder)


def train_hanlin(options: dict[str, Any]) -> dict[str, Any]:
    """One run of Hanlin, in this process."""
    from hanlin.config.settings.model import LoraSettings
    from hanlin.config.settings.train import Pretrain
    from hanlin.core.context import StageContext
    from hanlin.core.progress import Progress
    from hanlin.train.dataset.encoded import EncodedRecords
    from hanlin.train.dataset.packed import PackedDataset
    from hanlin.train.dataset.sampler import Sampler
    from hanlin.train.distributed.context import DistContext
    from hanlin.train.load import load_train_model
    from hanlin.train.objectives.next_token import NextToken
    from hanlin.train.trainer import peak_memory_gb, train

    dist = DistContext.initialize()
    length, count = options["max_seq_length"], options["count"]
    token_ids = np.random.default_rng(0).integers(3, options["entries"], size=(count, length + 1)).astype(np.int32)
    folder = Path(tempfile.mkdtemp())
    encoded = EncodedRecords(
        token_ids.reshape(-1),
        np.ones(token_ids.size, bool),
        np.arange(count + 1) * (length + 1),
        np.ones(count, bool),
        1,
        folder,
        {},
        {},
        {},
        {},
        count,
    )
    rows = PackedDataset.pack_examples(encoded, length)
    lora = None
    if options.get("rank"):
        lora = LoraSettings(rank=options["rank"], alpha=2 * options["rank"], quantization=options.get("quantization"))
    settings = Pretrain(
        model="model",
        data=("data",),
        lora=lora,
        max_seq_length=length,
        batch_tokens=length * options["accumulation_steps"],
        micro_batch_tokens=length,
        learning_rate=options["rate"],
        gradient_checkpointing=options.get("checkpointing", False),
        optimizer=options.get("optimizer", "adamw"),
    )
    model = load_train_model(Path(options["model"]), settings, 0, dist.device, options["precision"])
    sampler = Sampler.for_batch_size(count, options["accumulation_steps"], 0)
    seconds = []
    for name, steps in (("warm", WARMUP_STEPS), ("measured", options["steps"] - WARMUP_STEPS)):
        out = folder / name
        (out / ".work").mkdir(parents=True)
        step_settings = settings.model_copy(update={"steps": steps})
        start_time = time.perf_counter()
        train(
            model,
            NextToken(),
            rows,
            sampler,
            settings=step_settings,
            dist=dist,
            context=StageContext(0, Progress(quiet=True)),
            out=out,
        )
        if dist.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start_time) / steps)
        curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "seconds_a_step": seconds[-1],
        "losses": [row["loss"] for row in curve],
        "peak_gb": peak_memory_gb(dist.device),
        "attention": next(name for name, kernel in _kernels().items() if kernel is model.attention),
    }


def _kernels() -> dict[str, Any]:
    from hanlin.train.compute.model import KERNELS

    return dict(KERNELS)


def train_trl(options: dict[str, Any], python: str) -> dict[str, Any]:
    """The same run by TRL."""
    optimizers = {"adamw_8bit": "paged_adamw_8bit" if torch.cuda.is_available() else "adamw_torch_fused"}
    trl_options = {**options, "task": "rows", "rows_per_micro_batch": 1}
    if "optimizer" in trl_options:
        trl_options["optimizer"] = optimizers[trl_options["optimizer"]]
    report = run_for_json([python, str(HERE / "peers" / "with_trl.py"), json.dumps(trl_options)], is_peer=True)
    ends = report["step_ends"]
    return {
        "seconds_a_step": (ends[-1] - ends[WARMUP_STEPS - 1]) / (len(ends) - WARMUP_STEPS),
        "losses": report["losses"],
        "peak_gb": report["peak_gb"],
    }


def count_flops(shape: dict[str, Any], way: dict[str, Any], length: int) -> float:
    """Floating-point operations per token that a way of training cannot do without."""
    width, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    shapes = [(width, width), (width, keys), (width, keys), (width, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    each = 4 if "rank" in way else 6
    adapter = 6 * way.get("rank", 0)
    block = sum(each * rows * columns + adapter * (rows + columns) for rows, columns in shapes)
    attention = 6 * length * width  # two products of half the pairs, forward, and twice that backward
    return float(layers * (block + attention) + each * width * shape["vocab_size"])


def measure_matmul_rate(number_format: str, size: int) -> float:
    """The device's rate of square matrix products, in operations per second: the best of several."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, number_format)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start_time = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start_time)
    return 2 * size**3 / best


def find_trl_python() -> str | None:
    """The Python that has TRL; None if there is none."""
    if os.environ.get("HANLIN_TRL"):
        return os.environ["HANLIN_TRL"]
    return sys.executable if importlib.util.find_spec("trl") else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", type=names_among(("lora", "qlora", "full")), default="lora,qlora,full")
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument(
        "--steps", type=positive_int, default=8, help="steps of a run, including the two that are not timed"
    )
    parser.add_argument("--max-seq-length", type=positive_int, default=4096)
    parser.add_argument("--out", type=folder_to_write, default=Path(tempfile.gettempdir()) / "hanlin_train_gpu")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(train_hanlin, arguments.worker)
        return
    if not (arguments.toy or torch.cuda.is_available()):
        refuse("this benchmark needs a GPU; --toy tries it without report · 需要 GPU；可用 --toy 试运行")
    shape = TOY if arguments.toy else SHAPE
    precision = "float32" if arguments.toy else "bfloat16"
    length = min(arguments.max_seq_length, 64) if arguments.toy else arguments.max_seq_length
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = arguments.out / ("toy" if arguments.toy else "model_8b")
    if not (model / "config.json").is_file():
        write_model(model, shape)
    rate = measure_matmul_rate(precision, 1024 if arguments.toy else 8192)
    result: dict[str, Any] = {
        "bench": "train_gpu",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "toy": arguments.toy,
        "max_seq_length": length,
        "product_tflops": round(rate / 1e12, 3),
    }
    python = find_trl_python()
    for name in arguments.ways.split(","):
        way = WAYS[name]
        options = {
            "model": str(model),
            "precision": precision,
            "max_seq_length": length,
            "rate": 1e-5,
            "accumulation_steps": 1,
            **way,
        }
        options |= {"steps": arguments.steps, "count": arguments.steps, "entries": shape["vocab_size"]}
        command = [sys.executable, __file__, "--worker"]
        reports: dict[str, list[dict[str, Any]]] = {"hanlin": [], "trl": []}
        for round_number in range(arguments.rounds):
            reports["hanlin"].append(run_for_json([*command, json.dumps(options)]))
            if python is not None:
                reports["trl"].append(train_trl(options, python))
            for tool, runs in reports.items():
                print(f"{name} round {round_number + 1}: {tool} {json.dumps(runs[-1:])}", flush=True)
        spent = count_flops(shape, way, length) * length * options["accumulation_steps"]
        summary: dict[str, Any] = {}
        for tool, runs in reports.items():
            if runs:
                seconds = statistics.median(report["seconds_a_step"] for report in runs)
                summary[tool] = {
                    "seconds_a_step": summarize([report["seconds_a_step"] for report in runs]),
                    "tokens_per_second": round(length * options["accumulation_steps"] / seconds, 1),
                    "product_share": round(spent / seconds / rate, 3),
                    "peak_gb": round(max(report["peak_gb"] for report in runs), 2),
                    "loss": round(statistics.fmean(runs[0]["losses"]), 4),
                }
        if reports["trl"]:
            pairs = zip(reports["trl"], reports["hanlin"], strict=True)
            summary["times_as_long"] = summarize(
                [their["seconds_a_step"] / our["seconds_a_step"] for their, our in pairs]
            )
        if not arguments.toy:
            picture = str(arguments.out / f"{name}.svg")
            run_for_json([*command, json.dumps({**options, "picture": picture})])
        result[name] = summary
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
