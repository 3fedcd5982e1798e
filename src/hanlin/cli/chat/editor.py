"""The line editor of the chat: wide characters, several lines, pasted text; plain lines from a pipe; UTF-8 and GBK."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


def make_editor(
    history: Path | None, commands: Sequence[str], describe_status: Callable[[], str] = str
) -> Callable[[str], str]:
    """Make a function that shows a prompt and returns what was typed.

    Enter sends, Alt+Enter or Ctrl+J begins a new line, pasted lines stay together, Tab completes a command, and the
    arrows bring back earlier input. Backspace takes one character as it is seen, Ctrl-C clears what is typed. If the
    input is no terminal, a message is a line.

    Args:
        history: File for earlier input; only its owner may read it. If there is none, or it cannot be written, nothing
            is remembered.
        commands: Commands that Tab completes.
        describe_status: What the bar below the line shows; empty: the keys.

    Returns:
        The function. It raises EOFError at the end of the input, KeyboardInterrupt at Ctrl-C on an empty line, and
        UserError if a line is neither UTF-8 nor GBK.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _read_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.input import create_input
    from prompt_toolkit.layout.processors import TabsProcessor

    keyboard = create_input()
    session: PromptSession[str] = PromptSession(
        input=keyboard,
        history=_open_history(history),
        multiline=True,
        key_bindings=_key_bindings(),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        prompt_continuation=lambda width, line, wrapped: "" if wrapped else "· ".rjust(width),
        input_processors=[TabsProcessor(char1=" ", char2=" ")],
        bottom_toolbar=lambda: f" {describe_status() or tr('Enter sends · Alt+Enter new line · /help')} ",
    )

    def read(prompt: str) -> str:
        with keyboard.raw_mode():
            _store_typeahead(keyboard)
            return recover_text(session.prompt(prompt))

    return read


def recover_text(text: str) -> str:
    """A text as it was typed, if it was decoded as UTF-8 but is GBK: its bytes are lone surrogates then (PEP 383).

    Raises:
        UserError: It is neither.
    """
    if text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text):
        return text
    return decode_line(text.encode("utf-8", "surrogateescape"))


def decode_line(data: bytes) -> str:
    """A line of a pipe or terminal, which is UTF-8 or, as on many Chinese systems, GBK (GB 18030).

    Raises:
        UserError: It is neither.
    """
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UserError(tr("this line is neither UTF-8 nor GBK"), None, tr("convert it with iconv, or set the terminal"))


def _open_history(file: Path | None) -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if file is None:
        return InMemoryHistory()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


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
    binary = getattr(sys.stdin, "buffer", None)
    line = sys.stdin.readline() if binary is None else binary.readline()
    if not line:
        raise EOFError
    return line if isinstance(line, str) else decode_line(line)


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

    @keys.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not buffer.text:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")
            return
        buffer.save_to_undo_stack()
        buffer.text = ""

    @keys.add("c-h")
    def delete_before(event: KeyPressEvent) -> None:
        event.current_buffer.delete_before_cursor(_grapheme_length(event.current_buffer, -1))

    @keys.add("delete")
    def delete_after(event: KeyPressEvent) -> None:
        event.current_buffer.delete(_grapheme_length(event.current_buffer, 1))

    @keys.add("left")
    def move_left(event: KeyPressEvent) -> None:
        event.current_buffer.cursor_position -= _grapheme_length(event.current_buffer, -1)

    @keys.add("right")
    def move_right(event: KeyPressEvent) -> None:
        event.current_buffer.cursor_position += _grapheme_length(event.current_buffer, 1)

    return keys


def _grapheme_length(buffer: Buffer, direction: int) -> int:
    """Code points of the character before (-1) or after (1) the cursor, as it is seen: an emoji of a family has seven.

    Source: extended grapheme clusters, UAX #29.
    """
    from wcwidth import iter_graphemes

    document = buffer.document
    text = document.text_before_cursor if direction < 0 else document.text_after_cursor
    graphemes = list(iter_graphemes(text))
    return len(graphemes[-1 if direction < 0 else 0]) if graphemes else 0
