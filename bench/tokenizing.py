"""Speed from conversations to packed rows of token ids, compared with LLaMA-Factory's preprocessing.

Both alternate, with the same file, tokenizer, template, row length and number of processes.

`python bench/tokenizing.py --data FOLDER [--megabytes 100]`: the rows of `sft/alpaca_zh_demo.json` are repeated until
there are so many megabytes, each time with another number in question and answer, so that no text occurs twice.
HANLIN_LLAMAFACTORY names the Python that has the peer. It is checked that both make as many tokens and as many
target tokens. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from command_line import positive_float, positive_int, run_main
from runs import add_sources, resolve_sources, run_for_json, run_worker, summarize

HERE = Path(__file__).parent
ROW = 2048


def write_rows(source: Path, megabytes: float, out: Path) -> int:
    """Write rows of about so many megabytes, no two alike; return how many."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    written: list[dict[str, str]] = []
    size = 0
    while size < megabytes * 1e6:
        row, index = rows[len(written) % len(rows)], len(written)
        question, answer = f"{index}. {row['instruction']}", f"{row['output']} {index}"
        written.append({"instruction": question, "input": row["input"], "output": answer})
        size += sum(len(text.encode()) for text in written[-1].values())
    out.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    return len(written)


def encode_hanlin(options: dict[str, Any]) -> dict[str, Any]:
    """From the file to packed rows, as the stage `sft` reads the output of `conversations`."""
    from hanlin.chat.template import ChatTemplate
    from hanlin.core.progress import Progress
    from hanlin.core.records import Conversation, Message
    from hanlin.train.dataset.encode import ChatEncoder
    from hanlin.train.dataset.encoded import encode_records
    from hanlin.train.dataset.mask_checks import MaskRules
    from hanlin.train.dataset.packed import PackedDataset

    template = ChatTemplate.load(Path(options["model"]))
    encoder = ChatEncoder(template, ROW, "truncate_turns")
    folder = Path(tempfile.mkdtemp())
    gc.freeze()  # as the process does that stages are forked from
    start_time, cpu_start = time.perf_counter(), sum(os.times()[:4])
    rows = json.loads(Path(options["data"]).read_text(encoding="utf-8"))
    chats = (
        Conversation(
            (
                Message("user", row["instruction"] + ("\n" + row["input"] if row["input"] else "")),
                Message("assistant", row["output"]),
            ),
            id=str(index),
        )
        for index, row in enumerate(rows)
    )
    encoded = encode_records(
        chats,
        encoder.conversations,
        width=1,
        folder=folder / "rows",
        progress=Progress(quiet=True),
        total=len(rows),
        warm_up=template.tokenizer.enable_fast_encoder,
        processes=options["processes"],
    )
    MaskRules.for_chats(template).check(encoded)
    packed = PackedDataset.pack_examples(encoded, ROW)
    seconds, processor = time.perf_counter() - start_time, sum(os.times()[:4]) - cpu_start
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "rows": len(packed.samples),
        "tokens": int(encoded.starts[-1]),
        "target_tokens": packed.target_tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--megabytes", type=positive_float, default=100)
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--processes", type=positive_int, default=os.cpu_count())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(encode_hanlin, arguments.worker)
        return
    model, data = resolve_sources(arguments, parser)
    with tempfile.TemporaryDirectory() as temp_dir:
        file = Path(temp_dir) / "chats.json"
        count = write_rows(data / "sft" / "alpaca_zh_demo.json", arguments.megabytes, file)
        options = {
            "task": "tokenize",
            "model": str(model),
            "data": str(file),
            "count": count,
            "max_seq_length": ROW,
        }
        options |= {"rank": 8, "rate": 1e-4, "precision": "float32", "rows_per_micro_batch": 1, "accumulation_steps": 1}
        options["processes"] = arguments.processes
        commands = {"hanlin": [sys.executable, __file__, "--worker", json.dumps(options)]}
        if os.environ.get("HANLIN_LLAMAFACTORY"):
            peer = str(HERE / "peers" / "with_llamafactory.py")
            commands["llamafactory"] = [os.environ["HANLIN_LLAMAFACTORY"], peer, json.dumps(options)]
        reports: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        for round_number in range(arguments.rounds):
            for name, command in commands.items():
                reports[name].append(run_for_json(command, is_peer=name != "hanlin"))
                print(f"round {round_number + 1}: {name} {json.dumps(reports[name][-1])}", flush=True)
    result: dict[str, Any] = {"bench": "tokenizing", "megabytes": arguments.megabytes, "conversations": count}
    result["processes"] = arguments.processes
    for name, runs in reports.items():
        seconds = statistics.median(report["seconds"] for report in runs)
        result[name] = {
            "seconds": round(seconds, 2),
            "megabytes_per_second": round(arguments.megabytes / seconds, 2),
            "processor_seconds": round(statistics.median(report["processor_seconds"] for report in runs), 2),
            "tokens": runs[0]["tokens"],
            "target_tokens": runs[0]["target_tokens"],
        }
    if "llamafactory" in reports:
        for name in ("tokens", "target_tokens"):
            if result["hanlin"][name] != result["llamafactory"][name]:
                sys.exit(f"Hanlin made {result['hanlin'][name]} {name}, and the peer {result['llamafactory'][name]}")
        pairs = zip(reports["llamafactory"], reports["hanlin"], strict=True)
        result["ratio"] = summarize([their["seconds"] / our["seconds"] for their, our in pairs])
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
