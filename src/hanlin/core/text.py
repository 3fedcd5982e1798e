"""What a text is and how it is shown: its language, whether it is valid Unicode, text of others on a terminal."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Literal

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

Language = Literal["zh", "en", "other", "none"]


_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


_CJK_SINGLE = (0x3005, 0x3007)  # 々 and 〇, written like characters though Unicode files them elsewhere


def answer_language(text: str) -> Language:
    """`zh` if Chinese characters are at least half of the letters, else `en` if Latin letters are, else `other`.

    Digits and punctuation do not count; the language of a text without letters is `none`.
    """
    chinese = latin = letters = 0
    for letter in text:
        code = ord(letter)
        if _is_chinese(code):
            chinese += 1
        elif not letter.isalpha():
            continue
        elif code < 0x250:  # Basic Latin to Latin Extended-B
            latin += 1
        letters += 1
    if not letters:
        return "none"
    if 2 * chinese >= letters:
        return "zh"
    return "en" if 2 * latin >= letters else "other"


def _is_chinese(code: int) -> bool:
    return code in _CJK_SINGLE or any(first <= code <= last for first, last in _CJK)


_END_MARK = (
    r"(?:</s>|<eos>|\[EOS\]|<end_of_turn>|<turn\|>|<[｜|]end[▁_]of[▁_]sentence[｜|]>|<eo[ah]>|<_end>|<seed:eos>"
    r"|\[UNUSED_TOKEN_145\]|<\|(?:im_end|eot_id|eom_id|eot|eom|endoftext|end_of_text|end|eos|return|end_of_turn"
    r"|END_OF_TURN_TOKEN|end_of_document|endofassistant)\|>)"
)
_NEXT_TURN = (
    r"(?:<s>|<\|begin_of_text\|>|<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>)"
    r"(?:user|assistant|model)?(?:<\|end_header_id\|>)?"
)
"""What templates begin the next turn with, left over behind an end."""
_LAST_MARKS = re.compile(
    rf"(?:\s{{0,9}}{_END_MARK})+(?:\s{{0,9}}(?:{_END_MARK}|{_NEXT_TURN}))*\s{{0,9}}\Z", re.IGNORECASE
)
_MARK_CLOSINGS, _TAIL = (">", "]", ">user", ">assistant", ">model"), 120


def find_end_marks(text: str) -> int:
    """Where the marks begin with which chat templates end a turn, spelled at the end of a text; -1 if it has none."""
    if not text.rstrip().endswith(_MARK_CLOSINGS):
        return -1
    begin = max(0, len(text) - _TAIL)  # the whole text would be searched for nothing
    found = _LAST_MARKS.search(text, begin)
    return found.start() if found else -1


def is_valid_unicode(text: str) -> bool:
    """Whether a text can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, where: str | None = None) -> None:
    """Raise UserError if a text holds half of a surrogate pair, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        position = error.start + 1
        what = tr("character {position} of the text is half of a surrogate pair", position=position)
        hint = tr("it comes from a broken \\u escape: clean the text")
        raise UserError(what, where, hint) from error


def check_path_encoding(path: Path) -> None:
    """Raise UserError if a path is not UTF-8: the libraries in Rust that read models and tokenizers open none such."""
    if not is_valid_unicode(str(path)):
        raise UserError(tr("this path is not UTF-8"), path, tr("rename it"))


def cell_width(text: str) -> int:
    """The columns that a text takes in a terminal: two for a full-width character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def cut_cells(text: str, width: int) -> str:
    """A text as far as it fits a number of columns, its end marked by `…` if it does not."""
    if cell_width(text) <= width:
        return text
    end, used = 0, 1
    while end < len(text) and used + cell_width(text[end]) <= width:
        used += cell_width(text[end])
        end += 1
    return text[:end] + "…"


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
