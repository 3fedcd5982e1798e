"""Start-up time of `hanlin --help` and `hanlin plan`, compared with a bare Python interpreter, alternating.

The last line is one JSON object: median, lowest and highest ratio to bare Python, and the seconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command_line import run_main

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 15


def measure_seconds(command: list[str]) -> float:
    start_time = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start_time


def main() -> None:
    hanlin = str(Path(sys.executable).parent / "hanlin")
    with tempfile.TemporaryDirectory() as home:
        commands = {
            "python": [sys.executable, "-c", "pass"],
            "help": [hanlin, "--help"],
            "plan": [hanlin, "plan", "recipes/quickstart.yaml", "--home", home],
        }
        for command in commands.values():
            measure_seconds(command)  # once to warm the file cache and the bytecode
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                taken[name].append(measure_seconds(command))
    result: dict[str, object] = {"bench": "startup", "rounds": ROUNDS}
    for name in ("help", "plan"):
        ratios = [ours / bare for ours, bare in zip(taken[name], taken["python"], strict=True)]
        result[name] = {
            "ratio": {
                "median": round(statistics.median(ratios), 2),
                "lowest": round(min(ratios), 2),
                "highest": round(max(ratios), 2),
            },
            "seconds": round(statistics.median(taken[name]), 3),
        }
        print(f"hanlin {name}: {result[name]}")
    result["python"] = {"seconds": round(statistics.median(taken["python"]), 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
