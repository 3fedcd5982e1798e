"""Run one fuzzer: workers with limits, which are started again when one ends, and what they found."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SEEDS = Path(__file__).resolve().parent / "seeds"
SECONDS_PER_CASE = 30
"""Processor time of a case; a template may take 10 s by its own limit."""
ADDRESS_SPACE = 16 << 30
MAX_PEAK_MB = 3_000
"""Memory that a worker may have held at most: torch and transformers alone take 700 MB."""
_BATCH = 500
_SECONDS_TO_START = 90
"""A worker that makes a model first is not ended before it has tried a case, on a busy machine either."""


@dataclass(frozen=True)
class Target:
    """Something that is fuzzed.

    Attributes:
        name: Its name.
        prepare: Makes what is valid, in a folder, once for each worker.
        damage: Makes one input in a folder, from what was prepared.
        attempt: Reads it; a refusal is a `UserError`.
    """

    name: str
    prepare: Callable[[Path], Any]
    damage: Callable[[random.Random, Any, Path], None]
    attempt: Callable[[Any, Path], None]


def _seeds(target: Target) -> list[Path]:
    folder = SEEDS / target.name
    return sorted(folder.iterdir()) if folder.is_dir() else []


def make_case(target: Target, number: int, prepared: Any, folder: Path) -> None:
    """Make the input of a case: a seed for the first numbers, then a damaged sample."""
    seeds = _seeds(target)
    rng = random.Random(f"{target.name} {number}")
    if number >= len(seeds):
        target.damage(rng, prepared, folder)
        return
    target.damage(random.Random(0), prepared, folder)
    seed = seeds[number]
    for file in [seed] if seed.is_file() else seed.iterdir():
        name = file.name.partition("@")[2] or file.name  # `layers@config.json` is put in as config.json
        shutil.copyfile(file, folder / name)


def try_case(target: Target, number: int, folder: Path) -> str:
    """Try one case in this process: `read` or `refused`; any other error is raised."""
    base, case = folder / "base", folder / "case"
    base.mkdir()
    case.mkdir()
    prepared = target.prepare(base)
    make_case(target, number, prepared, case)
    return _attempt(target, prepared, case)


def _attempt(target: Target, prepared: Any, case: Path) -> str:
    try:
        target.attempt(prepared, case)
    except UserError as error:
        if "\n" in error.what:
            raise AssertionError(f"more than a sentence: {error.what!r}") from error
        return "refused"
    return "read"


def work(target: Target, first: int, count: int, out: Path) -> None:
    """The worker: try cases, and print what became of each."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGPROF, _too_slow)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base").mkdir()
        prepared = target.prepare(folder / "base")
        for number in range(first, first + count):
            case = folder / "case"
            case.mkdir()
            print(f"case {number}", flush=True)
            started = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_CASE)
            try:
                make_case(target, number, prepared, case)
                print(_attempt(target, prepared, case))
            except BaseException as error:
                signal.setitimer(signal.ITIMER_PROF, 0)
                if isinstance(error, KeyboardInterrupt):
                    raise
                lines = traceback.format_exc().strip().splitlines()
                places = [line.strip() for line in lines if line.strip().startswith("File ")]
                finding = {"case": number, "error": lines[-1][:300], "where": places[-1] if places else ""}
                print("finding " + json.dumps(finding))
                _save(target, number, case, out)
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = time.process_time() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"took {seconds:.3f} {peak}", flush=True)
            shutil.rmtree(case)
            if peak > MAX_PEAK_MB:
                print("finding " + json.dumps({"case": number, "error": f"{peak} MB of memory", "where": ""}))
                return
    print("done", flush=True)


def _save(target: Target, number: int, case: Path, out: Path) -> None:
    place = out / target.name / str(number)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(case, place, ignore=lambda _, names: [name for name in names if name.endswith(".safetensors")])


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_CASE} seconds")


def run_fuzzer(target: Target, seed: int, seconds: float, out: Path) -> dict[str, Any]:
    """Run workers for a time.

    Returns:
        Figures: cases, how many were read and refused, findings, processor time of the slowest case, most memory.
    """
    counts: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    number, slowest, peak = seed, 0.0, 0
    started = time.monotonic()
    while (left := seconds - (time.monotonic() - started)) > 0:
        command = [sys.executable, "-m", "fuzz", target.name, "--out", str(out), "--work", str(number), str(_BATCH)]
        worker = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        try:
            output, errors = worker.communicate(timeout=left + _SECONDS_TO_START)
            in_time = True
        except subprocess.TimeoutExpired:
            worker.kill()
            output, errors = worker.communicate()
            in_time = False
        last, tried = number - 1, 0
        for line in output.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "case":
                last = int(rest)
            elif kind in ("read", "refused"):
                counts[kind] += 1
            elif kind == "finding":
                findings.append(json.loads(rest))
            elif kind == "took":
                tried += 1
                slowest, peak = max(slowest, float(rest.split()[0])), max(peak, int(rest.split()[1]))
        counts["cases"] += tried
        number = last + 1
        if in_time and worker.returncode != 0:
            what = f"the worker ended with {worker.returncode}"
            findings.append({"case": last, "error": what, "where": errors[-500:]})
        print(f"{target.name}: {counts['cases']:,} cases, {len(findings)} findings", file=sys.stderr, flush=True)
        if not tried and worker.returncode != 0:
            break
    return {
        "name": target.name,
        "cases": counts["cases"],
        "read": counts["read"],
        "refused": counts["refused"],
        "findings": findings,
        "slowest": round(slowest, 2),
        "peak_mb": peak,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "numbers": [seed, number],
    }
