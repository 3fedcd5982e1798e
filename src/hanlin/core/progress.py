"""Progress of long work: rows, rate, time left."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from hanlin.core.files import format_json, write_text
from hanlin.core.i18n import tr
from hanlin.core.text import cell_width, cut_cells, printable


@dataclass(slots=True)
class Progress:
    """Shows the progress of long work: a line on the terminal and, if `file` is set, a small JSON file.

    Both are updated at most once in `every` seconds, so `update` may be called for every row.
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
        """Report that `done` of `total` units are done.

        Args:
            done: Units done; the rate is measured from the first call on.
            total: Units in all.
            unit: Their name, for the terminal.
            force: Show it even if the last update was a moment ago.
            **figures: Further numbers to show (loss, tokens per second).
        """
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
                write_text(self.file, format_json(row))
            except OSError:  # progress is not worth a failure; a full disk shows in the work itself
                pass
        if not self.quiet:
            shown = " · ".join(f"{key} {value:.4g}" for key, value in figures.items())
            share = 100 * done / total if total else 100
            eta = "" if left is None else tr(" · {clock} left", clock=_clock(left))
            pace = f" · {rate:,.1f}/s" if rate > 0 else ""
            line = printable(f"  {self.name} {share:3.0f}% · {done:,.0f}/{total:,.0f} {unit}{pace}")
            line += (f" · {shown}" if shown else "") + eta
            if sys.stderr.isatty():
                line = cut_cells(line, _columns() - 1)  # a line that wraps is not overwritten by the next
                width = cell_width(line)
                sys.stderr.write("\r" + line + " " * max(0, self._width - width))
                self._width = width
            else:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def log(self, sentence: str) -> None:
        """Show a sentence on a line of its own."""
        if not self.quiet:
            self._clear()
            line = f"  {self.name}: {sentence}" if self.name else f"  {sentence}"
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Clear the line on the terminal and start over."""
        self._clear()
        self._first, self._width = None, 0

    def _clear(self) -> None:
        if self._width and sys.stderr.isatty():
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def _columns() -> int:
    """The columns of the terminal that standard error is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):
        return _USUAL_COLUMNS


_USUAL_COLUMNS = 80


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
