"""Progress of long work: rows, rate, time left."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from hanlin.core.i18n import say


@dataclass(slots=True)
class Progress:
    """Says how far something long has come: a line on the terminal and, where a path is given, a small JSON file.

    Both are renewed at most once in `every` seconds, so that calling `at` for each row costs nothing.
    """

    name: str = ""
    file: Path | None = None
    quiet: bool = False
    every: float = 1.0
    _started: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _last: float = 0.0
    _width: int = 0

    def update(self, done: float, total: float, unit: str, force: bool = False, **figures: float) -> None:
        """`done` of `total` units; `figures` (loss, tokens a second) stand beside. Pace counts from the first call."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        pause = self.every if sys.stderr.isatty() else max(self.every, 5.0)
        if not force and now - self._last < pause:
            return
        self._last = now
        elapsed = now - self._started
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        left = (total - done) / rate if rate > 0 else None
        if self.file is not None:
            row = {"name": self.name, "done": done, "total": total, "unit": unit, "rate": rate, "left": left, **figures}
            try:
                aside = self.file.with_name(self.file.name + ".writing")
                aside.write_text(json.dumps(row), encoding="utf-8")
                os.replace(aside, self.file)
            except OSError:  # to be told of progress is not worth a failure; a full disk shows itself at the work
                pass
        if not self.quiet:
            shown = " · ".join(f"{key} {value:.4g}" for key, value in figures.items())
            share = 100 * done / total if total else 100
            eta = "" if left is None else say(f" · {_clock(left)} left", f" · 剩余 {_clock(left)}")
            pace = f" · {rate:,.1f}/s" if rate > 0 else ""
            line = f"  {self.name} {share:3.0f}% · {done:,.0f}/{total:,.0f} {unit}{pace}"
            line += (f" · {shown}" if shown else "") + eta
            if sys.stderr.isatty():
                pad = " " * max(0, self._width - len(line))
                sys.stderr.write("\r" + line + pad)
                self._width = len(line)
            else:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def log(self, sentence: str) -> None:
        """Say something that a person should know, on a line of its own."""
        if not self.quiet:
            self._clear()
            sys.stderr.write(f"  {self.name}: {sentence}\n" if self.name else f"  {sentence}\n")
            sys.stderr.flush()

    def close(self) -> None:
        self._clear()
        self._first, self._width = None, 0

    def _clear(self) -> None:
        if self._width and sys.stderr.isatty():
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
