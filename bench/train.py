"""Speed and memory of training on a small machine: SFT compared with TRL and LLaMA-Factory, DPO compared with TRL.

Runs alternate, each in a process of its own. TRL packs rows or pads them; for DPO it computes the reference's
log-probabilities beforehand.

`python bench/train.py --data FOLDER`: the folder holds `sft/alpaca_zh_demo.json`, `pref/dpo_zh_demo.json` and Llama 3's
tokenizer. HANLIN_TRL and HANLIN_LLAMAFACTORY name the Pythons that have the peers; a peer without one is
left out. All train the same adapter (LoRA of rank 16 on every projection) on the same records, in the number format
that Hanlin would choose here: peers are at their best in it too. A comparison whose mean losses differ is void.

`--parts precision`: our own training of all weights and of the adapter, in float32 and bfloat16 by turns.

Also reported: the share of the machine's matrix-product rate that is reached, and, with --picture FILE, a profile.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from command_line import file_to_write, names_among, positive_int, run_main
from runs import add_sources, resolve_sources, run_for_json, run_worker, summarize

HERE = Path(__file__).parent
RANK, RATE, ROW = 16, 1e-4, 2048
PEERS = {"trl": ("HANLIN_TRL", "with_trl.py"), "llamafactory": ("HANLIN_LLAMAFACTORY", "with_llamafactory.py")}
SFT_RUNS = {
    "hanlin": {},
    "trl packed": {"packing": True, "rows_per_micro_batch": 1, "accumulation_steps": 2},
    "trl padded": {"packing": False, "rows_per_micro_batch": 4, "accumulation_steps": 2},
    "llamafactory packed": {"rows_per_micro_batch": 1, "accumulation_steps": 2},
}
DPO_RUNS = {"hanlin": {}, "trl": {"rows_per_micro_batch": 2, "accumulation_steps": 4}}
MAX_LOSS_DIFFERENCE = 0.02
"""Mean losses may differ by this share: rows are packed otherwise, so that steps hold other conversations."""


def run(name: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """One run in a process of its own; None if the peer is not installed."""
    tool = name.split(maxsplit=1)[0]
    if tool == "hanlin":
        command = [sys.executable, __file__, "--worker", json.dumps(options)]
    else:
        variable, script = PEERS[tool]
        python = os.environ.get(variable)
        if not python:
            return None
        command = [python, str(HERE / "peers" / script), json.dumps(options)]
    return run_for_json(command, is_peer=tool != "hanlin")


def compare(task: str, runs: dict[str, dict[str, Any]], options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Alternate the runs for some rounds and summarize them."""
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for round_number in range(rounds):
        for name, own in runs.items():
            report = run(name, {**options, **own, "task": task})
            if report is not None:
                reports[name].append(report)
                report["loss"] = statistics.fmean(report["losses"])
                print(f"{task} round {round_number + 1}: {name} {json.dumps(report)}", flush=True)
    ours = reports.pop("hanlin")
    learned = ours[0]["target_tokens"]
    result: dict[str, Any] = {
        "records": options["count"],
        "target_tokens": learned,
        "hanlin": summarize_runs(ours),
        "product_share": round(statistics.median(report["product_share"] for report in ours), 3),
    }
    for name, theirs in reports.items():
        if not theirs:
            continue
        if any(report["target_tokens"] not in (None, learned) for report in theirs):
            sys.exit(f"{name} learns {theirs[0]['target_tokens']} tokens, and Hanlin {learned}")
        differs = abs(statistics.fmean(report["loss"] for report in theirs) / ours[0]["loss"] - 1)
        result[name] = {
            **summarize_runs(theirs),
            "times_as_much_processor": summarize(
                [their["processor_seconds"] / our["processor_seconds"] for their, our in zip(theirs, ours, strict=True)]
            ),
            "times_as_long": summarize(
                [their["seconds"] / our["seconds"] for their, our in zip(theirs, ours, strict=True)]
            ),
            "our_share_of_peak": round(
                statistics.median(our["peak_gb"] for our in ours)
                / statistics.median(their["peak_gb"] for their in theirs),
                3,
            ),
            "losses_agree": differs < MAX_LOSS_DIFFERENCE,
        }
    return result


