"""Servers of other programs that are started here (vLLM, llama-server), kept running and ended with the engine.

Owns the processes and their ports. Does not own what is asked of them (`http_engine`).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.process import end_process
from hanlin.inference.backends.http.replicas import Replica

_LOG = logging.getLogger(__name__)
_SECONDS_TO_START = 1800.0
_SECONDS_TO_END = 20.0
_LONGEST_PAUSE = 60.0


def program_path(program: str) -> str:
    """Where a program lies. Raises UserError when there is none of that name."""
    found = shutil.which(os.path.expanduser(program))
    if found is None:
        what = say(f"there is no program '{program}'", f"没有程序“{program}”")
        raise UserError(what, hint=say("give its whole path", "请给出完整路径"))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Program:
    """A server that was started here and is started again whenever it ends by itself, after a growing pause.

    `command` and `environment` make it listen at `replica`. What it prints goes to the file `log`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], replica: Replica) -> None:
        self.replica = replica
        self.restarts = 0
        self._command = list(command)
        # its Python is not ours: what points ours to its packages would mislead it
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self._environment = {**inherited, **environment}
        handle, name = tempfile.mkstemp(prefix=f"hanlin-{Path(command[0]).name}-", suffix=".log")
        os.close(handle)
        self.log = Path(name)
        self._ended = threading.Event()
        self._running = [self._start()]
        self._closing = weakref.finalize(self, _end, self._running, self._ended, self.log)

    def wait_until_well(self, health: str) -> None:
        """Raises UserError with the last that it said when it ends instead, or takes half an hour; from then on it is
        kept running."""
        begun = time.monotonic()
        while not self.replica.well(health):
            code = self._running[0].poll()
            if code is not None or time.monotonic() - begun > _SECONDS_TO_START:
                said = self.last_words()
                self.close()
                name = Path(self._command[0]).name
                what = say(f"{name} does not start ({code}): {said}", f"{name} 未能启动（{code}）：{said}")
                raise UserError(what)
            time.sleep(0.1)
        self.replica.healthy = True
        threading.Thread(target=self._keep, daemon=True).start()

    def last_words(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()]
        return " | ".join((telling or lines)[-3:])[-600:]

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as output:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _keep(self) -> None:
        pause, begun = 0.0, time.monotonic()
        while not self._ended.is_set():
            code = self._running[0].wait()
            if self._ended.is_set():
                return
            self.replica.healthy = False
            pause = 0.0 if time.monotonic() - begun > 60 else min(_LONGEST_PAUSE, max(0.5, 2 * pause))
            _LOG.error("%s ended (%s); it is started again: %s", self._command[0], code, self.last_words())
            _end_group(self._running[0])  # what it left behind holds its port and memory
            if self._ended.wait(pause):
                return
            begun = time.monotonic()
            try:
                self._running[0] = self._start()
            except OSError as error:
                _LOG.error("%s cannot be started: %s", self._command[0], error)
                continue
            self.restarts += 1
            if self._ended.is_set():  # while it was being started
                _end(self._running, self._ended, self.log)

    def close(self) -> None:
        self._closing()


def _end(running: list[subprocess.Popen[bytes]], ended: threading.Event, log: Path) -> None:
    ended.set()
    _end_group(running[0])
    log.unlink(missing_ok=True)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started, vLLM's workers for one."""
    end_process(process, _SECONDS_TO_END, group=True)
