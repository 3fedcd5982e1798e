"""How fast and how lean a small machine trains: SFT beside TRL and LLaMA-Factory, DPO beside TRL; in turns, each run in
a process of its own. TRL packs rows or pads them; of DPO's it computes the reference's log-probabilities beforehand.

`python bench/train.py --data FOLDER`: the folder holds `sft/alpaca_zh_demo.json`, `pref/dpo_zh_demo.json` and Llama 3's
tokenizer. HANLIN_TRL and HANLIN_LLAMAFACTORY name the Pythons that have the peers; a peer without one is
left out. All train the same adapter (LoRA of rank 16 on every projection) on the same records, in the number format
that Hanlin would choose here: peers are at their best in it too. A comparison whose mean losses differ is void.

Also told: the share of the machine's own rate of matrix products that is reached, and, with --picture FILE, where the
rest goes. The last line is one JSON object.
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

from runs import add_sources, answer, last_line, sources, spread

HERE = Path(__file__).parent
RANK, RATE, ROW = 16, 1e-4, 2048
PEERS = {"trl": ("HANLIN_TRL", "with_trl.py"), "llamafactory": ("HANLIN_LLAMAFACTORY", "with_llamafactory.py")}
SFT_RUNS = {
    "hanlin": {},
    "trl packed": {"packing": True, "rows_of_pass": 1, "passes": 2},
    "trl padded": {"packing": False, "rows_of_pass": 4, "passes": 2},
    "llamafactory packed": {"rows_of_pass": 1, "passes": 2},
}
DPO_RUNS = {"hanlin": {}, "trl": {"rows_of_pass": 2, "passes": 4}}
LARGEST_DIFFERENCE = 0.02
"""Mean losses may differ by this share: rows are packed otherwise, so that steps hold other conversations."""


def run(name: str, asked: dict[str, Any]) -> dict[str, Any] | None:
    """One run in a process of its own; None where the peer is not there."""
    tool = name.split(maxsplit=1)[0]
    if tool == "hanlin":
        command = [sys.executable, __file__, "--worker", json.dumps(asked)]
    else:
        variable, script = PEERS[tool]
        python = os.environ.get(variable)
        if not python:
            return None
        command = [python, str(HERE / "peers" / script), json.dumps(asked)]
    return last_line(command, of_peer=tool != "hanlin")


def compare(task: str, runs: dict[str, dict[str, Any]], asked: dict[str, Any], rounds: int) -> dict[str, Any]:
    """All runs, one after the other, in so many rounds."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, own in runs.items():
            told = run(name, {**asked, **own, "task": task})
            if told is not None:
                found[name].append(told)
                told["loss"] = statistics.fmean(told["losses"])
                print(f"{task} round {number + 1}: {name} {json.dumps(told)}", flush=True)
    ours = found.pop("hanlin")
    learned = ours[0]["target_tokens"]
    result: dict[str, Any] = {
        "records": asked["count"],
        "target_tokens": learned,
        "hanlin": summary(ours),
        "product_share": round(statistics.median(told["product_share"] for told in ours), 3),
    }
    for name, theirs in found.items():
        if not theirs:
            continue
        if any(told["target_tokens"] not in (None, learned) for told in theirs):
            sys.exit(f"{name} learns {theirs[0]['target_tokens']} tokens, and Hanlin {learned}")
        differs = abs(statistics.fmean(told["loss"] for told in theirs) / ours[0]["loss"] - 1)
        result[name] = {
            **summary(theirs),
            "times_as_much_processor": spread(
                [their["processor_seconds"] / our["processor_seconds"] for their, our in zip(theirs, ours, strict=True)]
            ),
            "times_as_long": spread(
                [their["seconds"] / our["seconds"] for their, our in zip(theirs, ours, strict=True)]
            ),
            "our_share_of_peak": round(
                statistics.median(our["peak_gb"] for our in ours)
                / statistics.median(their["peak_gb"] for their in theirs),
                3,
            ),
            "losses_agree": differs < LARGEST_DIFFERENCE,
        }
    return result


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found = {
        "seconds": spread([told["seconds"] for told in runs]),
        "processor_seconds": spread([told["processor_seconds"] for told in runs]),
        "peak_gb": round(statistics.median(told["peak_gb"] for told in runs), 2),
        "losses": [round(loss, 4) for loss in runs[0]["losses"]],
    }
    if "before" in runs[0]:
        found["seconds_before"] = round(statistics.median(told["before"] for told in runs), 1)
    return found


# ------------------------------------------------------------------------------------------------------ our own runs


