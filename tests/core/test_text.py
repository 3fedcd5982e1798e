"""Text of others is shown by a terminal, not obeyed."""

from __future__ import annotations

import json
import unicodedata

import pytest

from hanlin.core.text import printable, printable_json

HARM = {
    "colors and cursor (CSI)": "\x1b[2J\x1b[31m\x1b[8m",
    "title (OSC 0)": "\x1b]0;title\x07",
    "link (OSC 8)": "\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\",
    "clipboard (OSC 52)": "\x1b]52;c;cm0gLXJm\x07",
    "C1 forms": "\x9b2J\x9d0;title\x9c\x90q\x9c",
    "carriage return": "safe\rrm -rf",
    "backspaces": "abc\b\b\bxyz",
    "vertical moves": "\x0b\x0c\x85",
    "bells and nothing": "\x07\x00\x7f",
    "bidi override": "\u202egnp.exe\u202c\u2066\u2069",
    "line separators": "\u2028\u2029",
    "bytes of a name": b"\xff\x1b[2J".decode("utf-8", "surrogateescape"),
}


@pytest.mark.parametrize("text", HARM.values(), ids=HARM.keys())
def test_what_a_terminal_would_obey_is_shown(text: str) -> None:
    shown = printable(f"前{text}后")
    assert shown.startswith("前") and shown.endswith("后")
    assert all(unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert not any(0x202A <= ord(letter) <= 0x202E or 0x2066 <= ord(letter) <= 0x2069 for letter in shown)
    shown.encode("utf-8")


def test_every_control_character_is_shown_but_tab_and_line_feed() -> None:
    for code in range(0x110000):
        letter = chr(code)
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") and letter not in "\t\n":
            assert printable(letter) != letter, hex(code)


@pytest.mark.parametrize("text", ["中文，English\t表格\n第二行", "👨‍👩‍👧‍👦 é ĩ אב", "a\\x1b"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert printable(text.replace("\n", "\r\n")) == text


def test_json_stays_the_same_value() -> None:
    value = "\x9b2J\x7f\u202e\r\n中"
    shown = printable_json(json.dumps([value], ensure_ascii=False))
    assert json.loads(shown) == [value] and printable(shown) == shown
