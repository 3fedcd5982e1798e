"""Signals end a command within a second with the exit code of the signal, whatever its main thread does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from endings import CODES, hear_signals, marked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

COMMAND = """
import ctypes, subprocess, sys, threading, time
import hanlin.cli.main
def work(**options):
    print("ready", flush=True)
    exec(sys.argv[1], globals())
hanlin.cli.main.app = work
hanlin.cli.main.main()
"""
WORK = {
    "waiting": "time.sleep(600)",
    "a library that does not come back": "ctypes.CDLL(None).sleep(600)",
    "cleaning up without end": "try:\n    time.sleep(600)\nfinally:\n    time.sleep(600)",
    "an exception that is lost": (
        "class Lost:\n    def __del__(self):\n        time.sleep(600)\nlost = Lost()\ndel lost\ntime.sleep(600)"
    ),
    "a thread that does not end": "threading.Thread(target=time.sleep, args=(600,)).start()\ntime.sleep(600)",
    "children of its own sessions": (
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "subprocess.run([sys.executable, '-c', 'import subprocess; subprocess.run([\"sleep\", \"600\"])'])"
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_a_command_ends_whatever_it_does_and_leaves_no_process(work: str) -> None:
    number = list(CODES)[list(WORK.values()).index(work) % 3]
    process, mark = start(work)
    time.sleep(0.3)  # until the work is in its longest call
    process.send_signal(number)
    process.communicate(timeout=300)  # it would not end by itself
    assert process.returncode == CODES[number]
    assert marked(mark) == {}


IMPORTED = "import os, time\ntry:\n    time.sleep(0.5)\nexcept BaseException:\n    os._exit(99)\n"
"""A module like torch.distributed, in whose start an exception has to pass C++ and ends the process as SIGABRT."""


@pytest.mark.parametrize("number", CODES)
def test_a_signal_during_an_import_is_raised_after_it(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "slow_start.py").write_text(IMPORTED, encoding="utf-8")
    process, _ = start(f"sys.path.append({str(tmp_path)!r})\nimport slow_start\ntime.sleep(30)")
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == CODES[number]


SAVING = """
from hanlin.core.signals import safe_point_ahead
try:
    print("begun", flush=True)
    time.sleep(30)
finally:
    with safe_point_ahead():
        print("saving", flush=True)
        time.sleep(SECONDS)
        print("saved", flush=True)
"""


@pytest.mark.parametrize("again", [False, True])
def test_a_safe_point_is_waited_for_and_a_second_signal_does_not_wait(again: bool) -> None:
    process, _ = start(SAVING.replace("SECONDS", "600" if again else "3"))
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"saving\n"
    if again:
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert output == (b"" if again else b"saved\n")
    assert process.returncode == 130


def test_what_a_command_was_started_to_ignore_stays_ignored() -> None:
    process, _ = start("time.sleep(1)\nsys.exit(7)", ignore=True)
    for number in CODES:
        process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 7


def ignore_signals() -> None:
    for number in CODES:
        signal.signal(number, signal.SIG_IGN)


def start(work: str, ignore: bool = False) -> tuple[subprocess.Popen[bytes], str]:
    mark = f"signals-{time.monotonic_ns()}"
    environment = {**os.environ, "HANLIN_TEST_MARK": mark, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, work],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        preexec_fn=ignore_signals if ignore else hear_signals,  # noqa: PLW1509
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process, mark
