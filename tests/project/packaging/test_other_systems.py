"""What systems without POSIX lack is not needed to start, and kinds of devices are known in one place."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "hanlin"

DEVICE_KINDS = ("cuda", "mps", "npu", "xpu")
KNOW_DEVICES = {
    "core/hardware/devices.py": "the one place",
    "cli/commands/doctor/accelerators.py": "what torch was built for, read from a file",
    "core/errors.py": "the words of errors",
}


def test_kinds_of_devices_are_known_in_one_place() -> None:
    """Use `hanlin.core.hardware.devices`: another kind of device is then a matter of one file."""
    pattern = re.compile(r"""["'](?:%s)["']|torch\.(?:%s)\b""" % (("|".join(DEVICE_KINDS),) * 2))
    files = {file.relative_to(SOURCE).as_posix(): file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")}
    found = {name for name, text in files.items() if pattern.search(text)}
    assert found <= KNOW_DEVICES.keys()


WINDOWS = r"""
import errno, importlib, os, select, signal, socket, sys
POSIX = {"resource", "fcntl", "pwd", "grp", "termios", "uvloop", "readline", "syslog", "tty", "pty"}
for name in POSIX:
    sys.modules.pop(name, None)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in POSIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
import asyncio, importlib.metadata, multiprocessing.connection, subprocess, tempfile  # of Python itself, as they are
for module, names in {
    os: "fork killpg getuid geteuid getpgid setsid nice sysconf sched_getaffinity pwrite O_NOFOLLOW O_NONBLOCK",
    signal: "SIGKILL SIGHUP SIGALRM setitimer ITIMER_REAL ITIMER_PROF",
    errno: "EDQUOT",
    select: "poll epoll",
    socket: "AF_UNIX",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
failed = []
for name in sys.argv[1].split():
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
print("\n".join(failed))
"""
"""Python as it is on Windows, as far as this project could meet it: modules and names of POSIX are missing."""
LIGHT = ("core", "config", "pipeline", "cli", "serve", "data", "estimate", "web", "inference.backends.process", "chat")


def test_what_starts_at_once_starts_without_posix() -> None:
    """Packages that do not import torch; those that do import nothing of the system by themselves."""
    modules = [
        ".".join(("hanlin", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for package in LIGHT
        for file in sorted((SOURCE / package.replace(".", "/")).rglob("*.py"))
    ]
    command = [sys.executable, "-c", WINDOWS, " ".join(modules)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
