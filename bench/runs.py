"""What benchmarks that stand beside peers share: a run in a process of its own, and how several runs are told."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def last_line(command: Sequence[str], of_peer: bool = False) -> dict[str, Any]:
    """Run a program whose last line is a JSON object, and return it. A peer does not see our modules."""
    environment = {key: value for key, value in os.environ.items() if not (of_peer and key == "PYTHONPATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 2) for name, value in found.items()}
