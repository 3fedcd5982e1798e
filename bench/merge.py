"""Compares the time of merging an adapter with that of copying the base, and tells the peak memory.

    python bench/merge.py [--gigabytes 4] [--rounds 3] [--threads N] [--out FOLDER]

The base has the blocks of an 8B Llama (hidden size 4096, 14,336 in the feed-forward layers) with random bfloat16
weights, as many as the size asks for; the adapter has rank 16 on all seven projections. The merge, with
`check: weights`, runs in a process of its own; both end with fsync. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from command_line import existing_folder, non_negative_int, positive_float, positive_int, run_main

from hanlin.config.settings.model import PROJECTIONS, Merge
from hanlin.core.context import Inputs, StageContext
from hanlin.core.files import write_json
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.merge import run
from hanlin.models.safetensors import write_safetensors
from hanlin.models.train_tokenizer import train_tokenizer

SHAPE = {"hidden_size": 4096, "intermediate_size": 14_336, "num_attention_heads": 32, "num_key_value_heads": 8}
BLOCK_BYTES = 436_224_000
"""Bytes of a block in bfloat16."""
RANK = 16


def make_base(folder: Path, gigabytes: float) -> None:
    """Write a model of about that size; the pieces of all weights are the same random numbers in another order."""
    train_tokenizer(["春天的时候院子里开满了花。"], vocab_size=300, template="llama3", out=folder)
    layers = max(1, round(gigabytes * 1e9 / BLOCK_BYTES))
    config = {
        **SHAPE, "num_hidden_layers": layers, "vocab_size": 32_000, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    shapes = llama_shapes(config)
    noise = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(1)) * 0.02).bfloat16()

    def make(name: str) -> list[torch.Tensor]:
        size = torch.Size(shapes[name]).numel()
        return [noise.repeat(-(-size // len(noise)))[:size]]

    write_safetensors(folder / "model.safetensors", shapes, torch.bfloat16, make)


def make_adapter(folder: Path, base: Path) -> None:
    """Write an adapter of rank 16 on every projection."""
    folder.mkdir()
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shapes = {}
    for name, (rows, columns) in ((n, s) for n, s in llama_shapes(config).items() if len(s) == 2):
        if any(f".{projection}." in name for projection in PROJECTIONS):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            shapes |= {f"{stem}.lora_A.weight": (RANK, columns), f"{stem}.lora_B.weight": (rows, RANK)}
    generator = torch.Generator().manual_seed(2)
    write_safetensors(
        folder / "adapter_model.safetensors",
        shapes,
        torch.float32,
        lambda name: [torch.randn(shapes[name], generator=generator) * 0.02],
    )
    row = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": PROJECTIONS,
    }
    write_json(folder / "adapter_config.json", {**row, "base_model_name_or_path": str(base)})


def flush(folder: Path) -> None:
    """Wait until the files of a folder are on the disk."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def copy(base: Path, out: Path) -> float:
    """Seconds that `cp` takes."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", "--reflink=never", str(base), str(out)], check=True)
    flush(out)
    return time.perf_counter() - start


def merge(adapter: Path, out: Path) -> dict[str, float]:
    """Seconds that merging takes, with its checks; what the process takes to start is not counted."""
    out.mkdir()
    start, cpu = time.perf_counter(), time.process_time()
    settings = Merge.model_validate({"adapter": "./adapter", "check": "weights"})
    run(settings, Inputs({"adapter": (adapter,)}), out, StageContext())
    flush(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "peak_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=positive_float, default=4.0)
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--threads", type=non_negative_int, default=0)
    parser.add_argument("--out", type=existing_folder, default=None)
    parser.add_argument("--merge", type=Path, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if chosen.merge:
        print(json.dumps(merge(*chosen.merge)))
        return
    with tempfile.TemporaryDirectory(dir=chosen.out) as scratch:
        folder = Path(scratch)
        make_base(folder / "base", chosen.gigabytes)
        make_adapter(folder / "adapter", folder / "base")
        copies, merges = [], []
        for _ in range(chosen.rounds):
            copies.append(copy(folder / "base", folder / "out"))
            shutil.rmtree(folder / "out")
            command = [sys.executable, __file__, "--threads", str(chosen.threads), "--merge"]
            done = subprocess.run(
                [*command, str(folder / "adapter"), str(folder / "out")], check=True, capture_output=True, text=True
            )
            merges.append(json.loads(done.stdout.splitlines()[-1]))
            shutil.rmtree(folder / "out")
            print(f"copy {copies[-1]:.1f} s, merge {merges[-1]['seconds']:.1f} s", flush=True)
        seconds = sorted(row["seconds"] for row in merges)[len(merges) // 2]
        copied = sorted(copies)[len(copies) // 2]
        size = (folder / "base" / "model.safetensors").stat().st_size
        result = {
            "bytes": size,
            "copy_seconds": round(copied, 2),
            "merge_seconds": round(seconds, 2),
            "ratio": round(seconds / copied, 2),
            "cpu_seconds": round(min(row["cpu_seconds"] for row in merges), 2),
            "peak_gb": round(max(row["peak_gb"] for row in merges), 2),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
