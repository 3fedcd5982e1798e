"""The parent's side of the worker: it starts the worker process and sends it one request for each stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO, Any, Self

from hanlin.core.errors import UserError
from hanlin.core.process import end_process, python_command, start_process

_SECONDS_TO_END = 10.0


class WorkerClient:
    """A worker process that makes artifacts, started on first use and ended with the `with` block.

    Args:
        preload: Let the worker import torch and the like while the first stages run.
    """

    def __init__(self, preload: bool = False) -> None:
        self._preload = preload
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        end_process(self._process, _SECONDS_TO_END, terminate=False)
        if self._process.stdout:
            self._process.stdout.close()

    def run_stage(self, request: Mapping[str, Any]) -> None:
        """Make one artifact. Raises UserError as the stage raised it; RuntimeError if the process died or failed."""
        if self._process is None or self._process.poll() is not None:
            preload = ["--preload"] if self._preload else []
            self._process = start_process(
                python_command("-m", "hanlin.pipeline.worker", *preload),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                process_group=0 if os.name == "posix" else None,  # Ctrl-C is passed on, once (`_read_reply`)
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._read_reply(self._process.stdout)
        if not line:
            code = self._process.wait()
            if code in (130, -signal.SIGINT):
                raise KeyboardInterrupt
            raise RuntimeError(f"the worker of stage {request['stage']} ended with {code}")
        reply = json.loads(line)
        if "user_error" in reply:
            raise UserError(*reply["user_error"])
        if "interrupted" in reply:
            raise KeyboardInterrupt
        if "failed" in reply:
            raise RuntimeError(reply["failed"])

    def _read_reply(self, replies: IO[str]) -> str:
        """The worker's next line.

        Ctrl-C is passed on, and the stage has time to end by itself: training saves a checkpoint. A second Ctrl-C does
        not wait.
        """
        try:
            return replies.readline()
        except KeyboardInterrupt:
            self._forward_interrupt()
        try:
            return replies.readline()
        except KeyboardInterrupt:
            self._forward_interrupt()
            raise

    def _forward_interrupt(self) -> None:
        if self._process is not None and self._process.poll() is None and os.name == "posix":
            os.killpg(self._process.pid, signal.SIGINT)
