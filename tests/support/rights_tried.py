"""What a process can still do after it has given up its rights; a test runs it in a child."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from hanlin.models.layouts.rights import give_up_rights


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