def work(asked: dict[str, Any]) -> dict[str, Any]:
    """One of our runs, in this process."""
    from hanlin.config.settings.model import LoraSettings
    from hanlin.config.settings.preference import Dpo, ReferenceLogprobs
    from hanlin.config.settings.train import Sft
    from hanlin.core.context import Inputs, StageContext
    from hanlin.core.records import Conversation, Message, Preference, write_jsonl
    from hanlin.train import stages

    spent_in_loop: list[float] = []
    loop = stages.train

    def timed(*given: Any, **named: Any) -> dict[str, Any]:
        begun = sum(os.times()[:4])
        told = loop(*given, **named)
        spent_in_loop.append(sum(os.times()[:4]) - begun)
        return told

    stages.train = timed
    rows = json.loads(Path(asked["data"]).read_text(encoding="utf-8"))[: asked["count"]]
    folder = Path(tempfile.mkdtemp())
    common: dict[str, Any] = {
        "model": "model",
        "data": ("data",),
        "max_seq_length": ROW,
        "precision": asked["precision"],
    }
    common["micro_batch_tokens"] = asked["micro_batch_tokens"]
    training = {
        "learning_rate": RATE,
        "epochs": 1.0,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.0,
        "betas": (0.9, 0.999),
    }
    training["lora"] = LoraSettings(rank=RANK, alpha=2 * RANK)  # type: ignore[assignment]
    out = folder / "made"
    out.mkdir()
    inputs = Inputs({"model": (Path(asked["model"]),), "data": (folder,)})
    before = {}
    if asked["task"] == "sft":
        chats = [
            Conversation(
                (
                    Message("user", row["instruction"] + ("\n" + row["input"] if row["input"] else "")),
                    Message("assistant", row["output"]),
                ),
                id=str(number),
            )
            for number, row in enumerate(rows)
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
                id=str(number),
            )
            for number, row in enumerate(rows)
        ]
        write_jsonl(folder / "preferences.jsonl", pairs)
        known = folder / "reference"
        known.mkdir()
        before["before"] = stages.reference_logprobs(ReferenceLogprobs(**common), inputs, known, StageContext())[
            "seconds"
        ]
        inputs = Inputs({**inputs.by_field, "reference": (known,)})
        metrics = stages.dpo(Dpo(**common, **training, batch_pairs=8), inputs, out, StageContext())
    curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rate = product_rate(metrics["precision"])
    spent = operations(Path(asked["model"]), metrics["tokens"], metrics["target_tokens"]) / metrics["seconds"] / 1e9
    return {
        "seconds": metrics["seconds"],
        "processor_seconds": spent_in_loop[0],
        **before,
        "losses": [row["loss"] for row in curve],
        "target_tokens": metrics["target_tokens"],
        "tokens": metrics["tokens"],
        "peak_gb": metrics["peak_memory_gb"],
        "product_gflops": round(spent, 1),
        "machine_gflops": round(rate, 1),
        "product_share": spent / rate,
    }


def operations(model: Path, tokens: int, learned: int) -> float:
    """Multiplications and additions that a run with a frozen base cannot do without: for each token forward and the
    gradient of its inputs (two each) by every weight of the blocks; for each learned token the same by the head; the
    adapter's own three products. Attention is left out."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes = [(width, queries), (width, keys), (width, keys), (queries, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    block = sum(4 * rows * columns + 6 * RANK * (rows + columns) for rows, columns in shapes)
    return float(tokens * layers * block + learned * 4 * width * config["vocab_size"])


def product_rate(number_format: str) -> float:
    """The machine's rate of square matrix products, in billions of operations a second: the best of several sizes."""
    import torch

    best = 0.0
    for size in (1024, 2048, 4096):
        one, other = (torch.randn(size, size).to(getattr(torch, number_format)) for _ in range(2))
        made = torch.empty_like(one)  # its memory is taken once, or the rate would be that of clearing pages
        for _ in range(5):
            begun = time.perf_counter()
            torch.mm(one, other, out=made)
            best = max(best, 2 * size**3 / (time.perf_counter() - begun) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--parts", default="sft,dpo")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="none: what Hanlin would choose here")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--leave-out", default="", help="runs that are left out, such as 'trl padded'")
    parser.add_argument("--picture", type=Path, help="where to write the profile of one of our SFT runs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer(work, arguments.worker)
        return
    model, data = sources(arguments, parser)
    import torch

    from hanlin.train.compute.runtime import faster_format

    precision = arguments.precision or faster_format(torch.device("cpu"))
    common = {"model": str(model), "precision": precision, "rate": RATE, "rank": RANK, "max_seq_length": ROW}
    common["micro_batch_tokens"] = ROW
    parts = arguments.parts.split(",")
    result: dict[str, Any] = {"bench": "train", "rounds": arguments.rounds, "precision": precision}
    result["machine_gflops"] = {name: round(product_rate(name), 1) for name in ("float32", "bfloat16")}
    chats = {"data": str(data / "sft" / "alpaca_zh_demo.json"), "count": arguments.conversations}
    if "sft" in parts:
        runs = {name: own for name, own in SFT_RUNS.items() if name not in arguments.leave_out.split(",")}
        result["sft"] = compare("sft", runs, {**common, **chats}, arguments.rounds)
    if "dpo" in parts:
        pairs = {"data": str(data / "pref" / "dpo_zh_demo.json"), "count": arguments.pairs}
        result["dpo"] = compare("dpo", DPO_RUNS, {**common, **pairs}, arguments.rounds)
    if arguments.picture:
        run("hanlin", {**common, **chats, "task": "sft", "picture": str(arguments.picture)})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
