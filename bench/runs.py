"""Shared by the benchmarks that compare with other tools: their model, runs in separate processes, summaries."""

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

from command_line import existing_folder, model_folder


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add `--data` and `--model`."""
    data = os.environ.get("HANLIN_SHARED_DATA")
    parser.add_argument("--data", type=existing_folder, default=data or None, help="or HANLIN_SHARED_DATA")
    parser.add_argument(
        "--model", type=model_folder, help="a model folder; none: the benchmark's own small one is made"
    )


def resolve_sources(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[Path, Path]:
    """The folders of model and data that the arguments name."""
    if arguments.data is None:
        parser.error("--data is needed, or HANLIN_SHARED_DATA")
    return arguments.model or make_small_model(arguments.data), arguments.data


def make_small_model(data: Path) -> Path:
    """A model folder with Llama 3's tokenizer and random weights: 25 M in the blocks, which two cores can train, and
    the full vocabulary of 128,256, since its output head is what a small machine spends its time on.
    """
    folder = Path(tempfile.gettempdir()) / "hanlin_bench_model"
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(exist_ok=True)
    source = data / "tokenizer" / "llama3"
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    tokenizer_config = json.loads((source / "instruct" / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer_config |= {"eos_token": "<|eot_id|>", "pad_token": "<|end_of_text|>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, ensure_ascii=False), encoding="utf-8")
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


def run_for_json(command: Sequence[str], is_peer: bool = False) -> dict[str, Any]:
    """Run a program whose last line is a JSON object, and return it. A peer does not get our PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if not (is_peer and key == "PYTHONPATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def run_worker(work: Callable[[dict[str, Any]], dict[str, Any]], options_json: str) -> None:
    """In the process that `run_for_json` started: do the work and print its result as the last line. The option
    `picture` names a file for a profile of it.
    """
    options = json.loads(options_json)
    if options.get("picture"):
        from profile_picture import profile

        report = profile(work, options, Path(options["picture"]))
    else:
        report = work(options)
    print("\n" + json.dumps(report))


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    summary = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 2) for name, value in summary.items()}
