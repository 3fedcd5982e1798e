"""Compares the peak memory that `hanlin plan` estimates with the measured peak, on a grid of runs on this machine.

    python bench/memory_estimate.py [--precision bfloat16] [CASE...]

Each run is a recipe of one stage, planned and then run by the same worker as any other; the measured peak is the one in
its metrics. Models are random, of three sizes; records are random Chinese text. The last line is one JSON object: the
worst error, and all of them. Runs that need bitsandbytes are left out if it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from command_line import run_main

from hanlin.config.recipe import build_recipe
from hanlin.core.records import Conversation, Document, Message, Preference, write_jsonl
from hanlin.estimate import dataset_stats
from hanlin.estimate.memory import PARTS, Machine
from hanlin.estimate.training import Estimate, estimate_training
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import run
from hanlin.train.compute.model import Precision

SIZES = {
    "3M": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 2000},
    "58M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 32_000},
    "156M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 128_256},
}
"""Random models: heads of the last have the shape of the 156 M-parameter benchmark model."""
SHORT = {"max_seq_length": 512, "batch_tokens": 1024, "micro_batch_tokens": 1024}
LONG = {"max_seq_length": 2048, "batch_tokens": 2048, "micro_batch_tokens": 2048}
PAIRS = {"max_seq_length": 512, "batch_pairs": 8, "micro_batch_tokens": 1024}
LORA = {"lora": {"rank": 16}}
SMALL = {"gradient_checkpointing": True}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("sft", "3M", SHORT),
    "LoRA, long rows, recomputed": ("sft", "58M", {**LONG, **LORA, **SMALL}),
    "full, one micro-batch": ("sft", "58M", SHORT),
    "full, two micro-batches": ("sft", "58M", {**SHORT, "batch_tokens": 2048}),
    "LoRA": ("sft", "58M", {**SHORT, **LORA}),
    "LoRA with dropout, head and norms whole": (
        "sft",
        "58M",
        {**SHORT, "lora": {"rank": 64, "dropout": 0.05, "modules_to_save": ["lm_head", "norm"]}},
    ),
    "QLoRA, NF4": ("sft", "58M", {**LONG, "lora": {"rank": 16, "quantization": "nf4"}}),
    "full, long rows": ("pretrain", "58M", LONG),
    "full, recomputed": ("pretrain", "156M", {**SHORT, **SMALL}),
    "last two layers": ("pretrain", "156M", {**LONG, "train_last_layers": 2}),
    "DPO, LoRA": ("dpo", "58M", {**PAIRS, **LORA}),
    "DPO, LoRA, recomputed": ("dpo", "156M", {**PAIRS, **LORA, **SMALL}),
    "ORPO, full": ("orpo", "58M", PAIRS),
    "LoRA, large vocabulary": ("sft", "156M", {**SHORT, **LORA}),
    "LoRA, large vocabulary, long rows, eight micro-batches": (
        "sft",
        "156M",
        {**LONG, **LORA, "batch_tokens": 4096, "steps": 4},
    ),
}
NEEDS_BITSANDBYTES = {"QLoRA, NF4"}
LETTERS = (
    "翰林院在城东春天的时候子里开满了花你叫什么名字我是一个中文助手三加四等于七图书馆有很多欢迎来读今学习数学和诗歌"
)


def write_models_and_records(root: Path) -> None:
    """Models and records in `root`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hanlin.chat.template import ChatTemplate
    from hanlin.models.train_tokenizer import train_tokenizer

    rng = random.Random(1)

    def make_text(min_chars: int, max_chars: int) -> str:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(min_chars, max_chars))) + "。"

    tokenizer = train_tokenizer([make_text(400, 400) for _ in range(50)], 500, "llama3", root / "tokenizer")
    # how many tokens a real vocabulary makes of a real text is not what is measured here
    dataset_stats.CHINESE_TOKENS = ((0, len(tokenizer.encode(make_text(4000, 4000))) / 4001),)
    stops = list(ChatTemplate.load(root / "tokenizer", tokenizer).stop_ids)
    for name, shape in SIZES.items():
        config = LlamaConfig(
            **shape,  # type: ignore[arg-type]
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_id,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(root / name)
        tokenizer.save(root / name)

    def make_conversation(index: int) -> Conversation:
        turns = [
            message
            for _ in range(rng.randint(1, 3))
            for message in (Message("user", make_text(20, 60)), Message("assistant", make_text(60, 220)))
        ]
        return Conversation(tuple(turns), id=f"talk-{index}")

    def make_preference(index: int) -> Preference:
        question = (Message("user", make_text(30, 60)),)
        return Preference(
            question,
            Message("assistant", make_text(60, 220)),
            Message("assistant", make_text(60, 220)),
            id=f"pair-{index}",
        )

    records: dict[str, list[Any]] = {
        "sft": [make_conversation(index) for index in range(120)],
        "pretrain": [Document(make_text(200, 3000), id=f"text-{number}") for number in range(60)],
        "dpo": [make_preference(index) for index in range(60)],
    }
    records["orpo"] = records["dpo"]
    for kind, rows in records.items():
        (root / f"{kind}_data").mkdir()
        write_jsonl(root / f"{kind}_data" / f"{rows[0].kind}.jsonl", rows)


def measure(root: Path, kind: str, size: str, settings: dict[str, Any], precision: Precision) -> tuple[Estimate, float]:
    """The estimate of a run, and the peak in bytes that it then had."""
    stage = {
        "kind": kind,
        "model": f"./{size}",
        "data": [f"./{kind}_data"],
        "precision": precision,
        "steps": 2,
        "save_every_seconds": 1e-6,  # the copy that a checkpoint leaves is there in the second step
        **settings,
    }
    recipe = build_recipe({"name": "run", "root": str(root), "launch": {"threads": 1}, "stages": {"s": stage}}, "bench")
    with tempfile.TemporaryDirectory(dir=root) as home:
        store = Store(Path(home))
        (estimate,) = estimate_training(recipe, plan(recipe, store), lambda settings: Machine(precision))
        assert isinstance(estimate, Estimate)
        (step,) = run(recipe, store)
        assert step.manifest is not None
        return estimate, float(step.manifest.metrics["peak_memory_gb"]) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    chosen = arguments.cases
    if unknown := sorted(set(chosen) - set(CASES)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    left_out = NEEDS_BITSANDBYTES if importlib.util.find_spec("bitsandbytes") is None else set()
    errors: dict[str, float] = {}
    columns = [*PARTS, "predicted", "measured", "error"]
    print("| run | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_models_and_records(root)
        for name, (kind, size, settings) in CASES.items():
            if name in left_out or (chosen and name not in chosen):
                continue
            estimate, measured = measure(root, kind, size, settings, arguments.precision)
            memory = estimate.memory
            errors[name] = memory.peak / measured - 1
            row = [f"{memory.parts[part] / 1e9:.2f}" for part in PARTS]
            row += [f"{memory.peak / 1e9:.2f}", f"{measured / 1e9:.2f}", f"{errors[name]:+.1%}"]
            print(f"| {kind} {size}, {name} | " + " | ".join(row) + " |", flush=True)
    if not errors:
        parser.error(f"all of these are left out, since they need bitsandbytes: {', '.join(chosen)}")
    worst = max(errors.values(), key=abs)
    result = {
        "precision": arguments.precision,
        "runs": len(errors),
        "worst_error": round(worst, 4),
        "errors": {n: round(e, 4) for n, e in errors.items()},
    }
    print(json.dumps({"bench": "memory-estimate", **result, "left_out": sorted(left_out)}, ensure_ascii=False))


if __name__ == "__main__":
    run_main(main)
