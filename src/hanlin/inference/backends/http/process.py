"""Server processes that Hanlin starts (vLLM, llama-server), restarts if they end, and ends with the engine."""

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
from hanlin.core.i18n import tr
from hanlin.core.process import end_process, start_process
from hanlin.inference.backends.http.replicas import Replica

_LOG = logging.getLogger(__name__)
_SECONDS_TO_START = 1800.0
_SECONDS_TO_END = 20.0
_MAX_RESTART_DELAY = 60.0


def program_path(program: str) -> str:
    """The full path of a program. Raises UserError if there is none of that name."""
    path = shutil.which(os.path.expanduser(program))
    if path is None:
        what = tr("there is no program '{program}'", program=program)
        raise UserError(what, hint=tr("give its full path"))
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free at the time of the call."""
    with socket.create_server(("127.0.0.1", 0)) as path:
        return int(path.getsockname()[1])


class ServerProcess:
    """A server process that is restarted whenever it ends by itself, after a growing delay.

    `command` and `environment` make it listen at `replica`. Its output goes to the file `log`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], replica: Replica) -> None:
        self.replica = replica
        self.restarts = 0
        self._command = list(command)
        self._environment = dict(environment)
        handle, name = tempfile.mkstemp(prefix=f"hanlin-{Path(command[0]).name}-", suffix=".log")
        os.close(handle)
        self.log = Path(name)
        self._closed = threading.Event()
        self._running = [self._start()]
        self._closing = weakref.finalize(self, _close, self._running, self._closed, self.log)

    def wait_until_healthy(self, health: str) -> None:
        """Wait until the server answers; from then on it is restarted if it ends.

        Raises UserError with the end of its log if it exits, or is not ready within half an hour.
        """
        start_time = time.monotonic()
        while not self.replica.is_healthy(health):
            code = self._running[0].poll()
            if code is not None or time.monotonic() - start_time > _SECONDS_TO_START:
                output = self.log_tail()
                self.close()
                name = Path(self._command[0]).name
                what = tr("{name} does not start ({code}): {output}", name=name, code=code, output=output)
                raise UserError(what)
            time.sleep(0.1)
        self.replica.healthy = True
        threading.Thread(target=self._restart_loop, daemon=True).start()

    def log_tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        return " | ".join((errors or lines)[-3:])[-600:]

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as output:
            return start_process(
                self._command,
                changes=self._environment,
                without=("PYTHONPATH", "VIRTUAL_ENV"),  # its Python is not ours: our packages would mislead it
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _restart_loop(self) -> None:
        delay, start_time = 0.0, time.monotonic()
        while not self._closed.is_set():
            code = self._running[0].wait()
            if self._closed.is_set():
                return
            self.replica.healthy = False
            delay = 0.0 if time.monotonic() - start_time > 60 else min(_MAX_RESTART_DELAY, max(0.5, 2 * delay))
            _LOG.error("%s ended (%s); it is started again: %s", self._command[0], code, self.log_tail())
            _kill_process_group(self._running[0])  # what it left behind holds its port and memory
            if self._closed.wait(delay):
                return
            start_time = time.monotonic()
            try:
                self._running[0] = self._start()
            except OSError as error:
                _LOG.error("%s cannot be started: %s", self._command[0], error)
                continue
            self.restarts += 1
            if self._closed.is_set():  # while it was being started
                _close(self._running, self._closed, self.log)

    def close(self) -> None:
        self._closing()


def _close(running: list[subprocess.Popen[bytes]], closed: threading.Event, log: Path) -> None:
    closed.set()
    _kill_process_group(running[0])
    log.unlink(missing_ok=True)


def _kill_process_group(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started, vLLM's workers for one."""
    end_process(process, _SECONDS_TO_END, group=True)
