"""The line of progress stays one line of the terminal, in any language, and leaves nothing behind."""

from __future__ import annotations

import io
import sys

import pytest

from hanlin.core.progress import Progress
from hanlin.core.text import cell_width, cut_cells


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


def test_a_line_of_full_width_characters_is_overwritten_and_cleared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("词表报告词表报告", every=0)
    progress.update(1, 2, "回答")
    first = terminal.getvalue().removeprefix("\r")
    progress.name = "a"
    progress.update(1, 2, "x", force=True)
    second = terminal.getvalue().rpartition("\r")[2]
    assert cell_width(second) >= cell_width(first)
    progress.close()
    assert cell_width(terminal.getvalue().split("\r")[-2]) == cell_width(second.rstrip())


def test_a_line_that_is_too_long_is_cut_and_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    Progress("阶段" * 30, every=0).update(1, 2, "tokens")
    line = terminal.getvalue().removeprefix("\r")
    assert 77 < cell_width(line) < 80 and line.endswith("…")


def test_a_text_is_cut_between_characters() -> None:
    assert cut_cells("中文字", 6) == "中文字"
    assert cut_cells("中文字", 5) == "中文…"
    assert cut_cells("中文字", 4) == "中…"
