"""The parent's side of the worker: it starts the worker process and sends it one request for each stage."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Self

from hanlin.core.errors import UserError, killed_error
from hanlin.core.process import end_process, forks, kill_descendants, python_command, start_process
from hanlin.core.signals import Terminated, safe_point_ahead

_SECONDS_TO_END = 10.0
_SECONDS_TO_REPLY = 0.4
"""After an interrupt, for a stage that does not end at safe points: it closes what it has open. What it has written is
whole, so that it may be killed then (tests/pipeline/test_killed_at_any_moment.py)."""


class WorkerClient:
    """A worker process that makes artifacts, started on first use and ended with the `with` block.

    Args:
        preload: Let the worker import torch and the like while the first stages run.
    """

    def __init__(self, preload: bool = False) -> None:
        forks()  # a wrong word in its variable is told here, and not by a process that ends
        self._preload = preload
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._safe_points = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if self._process is None:
            return
        if kind is not None and issubclass(kind, KeyboardInterrupt | Terminated):
            self._kill()
            return
        if self._process.stdin:
            self._process.stdin.close()
        end_process(self._process, _SECONDS_TO_END, terminate=False)
        if self._process.stdout:
            self._process.stdout.close()

    def run_stage(self, request: Mapping[str, Any]) -> None:
        """Make one artifact.

        Ctrl-C (and what else ends the command) is passed on. A stage that ends at safe points, as training does, has
        the time to: it saves a checkpoint. Another has less than half a second. A second Ctrl-C does not wait.

        Raises:
            UserError: As the stage raised it, or its process was killed.
            RuntimeError: The stage failed.
            KeyboardInterrupt: It was interrupted, whatever it replied to that.
        """
        try:
            line = self._ask(request)
        except (KeyboardInterrupt, Terminated):
            try:
                self._interrupt()
            finally:
                self._kill()
            raise
        if not line:
            assert self._process is not None
            code = self._process.wait()
            self._process = None
            raise killed_error(request["stage"], code)
        reply = json.loads(line)
        if "user_error" in reply:
            raise UserError(*reply["user_error"])
        if "interrupted" in reply:
            raise KeyboardInterrupt
        if "failed" in reply:
            raise RuntimeError(reply["failed"])

    def _ask(self, request: Mapping[str, Any]) -> bytes:
        """Start the worker if there is none, send a request and return the reply."""
        if self._process is not None and not forks():
            self._end_used()
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        self._safe_points = False
        try:
            self._process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended: there will be no reply
            pass
        return self._read_reply(None) or b""

    def _end_used(self) -> None:
        """Wait for a worker that has replied: without a fork it makes one artifact and ends, perhaps not at once."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        end_process(self._process, _SECONDS_TO_END, terminate=False)
        self._process.stdout.close()
        self._process = None

    def _start(self) -> None:
        command = python_command("-m", "hanlin.pipeline.worker", *(["--preload"] if self._preload else []))
        self._received = b""
        block = os.name == "posix"
        if block:  # until the worker has a handler: what it imports first would end with a traceback
            previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = start_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0 if block else None,  # Ctrl-C is passed on, once
            )
        finally:
            if block:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _read_reply(self, seconds: float | None) -> bytes | None:
        """The worker's reply to a request: empty if the worker has ended, None if the time is up."""
        while True:
            line = self._read_line(seconds)
            if line and (note := json.loads(line)).keys() == {"safe_points"}:
                self._safe_points = note["safe_points"]
                continue
            return line

    def _read_line(self, seconds: float | None) -> bytes | None:
        assert self._process is not None and self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._received:
            if deadline is not None and os.name == "posix":
                left = max(0.0, deadline - time.monotonic())
                if not select.select([output], [], [], left)[0]:
                    return None
            data = os.read(output, 65536)
            if not data:
                return b""
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _interrupt(self) -> None:
        """Pass an interrupt on and wait until the stage has ended, or may be killed."""
        process = self._process
        if process is None or process.poll() is not None or os.name != "posix":
            return
        os.killpg(process.pid, signal.SIGINT)
        if not self._safe_points:
            self._read_reply(_SECONDS_TO_REPLY)
            return
        with safe_point_ahead():
            self._read_reply(None)

    def _kill(self) -> None:
        """End the worker and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        kill_descendants(process.pid, itself=True)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what could not be sent
                pass
