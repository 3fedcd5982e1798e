"""Ending a command by a signal: how it ends, how long that takes, and what it leaves running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: Its exit code as a shell shows it.
        signaled: Whether it was still running when the signal was sent.
        seconds: From the signal to its end.
        left: The command lines of processes that it left.
        output: What it printed.
    """

    code: int
    signaled: bool
    seconds: float
    left: list[str]
    output: str


def hear_signals() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start."""
    for number in CODES:
        signal.signal(number, signal.SIG_DFL)


def end_by(
    words: Sequence[str], number: signal.Signals, moment: float, *, cwd: Path, env: Mapping[str, str] | None = None
) -> Ending:
    """Run `hanlin WORDS` in a group of its own, send the group a signal after so many seconds, and look at its end."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "HANLIN_LANG": "en", **(env or {}), "HANLIN_TEST_MARK": mark}
    command = [sys.executable, "-m", "hanlin", *words]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=hear_signals,  # noqa: PLW1509
    )
    try:
        output, _ = process.communicate(timeout=moment)
        signaled = False
    except subprocess.TimeoutExpired:
        signaled = True
    started = time.monotonic()
    if signaled:
        os.killpg(process.pid, number)
        try:
            process.wait(300)
        except subprocess.TimeoutExpired:
            process.kill()
        seconds = time.monotonic() - started
    else:
        seconds = 0.0
    left = marked(mark)
    for pid in left:
        psutil.Process(pid).kill()
    if signaled:
        output, _ = process.communicate(timeout=300)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Ending(code, signaled, seconds, list(left.values()), output.decode("utf-8", "replace"))


def marked(mark: str, patience: float = 10.0) -> dict[int, str]:
    """Processes whose environment holds a mark, by their id; some time is given to those that are about to end."""
    deadline = time.monotonic() + patience
    while True:
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("HANLIN_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)
