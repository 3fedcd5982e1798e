"""How a message is typed: an editor that knows wide characters, several lines and pasted text; plain lines from a pipe.

Owns the keys. Does not own what a line means (`terminal`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.language import say

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


def reader(history: Path, commands: Sequence[str]) -> Callable[[str], str]:
    """A function that shows a prompt and returns what was typed: Enter sends, Alt+Enter or Ctrl+J begins a new line,
    pasted lines stay together, Tab completes a command, arrows bring back what was typed before (kept in `history`,
    for its owner alone to read).

    Where the input is no terminal, a message is a line. The function raises EOFError at the end and KeyboardInterrupt
    at Ctrl-C.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _plain_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    history.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        multiline=True,
        key_bindings=_keys(),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        prompt_continuation=lambda width, line, wrapped: "" if wrapped else "· ".rjust(width),
        bottom_toolbar=lambda: say(" Enter sends · Alt+Enter new line · /help ", " 回车发送 · Alt+回车换行 · /help "),
    )
    return session.prompt


def _plain_line(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
