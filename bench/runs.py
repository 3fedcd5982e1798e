"""What benchmarks beside peers share: their model, a run in a process of its own, how several runs are told."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The arguments that name model and data."""
    data = os.environ.get("HANLIN_SHARED_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="or HANLIN_SHARED_DATA")
    parser.add_argument("--model", type=Path, help="a model folder; none: the benchmark's own small one is made")


def sources(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[Path, Path]:
    """The folders of model and data."""
    if arguments.data is None:
        parser.error("--data is needed, or HANLIN_SHARED_DATA")
    return arguments.model or small_model(arguments.data), arguments.data


def small_model(data: Path) -> Path:
    """A folder with Llama 3's tokenizer and 128,256 entries over a random body of 25 M weights, which two cores train;
    the vocabulary is whole, since its head is what a small machine spends its time on."""
    folder = Path(tempfile.gettempdir()) / "hanlin_bench_model"
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(exist_ok=True)
    source = data / "tokenizer" / "llama3"
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    told = json.loads((source / "instruct" / "tokenizer_config.json").read_text(encoding="utf-8"))
    told |= {"eos_token": "<|eot_id|>", "pad_token": "<|end_of_text|>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=False,
        bos_token_id=128000,
        eos_token_id=[128001, 128009],
    )
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    return folder


def last_line(command: Sequence[str], of_peer: bool = False) -> dict[str, Any]:
    """Run a program whose last line is a JSON object, and return it. A peer does not see our modules."""
    environment = {key: value for key, value in os.environ.items() if not (of_peer and key == "PYTHONPATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def answer(work: Callable[[dict[str, Any]], dict[str, Any]], asked: str) -> None:
    """The other side of it: do the work that is asked for, with a picture of where its seconds go where one is asked
    for, and print what it tells as the last line."""
    wish = json.loads(asked)
    if wish.get("picture"):
        from profile_picture import profiled

        told = profiled(work, wish, Path(wish["picture"]))
    else:
        told = work(wish)
    print("\n" + json.dumps(told))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 2) for name, value in found.items()}
