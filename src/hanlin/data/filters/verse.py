"""What repeats for a reason: code shown step by step, refrains of verse, rules drawn with characters, numbers.

Owns the signs of these. Does not own how much repetition is too much (`clean`), which asks here only about texts that
it would otherwise drop, so that nothing here costs time on other texts.
"""

from __future__ import annotations

import re

_FENCED = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)", re.S | re.M)
_INDENTS_AND_DECIMALS = re.compile(r"[ \t\u3000\n]{2,}|(?<=\d\.)\d+")
_RULE = re.compile(r"([-=_~*·.—…─━═＿])\1{3,}")
_NO_VERSE = re.compile(r"[\d|*#=<>{}\[\]/\\:：]")
_FEWEST_LINES = 6
_LONGEST_LINE = 32
_CLASSICAL = re.compile(r"[，。！？；、：\n]+")
_CHARACTERS_OF_A_FOOT = 5.5


def without_code(text: str) -> str:
    """The text around fenced code: lessons show the same code again with a line more."""
    return _FENCED.sub("", text) if "```" in text else text


def is_verse(text: str) -> bool:
    """Whether a text is a song or poem: nothing but short lines without digits, marks or addresses; or, written in
    whole stanzas, clauses of four or five characters as in the 诗经."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines or len(_NO_VERSE.findall(text)) * 50 > len(text):
        return False
    long = sum(len(line.encode("utf-8")) > 3 * _LONGEST_LINE for line in lines)
    if len(lines) >= _FEWEST_LINES and long * 10 <= len(lines):
        return True
    clauses = [clause for clause in _CLASSICAL.split(text) if clause.strip()]
    return len(clauses) >= _FEWEST_LINES and sum(map(len, clauses)) <= _CHARACTERS_OF_A_FOOT * len(clauses)


def without_rules(text: str) -> str:
    """The text without indents and decimals, drawn rules (-----, ＿＿＿) cut to three characters.

    A text of which they are more than seven in ten characters keeps them: it is nothing else.
    """
    drawn = sum(len(rule[0]) for rule in _RULE.finditer(text))
    if 10 * drawn > 7 * len(text):
        return text
    return _RULE.sub(r"\1\1\1", _INDENTS_AND_DECIMALS.sub(" ", text))
