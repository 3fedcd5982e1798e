"""Numbers in one writing, so that a question is found whether its numbers are written in digits or in words.

    一百二十三 -> 123    三点五 -> 3.5    百分之三十 -> 30    三分之二 -> 2/3    2.5万 -> 25000    twenty-five -> 25

Single Chinese digits are left as they are: `DIGITS` says which digit each is.
"""

from __future__ import annotations

import re
from decimal import Decimal

from hanlin.data.text.patterns import compile_on_use

DIGITS = dict(zip("零〇一二两三四五六七八九壹贰叁肆伍陆柒捌玖兩貳參叄陸", "00122345678912345678922336", strict=True))
"""The digit that each Chinese character for one stands for."""
_UNITS = dict(zip("十百千拾佰仟", (10, 100, 1000, 10, 100, 1000), strict=True))
_LARGE_UNITS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE_DIGIT, _DIGIT = f"[{''.join(DIGITS)}]", f"[0-9０-９{''.join(DIGITS)}]"
_UNIT = "[十百千万亿拾佰仟萬億]"
_WITH_UNIT = rf"(?:{_DIGIT}+(?:[.．点點]{_DIGIT}+)?{_UNIT}|[十拾])(?:{_DIGIT}|{_UNIT})*"
_DECIMAL = rf"{_CHINESE_DIGIT}+[点點]{_CHINESE_DIGIT}+(?!分(?!之))"
_NUMBER = rf"(?:{_WITH_UNIT}|{_DECIMAL}|{_DIGIT}+(?:[.．][0-9０-９]+)?)"
_COMPOUND = compile_on_use(
    rf"百分之(?:{_NUMBER}|百)|(?:{_NUMBER}又)?{_NUMBER}分之{_NUMBER}|{_WITH_UNIT}|{_DECIMAL}|\\[dt]?frac"
)
_TOKEN = compile_on_use(rf"{_DIGIT}+(?:[.．点點]{_DIGIT}+)?|[十百千万亿拾佰仟萬億]")
_TO_ASCII = str.maketrans({**DIGITS, **dict(zip("０１２３４５６７８９．点點", "0123456789...", strict=True))})


def unify_chinese_numbers(text: str) -> str:
    """Write the Chinese numbers of a text in digits."""
    return _COMPOUND.sub(_write_compound, text)


def _write_compound(match: re.Match[str]) -> str:
    text = match.group()
    if text.startswith("\\"):
        return ""
    first, divided, second = text.partition("分之")
    if not divided:
        return _write_number(text)
    if first == "百":
        return "100" if second == "百" else _write_number(second)
    whole, _, parts = first.rpartition("又")
    return f"{_write_number(whole) + ' ' if whole else ''}{_write_number(second)}/{_write_number(parts)}"


def _write_number(text: str) -> str:
    """Write a number in digits: 一百零五 as 105, 一百二 as 120, 二〇二四 as 2024, 3千5百 as 3500."""
    total = section = Decimal(0)
    digits: str | None = None
    unit = 1
    for token in _TOKEN.findall(text):
        if token in _UNITS:
            is_larger, unit = _UNITS[token] > unit, _UNITS[token]
            if is_larger and section:  # 七十五千米
                section = (section + Decimal(digits or "0")) * unit
            else:
                section += Decimal(digits or "1") * unit
            digits = None
        elif token in _LARGE_UNITS:
            unit = _LARGE_UNITS[token]
            section += Decimal(digits or "0")
            total = (total + section) * unit if unit > total > 0 else total + section * unit
            section, digits = Decimal(0), None
        else:
            digits = token.translate(_TO_ASCII)
    if digits is not None and section == 0 and total == 0:
        return digits
    if digits is not None:
        is_short = len(digits) == 1 and digits != "0" and unit > 10 and text[-2] not in "零〇0"
        section += Decimal(digits) * (unit // 10 if is_short else 1)
    return f"{(total + section).normalize():f}"


_SMALL = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ONES = "|".join(list(_SMALL)[1:10])
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{_ONES}))?|{'|'.join(reversed(_SMALL))})"
_MULTIPLE = f"(?:{'|'.join(_MULTIPLES)})"
_ENGLISH = compile_on_use(
    rf"\b(?:{_BELOW_100}|a(?=[ -]{_MULTIPLE}))(?:[ -]{_MULTIPLE}\b(?:[ -](?:and[ -])?{_BELOW_100}\b)?)*\b"
)


def unify_english_numbers(text: str) -> str:
    """Write the numbers of an English text in lower case in digits."""
    return _ENGLISH.sub(_write_english, text)


def _write_english(match: re.Match[str]) -> str:
    total = section = 0
    for word in re.split("[ -]", match.group()):
        if word in _MULTIPLES:
            section = max(1, section) * _MULTIPLES[word]
            if _MULTIPLES[word] > 100:
                total, section = total + section, 0
        else:
            section += _SMALL.get(word, 0) + _TENS.get(word, 0)
    return str(total + section)
