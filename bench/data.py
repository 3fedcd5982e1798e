"""How fast text is cleaned and rid of copies: Hanlin's stage `corpus` beside datatrove and Data-Juicer.

All read the same documents from two JSON Lines files, clean them, drop exact copies and near copies by MinHash, and
write what is left, each with two processes (`bench/peers` holds the peers' pipelines; HANLIN_DATATROVE and
HANLIN_DATA_JUICER name the Python of an environment in which each is installed, and a peer without one is left out).

The documents are cut from real text (HANLIN_SHARED_DATA) or, where there is none, from the demo's world; beyond its
size sentences are mixed anew, and one document in twenty is a copy or a near copy of another. The peers get a share of
them, for they are slow; Hanlin gets that share as well as the whole. Rates are megabytes of input a second, imports
left out for all; the seconds of processors that a megabyte takes tell less of what else the machine does. Memory is
what the tree of processes held at most. The last line is one JSON object.
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

from dedup_quality import FILES, demo_texts, edited, real_texts
from peer_pipelines import PEERS, commands, run, write_halves


def documents(texts: Sequence[str], megabytes: float, chance: random.Random) -> Iterator[str]:
    """Documents of 100 to 6,000 characters: the texts cut up, then sentences of each mixed anew."""
    sentences = [[part for part in re.split(r"(?<=[。！？!?\n])", text) if part.strip()] for text in texts]
    weights = list(map(len, texts))
    made: list[str] = []
    size, place, source = 0.0, 0, 0
    while size < megabytes:
        if source < len(sentences):
            mine, wanted, piece = sentences[source], 100 * 60 ** chance.random(), ""
            while place < len(mine) and len(piece) < wanted:
                piece += mine[place]
                place += 1
            if place >= len(mine):
                source, place = source + 1, 0
        else:
            (mine,) = chance.choices(sentences, weights)
            wanted, piece = 100 * 60 ** chance.random(), ""
            while len(piece) < wanted:
                at = chance.randrange(len(mine))
                piece += "".join(mine[at : at + chance.randint(1, 3)])
        if made and chance.random() < 0.05:
            copied = chance.choice(made)
            piece = copied if chance.random() < 0.4 else edited(copied, chance)
        made.append(piece)
        size += len(piece.encode()) / 1e6
        yield piece


def pipeline(folder: Path, work: Path) -> None:
    """Hanlin's own part, run in a process of its own like the peers'."""
    from hanlin.config.settings.data import Corpus
    from hanlin.core.context import Inputs, StageContext
    from hanlin.data.stages import corpus

    settings = Corpus(sources="./x", validation_fraction=0, min_chars=1)
    begun, busy = time.perf_counter(), sum(os.times()[:4])
    corpus.run(
        settings, Inputs({"sources.0.path": tuple(sorted(folder.iterdir()))}), work, StageContext(seed=7, cores=2)
    )
    seconds, busy = time.perf_counter() - begun, sum(os.times()[:4]) - busy
    with (work / "documents.jsonl").open(encoding="utf-8") as lines:
        kept = [json.loads(line)["meta"]["name"] for line in lines]
    print(json.dumps({"seconds": seconds, "cpu_seconds": busy, "kept": kept}))


def spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--megabytes", type=float, default=40)
    reader.add_argument("--share", type=float, default=6, help="megabytes that the peers get")
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--pipeline", action="store_true", help=argparse.SUPPRESS)
    reader.add_argument("folders", nargs="*", type=Path, help=argparse.SUPPRESS)
    asked = reader.parse_args()
    if asked.pipeline:
        return pipeline(*asked.folders)
    chance = random.Random(7)
    here = Path(__file__).resolve().parent
    shared = Path(os.environ.get("HANLIN_SHARED_DATA", "")) / "text"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "world").mkdir()
        real = (shared / FILES[0]).is_file()
        texts = list(real_texts(shared) if real else demo_texts(folder / "world"))
        rows = [(f"text{n}", text) for n, text in enumerate(documents(texts, asked.megabytes, chance))]
        chance.shuffle(rows)
        sizes = {"whole": write_halves(rows, folder / "whole")}
        part = round(len(rows) * asked.share / asked.megabytes)
        sizes["share"] = write_halves(rows[:part], folder / "share")
        ours = [sys.executable, str(here / "data.py")]
        runs = {
            "hanlin": ([*ours, str(folder / "whole"), "--pipeline"], "whole"),
            "hanlin_share": ([*ours, str(folder / "share"), "--pipeline"], "share"),
        }
        runs |= {name: (command, "share") for name, command in commands(folder / "share", "clean").items()}
        rates: dict[str, list[float]] = {name: [] for name in runs}
        work: dict[str, list[float]] = {name: [] for name in runs}
        memory = dict.fromkeys(runs, 0.0)
        kept: dict[str, int] = {}
        for turn in range(asked.rounds):
            for name, (command, size) in runs.items():
                found, held = run(command)
                rates[name].append(sizes[size] / found["seconds"])
                work[name].append(found["cpu_seconds"] / sizes[size])
                memory[name], kept[name] = max(memory[name], held), len(found["kept"])
                print(f"{turn}: {name} {rates[name][-1]:.2f} MB/s, {held:.2f} GB, keeps {kept[name]}", flush=True)
    result: dict[str, Any] = {
        "bench": "data",
        "real_text": real,
        "documents": {"whole": len(rows), "share": part},
        "megabytes": {name: round(size, 2) for name, size in sizes.items()},
        "megabytes_per_second": {name: spread(values) for name, values in rates.items()},
        "cpu_seconds_per_megabyte": {name: spread(values) for name, values in work.items()},
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
            result[f"{name}_to_faster_peer"] = spread([mine / theirs for mine, theirs in pairs])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
