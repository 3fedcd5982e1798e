"""What a process can still do after it has given up its rights; a test runs it in a child."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from hanlin.models.layouts.rights import give_up_rights

_TGKILL, _RT_SIGQUEUEINFO, _SHMGET = {"x86_64": (234, 129, 29)}.get(platform.machine(), (131, 138, 194))


def _call(number: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _with_open(file: Path, action: Callable[[int], object]) -> None:
    with file.open("rb") as opened:
        action(opened.fileno())


def try_everything(argument: dict[str, str]) -> dict[str, str]:
    """The error of each try, empty if it succeeded; no result if the system cannot filter system calls."""
    if not give_up_rights(1 << 20):
        return {}
    file = Path(argument["file"])
    tries: dict[str, Callable[[], object]] = {
        "socket": socket.socket,
        "program": lambda: subprocess.run(["true"]),
        "fork": os.fork,
        "write": lambda: file.with_name("new").write_text("x"),
        "change": lambda: file.open("r+").close(),
        "remove": file.unlink,
        "rename": lambda: file.rename(file.with_name("other")),
        "folder": lambda: file.with_name("folder").mkdir(),
        "signal": lambda: os.kill(os.getppid(), 0),
        "signal to a thread": lambda: _call(_TGKILL, os.getppid(), os.getppid(), 0),
        "queued signal": lambda: _call(_RT_SIGQUEUEINFO, os.getppid(), 0, 0),
        "limits of another": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
        "rights of a file": lambda: _with_open(file, lambda descriptor: os.fchmod(descriptor, 0o777)),
        "time of a file": lambda: os.utime(file),
        "attribute of a file": lambda: _with_open(file, lambda descriptor: os.setxattr(descriptor, "user.x", b"x")),
        "shared memory": lambda: _call(_SHMGET, 0, 4096, 0o1600),
        "own limits": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "read": file.read_bytes,
    }
    results = {}
    for name, attempt in tries.items():
        try:
            attempt()
            results[name] = ""
        except OSError as error:
            results[name] = type(error).__name__
    return results
