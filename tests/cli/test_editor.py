"""The line editor on a real terminal: what Enter and Ctrl+J do, whenever they are typed."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.cli.chat.editor import decode_line, recover_text
from hanlin.cli.main import set_output_encoding
from hanlin.core.errors import UserError

ASKS = """
import sys
from pathlib import Path
from hanlin.cli.chat.editor import make_editor
read = make_editor(Path(sys.argv[1]), ["/quit"], lambda: "7 tokens")
for number in range(int(sys.argv[2])):
    try:
        print("<got", ascii(read(f"{number}> ")) + ">", flush=True)
    except KeyboardInterrupt:
        print("<interrupted>", flush=True)
"""


class Terminal:
    """A terminal whose program reads lines with the editor; `start` it after typing what it should find typed."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._side, self._inside = pty.openpty()
        self._shown = ""
        self.all_shown = ""
        self._program: subprocess.Popen[bytes] | None = None

    def type(self, text: str, encoding: str = "utf-8") -> None:
        os.write(self._side, text.encode(encoding))

    def start(self, lines: int, **variables: str) -> None:
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **variables}
        command = [sys.executable, "-c", ASKS, str(self._history), str(lines)]
        ends = {"stdin": self._inside, "stdout": self._inside, "stderr": self._inside}
        self._program = subprocess.Popen(command, env=environment, start_new_session=True, **ends)  # type: ignore[call-overload]

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Until the screen has shown it after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self._shown:
            assert time.monotonic() < end, f"{text!r} does not appear in {self._shown!r}"
            if select.select([self._side], [], [], 0.1)[0]:
                new = os.read(self._side, 1 << 16).decode("utf-8", "replace")
                self._shown += new
                self.all_shown += new
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


def test_ctrl_c_clears_what_is_typed_before_it_ends_the_program(terminal: Terminal) -> None:
    terminal.start(2)
    terminal.wait_for("0>")
    terminal.type("我正在打字")
    terminal.type("\x03")
    terminal.type("还在\r")
    terminal.wait_for("<got '\\u8fd8\\u5728'>")
    terminal.wait_for("1>")
    terminal.type("\x03")
    terminal.wait_for("<interrupted>")


@pytest.mark.parametrize("letter", ["👩‍👩‍👧‍👦", "🇨🇳", "👍🏽", "é", "葛󠄀", "汉", "각"])
def test_backspace_and_arrows_take_one_character_as_it_is_seen(terminal: Terminal, letter: str) -> None:
    terminal.start(2)
    terminal.wait_for("0>")
    terminal.type(f"A{letter}\x7fB\r")
    terminal.wait_for("<got 'AB'>")
    terminal.wait_for("1>")
    terminal.type(f"A{letter}\x1b[DB\x1b[3~\r")  # left, B, delete
    terminal.wait_for("<got 'AB'>")


def test_a_pasted_tab_is_sent_and_shown_as_white_space(terminal: Terminal) -> None:
    terminal.start(1)
    terminal.wait_for("0>")
    terminal.type("\x1b[200~a\tb\x1b[201~\r")
    terminal.wait_for("<got 'a")
    assert "^I" not in terminal.all_shown


def test_the_bar_shows_the_status(terminal: Terminal) -> None:
    terminal.start(1, PROMPT_TOOLKIT_NO_CPR="0")
    terminal.wait_for("\x1b[6n")
    terminal.type("\x1b[1;1R")  # the bar appears once the terminal has said where its cursor is
    terminal.wait_for("7 tokens")


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "gbk"}, {"PYTHONUTF8": "1"}])
def test_a_terminal_of_gbk_is_understood(terminal: Terminal, variables: dict[str, str]) -> None:
    terminal.start(1, **variables)
    terminal.wait_for("0>")
    terminal.type("你好，朋友\r", "gbk")
    terminal.wait_for("<got " + ascii("你好，朋友") + ">")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030"])
def test_a_line_of_a_pipe_is_utf_8_or_gbk(encoding: str) -> None:
    assert decode_line("你好𠮷\n".replace("𠮷", "" if encoding == "gbk" else "𠮷").encode(encoding)).startswith("你好")


def test_a_line_of_neither_encoding_is_named() -> None:
    with pytest.raises(UserError, match="neither UTF-8 nor GBK"):
        decode_line("café\n".encode("latin-1"))
    with pytest.raises(UserError, match="neither UTF-8 nor GBK"):
        recover_text("café".encode("latin-1").decode("utf-8", "surrogateescape"))


def test_an_argument_in_gbk_is_read() -> None:
    assert recover_text("你好".encode("gbk").decode("utf-8", "surrogateescape")) == "你好"


@pytest.mark.parametrize(
    ("encoding", "is_terminal", "written"),
    [
        ("gbk", True, "你好 ?".encode("gbk")),
        ("gb18030", True, "你好 😀".encode("gb18030")),
        ("big5", True, "你好 ?".encode("big5")),
        ("gbk", False, "你好 😀".encode()),
        ("latin-1", True, "你好 😀".encode()),
        ("ascii", True, "你好 😀".encode()),
        ("utf-8", True, "你好 😀".encode()),
    ],
)
def test_output_is_in_the_encoding_of_a_chinese_terminal_and_else_in_utf_8(
    encoding: str, is_terminal: bool, written: bytes
) -> None:
    class Stream(io.TextIOWrapper):
        def isatty(self) -> bool:
            return is_terminal

    data = io.BytesIO()
    stream = Stream(data, encoding=encoding)
    set_output_encoding(stream)
    stream.write("你好 😀")
    stream.flush()
    assert data.getvalue() == written


def test_the_program_writes_gbk_to_a_terminal_of_gbk() -> None:
    side, inside = pty.openpty()
    variables = {"PYTHONIOENCODING": "gbk", "HANLIN_LANG": "zh", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "hanlin", "nothing"],
        stdin=subprocess.DEVNULL,
        stdout=inside,
        stderr=inside,
        env={**os.environ, **variables},
        timeout=300,
    )
    shown = os.read(side, 1 << 16)
    os.close(side)
    os.close(inside)
    assert done.returncode == 2 and "错误" in shown.decode("gbk")
