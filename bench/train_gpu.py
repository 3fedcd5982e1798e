"""Training of a model of the 8B shape on one GPU, beside TRL: an adapter of rank 64, the same over a base in 4 bits
(QLoRA), and all weights; rows of 4,096 tokens, bfloat16, random weights and tokens (neither changes the speed).

`python bench/train_gpu.py [--ways lora,qlora,full] [--out FOLDER]`; the folder takes the model (16 GB) and pictures of
the profiles. HANLIN_TRL names the Python that has TRL, else this one is taken where it has it. All weights are trained
with AdamW in 8 bits over float32 masters, by both, and need a card of 141 GB. Told are seconds a step without the first
two, peak memory, and the share of the card's own rate of matrix products: two operations for each weight forward, two
for the gradient of inputs, two more for that of trained weights, and attention; what is computed again is not counted.

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
from runs import answer, last_line, spread

HERE = Path(__file__).parent
WARM = 2
"""Steps that are not key_settings: kernels are chosen and compiled in them."""
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
    "qlora": {"rank": 64, "packed": "nf4"},
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


def work(asked: dict[str, Any]) -> dict[str, Any]:
    """One of our runs, in this process."""
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
    from hanlin.train.trainer import peak_memory, train

    dist = DistContext.initialize()
    length, count = asked["max_seq_length"], asked["count"]
    drawn = np.random.default_rng(0).integers(3, asked["entries"], size=(count, length + 1)).astype(np.int32)
    folder = Path(tempfile.mkdtemp())
    encoded = EncodedRecords(
        drawn.reshape(-1),
        np.ones(drawn.size, bool),
        np.arange(count + 1) * (length + 1),
        np.ones(count, bool),
        1,
        folder,
        {},
        {},
    )
    rows = PackedDataset.pack_examples(encoded, length)
    lora = None
    if asked.get("rank"):
        lora = LoraSettings(rank=asked["rank"], alpha=2 * asked["rank"], quantization=asked.get("packed"))
    settings = Pretrain(
        model="model",
        data=("data",),
        lora=lora,
        max_seq_length=length,
        batch_tokens=length * asked["passes"],
        micro_batch_tokens=length,
        learning_rate=asked["rate"],
        gradient_checkpointing=asked.get("checkpointing", False),
        optimizer=asked.get("optimizer", "adamw"),
    )
    model = load_train_model(Path(asked["model"]), settings, 0, dist.device, asked["precision"])
    sampler = Sampler.for_batch_size(count, asked["passes"], 0)
    seconds = []
    for name, steps in (("warm", WARM), ("measured", asked["steps"] - WARM)):
        out = folder / name
        (out / ".work").mkdir(parents=True)
        several = settings.model_copy(update={"steps": steps})
        begun = time.perf_counter()
        train(
            model,
            NextToken(),
            rows,
            sampler,
            settings=several,
            dist=dist,
            context=StageContext(0, Progress(quiet=True)),
            out=out,
        )
        if dist.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begun) / steps)
        curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "seconds_a_step": seconds[-1],
        "losses": [row["loss"] for row in curve],
        "peak_gb": peak_memory(dist.device),
        "attention": next(name for name, kernel in _kernels().items() if kernel is model.attention),
    }


def _kernels() -> dict[str, Any]:
    from hanlin.train.compute.model import KERNELS

    return dict(KERNELS)


def theirs(asked: dict[str, Any], python: str) -> dict[str, Any]:
    """A run by TRL."""
    names = {"adamw_8bit": "paged_adamw_8bit" if torch.cuda.is_available() else "adamw_torch_fused"}
    told = {**asked, "task": "rows", "rows_of_pass": 1}
    if "optimizer" in told:
        told["optimizer"] = names[told["optimizer"]]
    found = last_line([python, str(HERE / "peers" / "with_trl.py"), json.dumps(told)], of_peer=True)
    ends = found["step_ends"]
    return {
        "seconds_a_step": (ends[-1] - ends[WARM - 1]) / (len(ends) - WARM),
        "losses": found["losses"],
        "peak_gb": found["peak_gb"],
    }


def operations(shape: dict[str, Any], way: dict[str, Any], length: int) -> float:
    """Operations of a token that the way of training cannot do without."""
    width, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    shapes = [(width, width), (width, keys), (width, keys), (width, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    each = 4 if "rank" in way else 6
    adapter = 6 * way.get("rank", 0)
    block = sum(each * rows * columns + adapter * (rows + columns) for rows, columns in shapes)
    attention = 6 * length * width  # two products of half the pairs, forward, and twice that backward
    return float(layers * (block + attention) + each * width * shape["vocab_size"])


def product_rate(number_format: str, size: int) -> float:
    """The device's rate of square matrix products, in operations a second: the best of several."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    one, other = (torch.randn(size, size, device=device).to(getattr(torch, number_format)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def peer() -> str | None:
    """The Python that has TRL."""
    if os.environ.get("HANLIN_TRL"):
        return os.environ["HANLIN_TRL"]
    return sys.executable if importlib.util.find_spec("trl") else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default="lora,qlora,full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=8, help="steps of a run, the two that are not key_settings included"
    )
    parser.add_argument("--row-length", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=Path("gpu_bench"))
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer(work, arguments.worker)
        return
    if not (arguments.toy or torch.cuda.is_available()):
        sys.exit("this benchmark needs a GPU; --toy tries it without one · 需要 GPU；可用 --toy 试运行")
    shape = TOY if arguments.toy else SHAPE
    precision = "float32" if arguments.toy else "bfloat16"
    length = min(arguments.max_seq_length, 64) if arguments.toy else arguments.max_seq_length
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = arguments.out / ("toy" if arguments.toy else "model_8b")
    if not (model / "config.json").is_file():
        write_model(model, shape)
    rate = product_rate(precision, 1024 if arguments.toy else 8192)
    result: dict[str, Any] = {
        "bench": "train_gpu",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "toy": arguments.toy,
        "max_seq_length": length,
        "product_tflops": round(rate / 1e12, 3),
    }
    python = peer()
    for name in arguments.ways.split(","):
        way = WAYS[name]
        asked = {
            "model": str(model),
            "precision": precision,
            "max_seq_length": length,
            "rate": 1e-5,
            "passes": 1,
            **way,
        }
        asked |= {"steps": arguments.steps, "count": arguments.steps, "entries": shape["vocab_size"]}
        command = [sys.executable, __file__, "--worker"]
        found: dict[str, list[dict[str, Any]]] = {"hanlin": [], "trl": []}
        for number in range(arguments.rounds):
            found["hanlin"].append(last_line([*command, json.dumps(asked)]))
            if python is not None:
                found["trl"].append(theirs(asked, python))
            for tool, runs in found.items():
                print(f"{name} round {number + 1}: {tool} {json.dumps(runs[-1:])}", flush=True)
        spent = operations(shape, way, length) * length * asked["passes"]
        told: dict[str, Any] = {}
        for tool, runs in found.items():
            if runs:
                seconds = statistics.median(one["seconds_a_step"] for one in runs)
                told[tool] = {
                    "seconds_a_step": spread([one["seconds_a_step"] for one in runs]),
                    "tokens_per_second": round(length * asked["passes"] / seconds, 1),
                    "product_share": round(spent / seconds / rate, 3),
                    "peak_gb": round(max(one["peak_gb"] for one in runs), 2),
                    "loss": round(statistics.fmean(runs[0]["losses"]), 4),
                }
        if found["trl"]:
            pairs = zip(found["trl"], found["hanlin"], strict=True)
            told["times_as_long"] = spread([their["seconds_a_step"] / our["seconds_a_step"] for their, our in pairs])
        if not arguments.toy:
            picture = str(arguments.out / f"{name}.svg")
            last_line([*command, json.dumps({**asked, "picture": picture})])
        result[name] = told
    print(json.dumps(result))


if __name__ == "__main__":
    main()
