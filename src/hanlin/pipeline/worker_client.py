"""The parent's side of the worker process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any, Self

from hanlin.core.errors import UserError


class Host:
    """A process that makes artifacts, started on first use and ended with the block."""

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
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def make(self, job: Mapping[str, Any]) -> None:
        """Make one artifact. Raises UserError as the work raised it; RuntimeError when the process died or failed."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "hanlin.pipeline.worker", *(["--preload"] if self._preload else [])]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                process_group=0 if os.name == "posix" else None,  # Ctrl-C is passed on, once (`_reply`)
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job, ensure_ascii=False) + "\n")
        self._process.stdin.flush()
        line = self._reply(self._process.stdout)
        if not line:
            code = self._process.wait()
            if code in (130, -signal.SIGINT):
                raise KeyboardInterrupt
            raise RuntimeError(f"the worker of stage {job['stage']} ended with {code}")
        reply = json.loads(line)
        if "user_error" in reply:
            raise UserError(*reply["user_error"])
        if "interrupted" in reply:
            raise KeyboardInterrupt
        if "failed" in reply:
            raise RuntimeError(reply["failed"])

    def _reply(self, answers: IO[str]) -> str:
        """The worker's next line. Ctrl-C is passed on, and the work given time to end as it likes: a training run saves
        what it has. Another does not wait."""
        try:
            return answers.readline()
        except KeyboardInterrupt:
            self._pass_on_interrupt()
        try:
            return answers.readline()
        except KeyboardInterrupt:
            self._pass_on_interrupt()
            raise

    def _pass_on_interrupt(self) -> None:
        if self._process is not None and self._process.poll() is None and os.name == "posix":
            os.killpg(self._process.pid, signal.SIGINT)
