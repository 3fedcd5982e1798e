"""The alphabet of byte-level BPE: one printable character for each byte."""

from __future__ import annotations

import re

BYTE_TOKEN_PATTERN = re.compile(r"<0x([0-9A-F]{2})>")


SENTENCEPIECE_SPACE = "\u2581"


def _char_to_byte() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes with (`bytes_to_unicode` of GPT-2).

    Printable bytes stand for themselves, the others are numbered from U+0100.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    letters.update({chr(0x100 + index): byte for index, byte in enumerate(hidden)})
    return letters


CHAR_TO_BYTE = _char_to_byte()


BYTE_TO_CHAR = {byte: letter for letter, byte in CHAR_TO_BYTE.items()}
