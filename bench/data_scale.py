"""How fast a large corpus goes through the stage `corpus`, in how much memory, and where the time goes.

Synthetic Chinese documents (sentences of Zipf-distributed made-up words, 30 to a document) are written to JSON Lines,
one in twenty an exact copy and one in twenty a near copy (a sentence replaced) of an earlier one. The stage runs in a
process of its own, whose whole tree of processes is watched twice a second. Then a smaller corpus runs on one process,
on all cores through Daft, and on a local Ray cluster of as many cores; the three must make the same bytes.

The last line is one JSON object. Rates are megabytes (10^6) of the source files a second, by the clock and by the
processor time of all processes of the stage (on a busy machine only the latter means something).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hanlin.data.text.common_characters import CHARS_BY_FREQUENCY

SENTENCES = 200_000
IN_A_DOCUMENT = 30
COPIES = 0.05
FILES = 4


def sentences(seed: int) -> list[bytes]:
    """Made-up sentences of about forty characters, as they stand in JSON."""
    chance = np.random.default_rng(seed)
    characters = np.array([char for char in CHARS_BY_FREQUENCY if "\u4e00" <= char <= "\u9fff"])
    words = ["".join(chance.choice(characters, size=length)) for length in chance.choice([1, 2, 2, 2, 3], size=30_000)]
    ranks = chance.zipf(1.3, size=SENTENCES * 24) % len(words)
    ends = "。。。！？"
    found = []
    for number in range(SENTENCES):
        chosen = [words[rank] for rank in ranks[24 * number : 24 * number + 16 + number % 9]]
        half = len(chosen) // 2
        sentence = "".join(chosen[:half]) + "，" + "".join(chosen[half:]) + ends[number % len(ends)]
        found.append(sentence.encode("utf-8"))
    return found


def write_corpus(folder: Path, size: int, seed: int = 7) -> dict[str, int]:
    """Write `size` bytes of documents; return how many there are, and how many copies among them."""
    chance = random.Random(seed)
    pool = sentences(seed)
    folder.mkdir(parents=True)
    recent: deque[list[bytes]] = deque(maxlen=5_000)
    counts = {"documents": 0, "exact": 0, "near": 0}
    for number in range(FILES):
        written = 0
        with (folder / f"part{number}.jsonl").open("wb") as file:
            while written < size // FILES:
                kind = chance.random() if len(recent) > 100 else 1.0
                if kind < 2 * COPIES:
                    document = list(recent[chance.randrange(len(recent))])
                    if kind < COPIES:
                        counts["exact"] += 1
                    else:
                        document[chance.randrange(len(document))] = chance.choice(pool)
                        counts["near"] += 1
                else:
                    document = chance.choices(pool, k=IN_A_DOCUMENT)
                    recent.append(document)
                line = b'{"text": "' + b"".join(document) + b'"}\n'
                written += file.write(line)
                counts["documents"] += 1
    return counts


def run_stage(source: Path, out: Path, cores: int, ray: str) -> None:
    """The stage, with a clock on each of its steps; the last line printed is JSON."""
    from hanlin.config.settings.data import Corpus
    from hanlin.core.context import Inputs, StageContext
    from hanlin.core.progress import Progress
    from hanlin.data.ingest import ingest
    from hanlin.data.stages import corpus

    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}  # of this process alone

    def clocked(name: str, step: Any) -> Any:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun, worked = time.perf_counter(), time.process_time()
            try:
                return step(*arguments, **named)
            finally:
                seconds[name] = time.perf_counter() - begun
                processor[name] = time.process_time() - worked

        return timed

    steps = {"look": "_looked", "read_and_judge": "_sifted", "find_copies": "judged_together", "write": "write_records"}
    for name, function in steps.items():
        setattr(ingest, function, clocked(name, getattr(ingest, function)))
    out.mkdir(parents=True)
    job = StageContext(progress=Progress("corpus"), cores=cores, ray=ray)
    begun = time.perf_counter()
    metrics = corpus.run(Corpus(sources="./x"), Inputs({"sources.0.path": (source,)}), out, job)
    seconds["all"] = time.perf_counter() - begun
    digest = hashlib.sha256()
    for path in sorted(out.glob("*.json*")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    scratch = sum(path.stat().st_size for path in (out / ".work").rglob("*") if path.is_file())
    result = {"digest": digest.hexdigest()[:16], "scratch_bytes": scratch, "dropped": metrics["dropped"]}
    result |= {"rows_in": metrics["rows_in"], "rows_kept": metrics["rows_kept"]}
    result["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    result["processor_seconds"] = {name: round(value, 2) for name, value in processor.items()}
    print("\n" + json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


def watched(source: Path, out: Path, cores: int, ray: str = "") -> dict[str, Any]:
    """Run the stage in a process of its own; add its rate and the highest sum of resident memory of its processes."""
    command = [sys.executable, __file__, "--stage", str(source), str(out), "--cores", str(cores), "--ray", ray]
    peak = 0
    worked: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            resident = 0
            try:
                for one in (tree, *tree.children(recursive=True)):
                    times = one.cpu_times()
                    worked[one.pid] = times.user + times.system
                    resident += one.memory_info().rss
            except psutil.NoSuchProcess:
                pass
            peak = max(peak, resident)
            time.sleep(0.5)
        assert process.stdout is not None
        lines = process.stdout.read().strip().splitlines()
        if process.wait():
            sys.exit(f"the stage failed: {lines[-3:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    size = sum(path.stat().st_size for path in source.iterdir())
    result |= {
        "megabytes_a_second": round(size / 1e6 / result["seconds"]["all"], 2),
        "peak_gigabytes": round(peak / 1e9, 2),
    }
    result["megabytes_a_processor_second"] = round(size / 1e6 / max(0.01, sum(worked.values())), 2)
    if ray:  # its workers are no children of the stage
        del result["peak_gigabytes"], result["megabytes_a_processor_second"]
    shutil.rmtree(out)
    return result


def compared(folder: Path, megabytes: int, cores: int) -> dict[str, Any]:
    """One process, all cores and Ray on a smaller corpus."""
    from ray.cluster_utils import Cluster

    write_corpus(folder / "small", megabytes * 10**6)
    found = {"one_process": watched(folder / "small", folder / "out", 1)}
    found["daft"] = watched(folder / "small", folder / "out", cores)
    node = {"num_cpus": cores, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        found["ray"] = watched(folder / "small", folder / "out", cores, cluster.address)
    finally:
        cluster.shutdown()
    assert len({result["digest"] for result in found.values()}) == 1, found
    return {"megabytes": megabytes, **found}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--gigabytes", type=float, default=4.0)
    reader.add_argument("--small-megabytes", type=int, default=60)
    reader.add_argument("--minutes", type=float, default=None, help="make the large corpus no larger than they allow")
    reader.add_argument("--folder", type=Path, default=None, help="where to work; default: the system's temporary one")
    reader.add_argument("--stage", nargs=2, type=Path, default=None, help=argparse.SUPPRESS)
    reader.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    reader.add_argument("--ray", default="", help=argparse.SUPPRESS)
    asked = reader.parse_args()
    if asked.stage:
        run_stage(*asked.stage, asked.cores, asked.ray)
    result: dict[str, Any] = {"bench": "data_scale", "cores": asked.cores}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        if asked.small_megabytes:
            result["small"] = compared(folder, asked.small_megabytes, asked.cores)
            print(result["small"])
            shutil.rmtree(folder / "small")
        if asked.gigabytes:
            size = asked.gigabytes
            if asked.minutes and asked.small_megabytes:
                judging = 0.9 * asked.cores * asked.small_megabytes / result["small"]["one_process"]["seconds"]["all"]
                size = min(size, round(judging * asked.minutes * 0.06, 1))
            begun = time.perf_counter()
            counts = write_corpus(folder / "large", int(size * 10**9))
            print(f"written in {time.perf_counter() - begun:.0f} s: {counts}")
            result["large"] = {"gigabytes": size, "planted": counts}
            result["large"] |= watched(folder / "large", folder / "out", asked.cores)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
