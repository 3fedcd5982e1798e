"""What a child process writes on stderr: passed on, except for what it says when it aborts."""

from __future__ import annotations

import re
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import IO

from hanlin.core.text import printable

_MAX_LINE_BYTES = 8_192
_ABORT = re.compile(r"GGML_(ASSERT|ABORT)|ggml_abort|terminate called|^\s*what\(\):")
_SECONDS_TO_END = 1.0


class ErrorOutput:
    """Reads the stderr of a child in a thread of its own until the child has ended.

    Lines go on to this process's stderr as they come. What a library in C++ says before it ends its process is kept for
    the sentence that tells of it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept: deque[str] = deque(maxlen=4)
        self._thread = threading.Thread(target=self._read, name="stderr of an engine", daemon=True)
        self._thread.start()

    def abort_message(self) -> str:
        """What was kept, in one line; to be asked when the child has ended."""
        self._thread.join(_SECONDS_TO_END)
        return " ".join(" ".join(self._kept).split())[-500:]

    def _read(self) -> None:
        with self._stream:
            while line := self._stream.readline(_MAX_LINE_BYTES):
                text = printable(line.decode("utf-8", "replace"))
                if _ABORT.search(text):
                    self._kept.append(text)
                else:
                    with suppress(AttributeError, OSError, ValueError):  # there is no stderr any more
                        sys.stderr.write(text)