def compare_precisions(options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Train in float32 and in bfloat16 by turns: tokens per second, their ratio, and the losses."""
    reports: dict[str, list[dict[str, Any]]] = {"float32": [], "bfloat16": []}
    for round_number in range(rounds):
        for name, runs in reports.items():
            report = run("hanlin", {**options, "task": "sft", "precision": name})
            assert report is not None
            runs.append(report)
            print(f"round {round_number + 1}: {name} {json.dumps(report)}", flush=True)
    rates = {name: [report["tokens"] / report["seconds"] for report in runs] for name, runs in reports.items()}
    return {
        "rank": options["rank"],
        "tokens_per_second": {name: summarize(values) for name, values in rates.items()},
        "speedup": summarize([fast / slow for slow, fast in zip(*rates.values(), strict=True)]),
        "product_share": {
            name: round(statistics.median(report["product_share"] for report in runs), 3)
            for name, runs in reports.items()
        },
        "losses": {name: [round(loss, 4) for loss in runs[0]["losses"]] for name, runs in reports.items()},
    }


def summarize_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    summary = {
        "seconds": summarize([report["seconds"] for report in runs]),
        "processor_seconds": summarize([report["processor_seconds"] for report in runs]),
        "peak_gb": round(statistics.median(report["peak_gb"] for report in runs), 2),
        "losses": [round(loss, 4) for loss in runs[0]["losses"]],
    }
    if "before" in runs[0]:
        summary["seconds_before"] = round(statistics.median(report["before"] for report in runs), 1)
    return summary


# ------------------------------------------------------------------------------------------------------ our own runs


def train_hanlin(options: dict[str, Any]) -> dict[str, Any]:
    """One run of Hanlin, in this process."""
    from hanlin.config.settings.model import LoraSettings
    from hanlin.config.settings.preference import Dpo, ReferenceLogprobs
    from hanlin.config.settings.train import Sft
    from hanlin.core.context import Inputs, StageContext
    from hanlin.core.records import Conversation, Message, Preference, write_jsonl
    from hanlin.train import run as training_run
    from hanlin.train import stages

    loop_cpu_seconds: list[float] = []
    loop = training_run.train

    def timed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        start_time = sum(os.times()[:4])
        report = loop(*args, **kwargs)
        loop_cpu_seconds.append(sum(os.times()[:4]) - start_time)
        return report

    training_run.train = timed
    rows = json.loads(Path(options["data"]).read_text(encoding="utf-8"))[: options["count"]]
    folder = Path(tempfile.mkdtemp())
    common: dict[str, Any] = {
        "model": "model",
        "data": ("data",),
        "max_seq_length": ROW,
        "precision": options["precision"],
    }
    common["micro_batch_tokens"] = options["micro_batch_tokens"]
    training = {
        "learning_rate": RATE,
        "epochs": 1.0,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.0,
        "betas": (0.9, 0.999),
    }
    if options["rank"]:
        training["lora"] = LoraSettings(rank=options["rank"], alpha=2 * options["rank"])  # type: ignore[assignment]
    out = folder / "out"
    out.mkdir()
    inputs = Inputs({"model": (Path(options["model"]),), "data": (folder,)})
    before = {}
    if options["task"] == "sft":
        chats = [
            Conversation(
                (
                    Message("user", row["instruction"] + ("\n" + row["input"] if row["input"] else "")),
                    Message("assistant", row["output"]),
                ),
                id=str(index),
            )
            for index, row in enumerate(rows)
        ]
        write_jsonl(folder / "conversations.jsonl", chats)
        metrics = stages.sft(Sft(**common, **training, batch_tokens=2 * ROW), inputs, out, StageContext())
    else:
        roles = {"human": "user", "gpt": "assistant", "system": "system"}
        pairs = [
            Preference(
                tuple(Message(roles[turn["from"]], turn["value"]) for turn in row["conversations"]),
                Message("assistant", row["chosen"]["value"]),
                Message("assistant", row["rejected"]["value"]),
                id=str(index),
            )
            for index, row in enumerate(rows)
        ]
        write_jsonl(folder / "preferences.jsonl", pairs)
        reference_folder = folder / "reference"
        reference_folder.mkdir()
        before["before"] = stages.reference_logprobs(
            ReferenceLogprobs(**common), inputs, reference_folder, StageContext()
        )["seconds"]
        inputs = Inputs({**inputs.by_field, "reference": (reference_folder,)})
        metrics = stages.dpo(Dpo(**common, **training, batch_pairs=8), inputs, out, StageContext())
    curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rate = measure_matmul_rate(metrics["precision"])
    flops = count_flops(Path(options["model"]), options["rank"], metrics["tokens"], metrics["target_tokens"])
    spent = flops / metrics["seconds"] / 1e9
    return {
        "seconds": metrics["seconds"],
        "processor_seconds": loop_cpu_seconds[0],
        **before,
        "losses": [row["loss"] for row in curve],
        "target_tokens": metrics["target_tokens"],
        "tokens": metrics["tokens"],
        "peak_gb": metrics["peak_memory_gb"],
        "product_gflops": round(spent, 1),
        "machine_gflops": round(rate, 1),
        "product_share": spent / rate,
    }


def count_flops(model: Path, rank: int, tokens: int, learned: int) -> float:
    """Multiplications and additions that a run cannot do without: for each token forward and the gradient of its inputs
    (two each) by every weight of the blocks; for each learned token the same by the head. With an adapter its own three
    products; without one (rank 0) the gradient of every weight. Attention is left out.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes = [(width, queries), (width, keys), (width, keys), (queries, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    per_weight = 4 if rank else 6
    block = sum(per_weight * rows * columns + 6 * rank * (rows + columns) for rows, columns in shapes)
    return float(tokens * layers * block + learned * per_weight * width * config["vocab_size"])


def measure_matmul_rate(number_format: str) -> float:
    """The machine's rate of square matrix products, in billions of operations per second: the best of several sizes."""
    import torch

    best = 0.0
    for size in (1024, 2048, 4096):
        one, other = (torch.randn(size, size).to(getattr(torch, number_format)) for _ in range(2))
        product = torch.empty_like(one)  # its memory is taken once, or the rate would be that of clearing pages
        for _ in range(5):
            start_time = time.perf_counter()
            torch.mm(one, other, out=product)
            best = max(best, 2 * size**3 / (time.perf_counter() - start_time) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--parts", type=names_among(("sft", "dpo")), default="sft,dpo")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="none: what Hanlin would choose here")
    parser.add_argument("--conversations", type=positive_int, default=64)
    parser.add_argument("--pairs", type=positive_int, default=24)
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--leave-out", default="", help="runs that are left out, such as 'trl padded'")
    parser.add_argument("--picture", type=file_to_write, help="where to write the profile of one of our SFT runs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(train_hanlin, arguments.worker)
        return
    model, data = resolve_sources(arguments, parser)
    import torch

    from hanlin.train.compute.runtime import faster_precision

    precision = arguments.precision or faster_precision(torch.device("cpu"))
    common = {"model": str(model), "precision": precision, "rate": RATE, "rank": RANK, "max_seq_length": ROW}
    common["micro_batch_tokens"] = ROW
    parts = arguments.parts.split(",")
    result: dict[str, Any] = {"bench": "train", "rounds": arguments.rounds, "precision": precision}
    result["machine_gflops"] = {name: round(measure_matmul_rate(name), 1) for name in ("float32", "bfloat16")}
    chats = {"data": str(data / "sft" / "alpaca_zh_demo.json"), "count": arguments.conversations}
    if "sft" in parts:
        runs = {name: own for name, own in SFT_RUNS.items() if name not in arguments.leave_out.split(",")}
        result["sft"] = compare("sft", runs, {**common, **chats}, arguments.rounds)
    if "dpo" in parts:
        pairs = {"data": str(data / "pref" / "dpo_zh_demo.json"), "count": arguments.pairs}
        result["dpo"] = compare("dpo", DPO_RUNS, {**common, **pairs}, arguments.rounds)
    if "precision" in parts:
        result["by_precision"] = {
            name: compare_precisions({**common, **chats, "rank": rank}, arguments.rounds)
            for name, rank in (("all_weights", 0), ("adapter", RANK))
        }
    if arguments.picture:
        run("hanlin", {**common, **chats, "task": "sft", "picture": str(arguments.picture)})
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
