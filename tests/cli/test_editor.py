"""The line editor on a real terminal: what Enter and Ctrl+J do, whenever they are typed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ASKS = """
import sys
from pathlib import Path
from hanlin.cli.chat.editor import make_editor
read = make_editor(Path(sys.argv[1]), ["/quit"])
for number in range(int(sys.argv[2])):
    print("<got", ascii(read(f"{number}> ")) + ">", flush=True)
"""


class Terminal:
    """A terminal whose program reads lines with the editor; `start` it after typing what it should find typed."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._side, self._inside = pty.openpty()
        self._shown = ""
        self._program: subprocess.Popen[bytes] | None = None

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def start(self, lines: int) -> None:
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        command = [sys.executable, "-c", ASKS, str(self._history), str(lines)]
        ends = {"stdin": self._inside, "stdout": self._inside, "stderr": self._inside}
        self._program = subprocess.Popen(command, env=environment, start_new_session=True, **ends)  # type: ignore[call-overload]

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Until the screen has shown it after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self._shown:
            assert time.monotonic() < end, f"{text!r} does not appear in {self._shown!r}"
            if select.select([self._side], [], [], 0.1)[0]:
                self._shown += os.read(self._side, 1 << 16).decode("utf-8", "replace")
        self._shown = self._shown.partition(text)[2]

    def close(self) -> None:
        if self._program is not None:
            self._program.kill()
            self._program.wait()
        os.close(self._side)
        os.close(self._inside)


@pytest.fixture()
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "typed")
    yield made
    made.close()


def test_enter_sends_what_was_typed_before_the_prompt_appeared(terminal: Terminal) -> None:
    terminal.type("早\rsecond\rthi")
    terminal.start(3)
    terminal.wait_for("<got '\\u65e9'>")
    terminal.wait_for("<got 'second'>")
    terminal.wait_for("2>")
    terminal.type("rd\r")
    terminal.wait_for("<got 'third'>")


def test_at_the_prompt_enter_sends_and_ctrl_j_and_alt_enter_begin_a_new_line(terminal: Terminal) -> None:
    terminal.start(1)
    terminal.wait_for("0>")
    terminal.type("one\ntwo\x1b\rthree\r")
    terminal.wait_for(r"<got 'one\ntwo\nthree'>")
