"""Runs a peer's pipeline (`bench/peers`) with the Python of its own environment, offline, and measures its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

PEERS = {"datatrove": "HANLIN_DATATROVE", "data_juicer": "HANLIN_DATA_JUICER"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "UV_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def make_commands(folder: Path, mode: str) -> dict[str, list[str]]:
    """Command of each peer that is installed, over a folder of two JSON Lines files; prints which are not."""
    commands = {}
    for name, variable in PEERS.items():
        if python := os.environ.get(variable):
            commands[name] = [python, str(Path(__file__).parent / "peers" / f"{name}_pipeline.py"), str(folder), mode]
        else:
            print(f"{name} is left out: {variable} does not name the Python of an environment that has it")
    return commands


def write_halves(rows: Sequence[tuple[str, str]], folder: Path) -> float:
    """Two files with every other one of the documents (name, text) each; their megabytes."""
    folder.mkdir()
    for half in (0, 1):
        with (folder / f"{half}.jsonl").open("w", encoding="utf-8") as file:
            for name, text in rows[half::2]:
                file.write(json.dumps({"text": text, "name": name}, ensure_ascii=False) + "\n")
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def run(command: Sequence[str]) -> tuple[dict[str, Any], float]:
    """The report of a pipeline (`command`: python, script, folder, mode) and the peak memory of its processes in GB."""
    with tempfile.TemporaryDirectory() as work:
        process = subprocess.Popen(
            [*command[:3], work, *command[3:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **OFFLINE},
        )  # fmt: skip
        peak_gb = [0.0]
        watch = threading.Thread(target=_watch, args=(process.pid, peak_gb))
        watch.start()
        stdout, _ = process.communicate()
        watch.join()
    if process.returncode:
        sys.exit(f"failed with {process.returncode}: {' '.join(command)}")
    lines = stdout.decode("utf-8", "replace").splitlines()
    report = next((line for line in reversed(lines) if line.startswith('{"')), None)  # a peer may print after it
    if report is None:
        sys.exit(f"no report among {len(lines)} lines: {' '.join(command)}\n" + "\n".join(lines[-5:]))
    return json.loads(report), peak_gb[0]


def _watch(pid: int, peak_gb: list[float]) -> None:
    try:
        root = psutil.Process(pid)
        while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
            resident = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    resident += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak_gb[0] = max(peak_gb[0], resident / 1e9)
            time.sleep(0.1)
    except psutil.NoSuchProcess:
        return
