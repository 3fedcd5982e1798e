"""The line editor of the chat: wide characters, several lines, pasted text; plain lines from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


def make_editor(history: Path, commands: Sequence[str]) -> Callable[[str], str]:
    """Make a function that shows a prompt and returns what was typed.

    Enter sends, Alt+Enter or Ctrl+J begins a new line, pasted lines stay together, Tab completes a command, and the
    arrows bring back earlier input. If the input is no terminal, a message is a line.

    Args:
        history: File for earlier input; only its owner may read it.
        commands: Commands that Tab completes.

    Returns:
        The function. It raises EOFError at the end of the input and KeyboardInterrupt at Ctrl-C.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _read_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.input import create_input

    history.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
    keyboard = create_input()
    session: PromptSession[str] = PromptSession(
        input=keyboard,
        history=FileHistory(str(history)),
        multiline=True,
        key_bindings=_key_bindings(),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        prompt_continuation=lambda width, line, wrapped: "" if wrapped else "· ".rjust(width),
        bottom_toolbar=lambda: tr(" Enter sends · Alt+Enter new line · /help "),
    )

    def read(prompt: str) -> str:
        with keyboard.raw_mode():
            _store_typeahead(keyboard)
            return session.prompt(prompt)

    return read


def _store_typeahead(keyboard: Input) -> None:
    """Give the next prompt the keys that were typed before it appeared.

    The terminal was not raw then and turned Enter into a line feed, which would be Ctrl+J here: it is made Enter again.
    """
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.key_binding import KeyPress
    from prompt_toolkit.keys import Keys

    enter = KeyPress(Keys.Enter, "\r")
    while typed := keyboard.read_keys():
        store_typeahead(keyboard, [enter if press.key == Keys.ControlJ else press for press in typed])


def _read_line(prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _key_bindings() -> KeyBindings:
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
