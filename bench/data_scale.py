"""Speed and memory of the stage `corpus` on a large corpus, and where the time goes.

Synthetic Chinese documents (sentences of Zipf-distributed made-up words, 30 to a document) are written to JSON Lines,
one in twenty an exact duplicate and one in twenty a near-duplicate (a sentence replaced) of an earlier one. The stage
runs in a process of its own, whose process tree is sampled twice a second. Then a smaller corpus runs on one process,
on all cores through Daft, and on a local Ray cluster of as many cores; the three must make the same bytes.

The last line is one JSON object. Rates are megabytes (10^6) of the source files a second, by the clock and by the
processor time of all processes of the stage (on a busy machine only the latter is meaningful).
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
from command_line import existing_folder, non_negative_float, non_negative_int, positive_float, positive_int, run_main

from hanlin.data.text.common_characters import CHARS_BY_FREQUENCY

SENTENCES = 200_000
SENTENCES_PER_DOCUMENT = 30
DUPLICATE_RATE = 0.05
FILES = 4


def make_sentences(seed: int) -> list[bytes]:
    """Made-up sentences of about forty characters, as UTF-8."""
    rng = np.random.default_rng(seed)
    characters = np.array([char for char in CHARS_BY_FREQUENCY if "\u4e00" <= char <= "\u9fff"])
    words = ["".join(rng.choice(characters, size=length)) for length in rng.choice([1, 2, 2, 2, 3], size=30_000)]
    ranks = rng.zipf(1.3, size=SENTENCES * 24) % len(words)
    ends = "。。。！？"
    encoded = []
    for number in range(SENTENCES):
        chosen = [words[rank] for rank in ranks[24 * number : 24 * number + 16 + number % 9]]
        half = len(chosen) // 2
        sentence = "".join(chosen[:half]) + "，" + "".join(chosen[half:]) + ends[number % len(ends)]
        encoded.append(sentence.encode("utf-8"))
    return encoded


def write_corpus(folder: Path, size: int, seed: int = 7) -> dict[str, int]:
    """Write `size` bytes of documents; return how many there are, and how many copies among them."""
    rng = random.Random(seed)
    pool = make_sentences(seed)
    folder.mkdir(parents=True)
    recent: deque[list[bytes]] = deque(maxlen=5_000)
    counts = {"documents": 0, "exact": 0, "near": 0}
    for number in range(FILES):
        written = 0
        with (folder / f"part{number}.jsonl").open("wb") as file:
            while written < size // FILES:
                kind = rng.random() if len(recent) > 100 else 1.0
                if kind < 2 * DUPLICATE_RATE:
                    document = list(recent[rng.randrange(len(recent))])
                    if kind < DUPLICATE_RATE:
                        counts["exact"] += 1
                    else:
                        document[rng.randrange(len(document))] = rng.choice(pool)
                        counts["near"] += 1
                else:
                    document = rng.choices(pool, k=SENTENCES_PER_DOCUMENT)
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

    def add_timer(name: str, step: Any) -> Any:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start_time, worked = time.perf_counter(), time.process_time()
            try:
                return step(*arguments, **keywords)
            finally:
                seconds[name] = time.perf_counter() - start_time
                processor[name] = time.process_time() - worked

        return timed

    for function in ("_probe_files", "_process_splits", "deduplicate", "write_records"):
        setattr(ingest, function, add_timer(function.lstrip("_"), getattr(ingest, function)))
    out.mkdir(parents=True)
    context = StageContext(progress=Progress("corpus"), cores=cores, ray=ray)
    start_time = time.perf_counter()
    metrics = corpus.run(Corpus(sources="./x"), Inputs({"sources.0.path": (source,)}), out, context)
    seconds["all"] = time.perf_counter() - start_time
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


def run_and_watch(source: Path, out: Path, cores: int, ray: str = "") -> dict[str, Any]:
    """Run the stage in a process of its own; add its rate and the highest sum of resident memory of its processes."""
    command = [sys.executable, __file__, "--stage", str(source), str(out), "--cores", str(cores), "--ray", ray]
    peak = 0
    worked: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            resident = 0
            try:
                for child in (tree, *tree.children(recursive=True)):
                    times = child.cpu_times()
                    worked[child.pid] = times.user + times.system
                    resident += child.memory_info().rss
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


def compare_executors(folder: Path, megabytes: int, cores: int) -> dict[str, Any]:
    """One process, all cores and Ray on a smaller corpus."""
    from ray.cluster_utils import Cluster

    write_corpus(folder / "small", megabytes * 10**6)
    results = {"one_process": run_and_watch(folder / "small", folder / "out", 1)}
    results["daft"] = run_and_watch(folder / "small", folder / "out", cores)
    node = {"num_cpus": cores, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        results["ray"] = run_and_watch(folder / "small", folder / "out", cores, cluster.address)
    finally:
        cluster.shutdown()
    assert len({result["digest"] for result in results.values()}) == 1, results
    return {"megabytes": megabytes, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=non_negative_float, default=4.0)
    parser.add_argument("--small-megabytes", type=non_negative_int, default=60)
    parser.add_argument(
        "--minutes", type=positive_float, default=None, help="make the large corpus no larger than they allow"
    )
    parser.add_argument(
        "--folder", type=existing_folder, default=None, help="where to work; default: the system's temporary folder"
    )
    parser.add_argument("--stage", nargs=2, type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=positive_int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ray", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(*arguments.stage, arguments.cores, arguments.ray)
    result: dict[str, Any] = {"bench": "data_scale", "cores": arguments.cores}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.small_megabytes:
            result["small"] = compare_executors(folder, arguments.small_megabytes, arguments.cores)
            print(result["small"])
            shutil.rmtree(folder / "small")
        if arguments.gigabytes:
            size = arguments.gigabytes
            if arguments.minutes and arguments.small_megabytes:
                megabytes_per_second = (
                    0.9 * arguments.cores * arguments.small_megabytes / result["small"]["one_process"]["seconds"]["all"]
                )
                size = min(size, round(megabytes_per_second * arguments.minutes * 0.06, 1))
            start_time = time.perf_counter()
            counts = write_corpus(folder / "large", int(size * 10**9))
            print(f"written in {time.perf_counter() - start_time:.0f} s: {counts}")
            result["large"] = {"gigabytes": size, "planted": counts}
            result["large"] |= run_and_watch(folder / "large", folder / "out", arguments.cores)
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
