"""Text of others on its way to a terminal: what would be obeyed is shown.

A model's answer, a path, a row of data or a server's error may hold escape sequences, which move the cursor, set the
window's title, write the clipboard (OSC 52) or hide what stands before them. `printable` is the one place that decides
what a terminal gets to see.
"""

from __future__ import annotations

import re

_OBEYED = re.compile(
    "\r\n"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, delete, C1 (0x9b is CSI, 0x9d is OSC)
    "\u2028\u2029"  # line and paragraph separator
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of the bidirectional algorithm
    "\ud800-\udfff]"  # bytes of a file name that are no UTF-8 (PEP 383), and halves of pairs
)


def printable(text: str) -> str:
    r"""A text for a terminal: characters that it would obey are written as `\x1b` or `\u202e`, all others stay.

    A line end of Windows becomes a line feed; a lone carriage return, which goes back to overwrite the line, is shown.

    Example:
        `printable("a\x1b[2Jb")` is `a\x1b[2Jb`, of which a terminal erases nothing.
    """
    return _OBEYED.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    if match[0] == "\r\n":
        return "\n"
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable_json(text: str) -> str:
    r"""JSON text for a terminal: as `printable`, in JSON's own escapes, so that it stays the same value."""
    return _OBEYED.sub(lambda match: "".join(f"\\u{ord(letter):04x}" for letter in match[0]), text)
