"""Speed of cleaning and deduplication: the stage `corpus` compared with datatrove and Data-Juicer.

All read the same documents from two JSON Lines files, clean them, drop exact and near-duplicates by MinHash, and
write the rest, each with two processes (`bench/peers` holds the peers' pipelines; HANLIN_DATATROVE and
HANLIN_DATA_JUICER name the Python of an environment in which each is installed, and a peer without one is left out).

The documents are cut from real text (HANLIN_SHARED_DATA) or, without it, from the demo's world; beyond its
size sentences are mixed again, and one document in twenty is a duplicate or near-duplicate of another. The peers get a
share of them, because they are slow; Hanlin gets that share and all of them. Rates are megabytes of input per second
without imports; the CPU seconds per megabyte depend less on what else the machine does. Memory is the peak of the
process tree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from command_line import positive_float, positive_int, run_main
from dedup_quality import FILES, edit_words, read_demo_texts, read_real_texts
from peer_pipelines import PEERS, make_commands, run, write_halves


def make_documents(texts: Sequence[str], megabytes: float, rng: random.Random) -> Iterator[str]:
    """Documents of 100 to 6,000 characters: the texts cut up, then sentences of each mixed again."""
    sentences = [[part for part in re.split(r"(?<=[。！？!?\n])", text) if part.strip()] for text in texts]
    weights = list(map(len, texts))
    documents: list[str] = []
    size, index, source = 0.0, 0, 0
    while size < megabytes:
        if source < len(sentences):
            parts, min_length, text_part = sentences[source], 100 * 60 ** rng.random(), ""
            while index < len(parts) and len(text_part) < min_length:
                text_part += parts[index]
                index += 1
            if index >= len(parts):
                source, index = source + 1, 0
        else:
            (parts,) = rng.choices(sentences, weights)
            min_length, text_part = 100 * 60 ** rng.random(), ""
            while len(text_part) < min_length:
                at = rng.randrange(len(parts))
                text_part += "".join(parts[at : at + rng.randint(1, 3)])
        if documents and rng.random() < 0.05:
            original = rng.choice(documents)
            text_part = original if rng.random() < 0.4 else edit_words(original, rng)
        documents.append(text_part)
        size += len(text_part.encode()) / 1e6
        yield text_part


def run_hanlin(folder: Path, out: Path) -> None:
    """Hanlin's run, in a process of its own like the peers'."""
    from hanlin.config.settings.data import Corpus
    from hanlin.core.context import Inputs, StageContext
    from hanlin.data.stages import corpus

    settings = Corpus(sources="./x", validation_fraction=0, min_chars=1)
    start_time, busy = time.perf_counter(), sum(os.times()[:4])
    corpus.run(
        settings, Inputs({"sources.0.path": tuple(sorted(folder.iterdir()))}), out, StageContext(seed=7, cores=2)
    )
    seconds, busy = time.perf_counter() - start_time, sum(os.times()[:4]) - busy
    with (out / "documents.jsonl").open(encoding="utf-8") as lines:
        kept = [json.loads(line)["meta"]["name"] for line in lines]
    print(json.dumps({"seconds": seconds, "cpu_seconds": busy, "kept": kept}))


def summarize(values: Sequence[float]) -> dict[str, float]:
    summary = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 2) for name, value in summary.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=positive_float, default=40)
    parser.add_argument("--share", type=positive_float, default=6, help="megabytes that the peers get")
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--pipeline", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.share > arguments.megabytes:
        parser.error("--share is a part of --megabytes")
    if arguments.pipeline:
        return run_hanlin(*arguments.folders)
    rng = random.Random(7)
    here = Path(__file__).resolve().parent
    shared = Path(os.environ.get("HANLIN_SHARED_DATA", "")) / "text"
    with tempfile.TemporaryDirectory() as temp_dir:
        folder = Path(temp_dir)
        (folder / "world").mkdir()
        real = (shared / FILES[0]).is_file()
        texts = list(read_real_texts(shared) if real else read_demo_texts(folder / "world"))
        rows = [(f"text{n}", text) for n, text in enumerate(make_documents(texts, arguments.megabytes, rng))]
        rng.shuffle(rows)
        sizes = {"whole": write_halves(rows, folder / "whole")}
        part = round(len(rows) * arguments.share / arguments.megabytes)
        sizes["share"] = write_halves(rows[:part], folder / "share")
        ours = [sys.executable, str(here / "data.py")]
        runs = {
            "hanlin": ([*ours, str(folder / "whole"), "--pipeline"], "whole"),
            "hanlin_share": ([*ours, str(folder / "share"), "--pipeline"], "share"),
        }
        runs |= {name: (command, "share") for name, command in make_commands(folder / "share", "clean").items()}
        rates: dict[str, list[float]] = {name: [] for name in runs}
        cpu_seconds_per_mb: dict[str, list[float]] = {name: [] for name in runs}
        memory = dict.fromkeys(runs, 0.0)
        kept: dict[str, int] = {}
        for turn in range(arguments.rounds):
            for name, (command, size) in runs.items():
                report, peak_gb = run(command)
                rates[name].append(sizes[size] / report["seconds"])
                cpu_seconds_per_mb[name].append(report["cpu_seconds"] / sizes[size])
                memory[name], kept[name] = max(memory[name], peak_gb), len(report["kept"])
                print(f"{turn}: {name} {rates[name][-1]:.2f} MB/s, {peak_gb:.2f} GB, keeps {kept[name]}", flush=True)
    result: dict[str, Any] = {
        "bench": "data",
        "real_text": real,
        "documents": {"whole": len(rows), "share": part},
        "megabytes": {name: round(size, 2) for name, size in sizes.items()},
        "megabytes_per_second": {name: summarize(values) for name, values in rates.items()},
        "cpu_seconds_per_megabyte": {name: summarize(values) for name, values in cpu_seconds_per_mb.items()},
        "peak_gigabytes": {name: round(held, 2) for name, held in memory.items()},
        "kept": kept,
    }
    faster = max(
        (name for name in rates if name in PEERS), key=lambda name: statistics.median(rates[name]), default=None
    )
    if faster:
        result["faster_peer"] = faster
        for name in ("hanlin", "hanlin_share"):
            pairs = zip(rates[name], rates[faster], strict=True)
            result[f"{name}_to_faster_peer"] = summarize([ours_rate / peer_rate for ours_rate, peer_rate in pairs])
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
