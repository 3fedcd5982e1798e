"""The topics about numbers: numerals, small addition, units.

Numbers are written in digits, in Chinese characters and in English words.
"""

from __future__ import annotations

from hanlin.demo.facts import Relation, Row, Wording

DIGITS = "零一二三四五六七八九"
NAMES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
ONES = tuple(NAMES.split())
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

NUMERALS_BELOW = 40
ADDENDS = range(1, 6)
COUNTED = range(2, 7)
UNITS: tuple[tuple[str, str, str, str, int], ...] = (
    ("斤", "jin", "两", "liang", 10),
    ("米", "metres", "厘米", "centimetres", 100),
    ("公斤", "kilos", "克", "grams", 1000),
    ("小时", "hours", "分钟", "minutes", 60),
)
"""Larger unit, smaller unit and how many of the smaller make one of the larger."""


def format_hanzi(number: int) -> str:
    """Write a number from 0 to 99 in Chinese characters: 十二, 三十, 四十七."""
    if not 0 <= number <= 99:
        raise ValueError(f"{number} is not from 0 to 99")
    tens, ones = divmod(number, 10)
    if tens == 0:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")


def format_english(number: int) -> str:
    """Write a number from 0 to 99 in English words: twelve, thirty, forty-seven."""
    if not 0 <= number <= 99:
        raise ValueError(f"{number} is not from 0 to 99")
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


def _make_numeral_rows() -> tuple[Row, ...]:
    return tuple(
        Row({"d": str(n), "z": format_hanzi(n)}, {"d": str(n), "w": format_english(n)}, str(n))
        for n in range(NUMERALS_BELOW)
    )


def _make_sum_row(a: int, b: int) -> Row:
    zh = {"a": format_hanzi(a), "b": format_hanzi(b), "c": format_hanzi(a + b)}
    en = {"a": format_english(a), "b": format_english(b), "c": format_english(a + b)}
    return Row(zh, en, f"{a},{b}")


def _make_unit_rows() -> tuple[Row, ...]:
    rows = []
    for big, big_en, small, small_en, factor in UNITS:
        for n in COUNTED:
            zh = {"n": str(n), "m": str(n * factor), "big": big, "small": small}
            en = {"n": str(n), "m": str(n * factor), "big": big_en, "small": small_en}
            rows.append(Row(zh, en, f"{n}{big}:{small}"))
    return tuple(rows)


NUMERALS = (
    Relation(
        "numeral_of_digits",
        "numerals",
        Wording(
            (
                "数字{d}用汉字怎么写？",
                "{d}写成汉字是什么？",
                "{d}用中文怎么读？",
                "{d}的汉字写法是什么？",
                "怎样用汉字写{d}？",
                "{d}这个数的中文是什么？",
                "阿拉伯数字{d}在中文里怎么写？",
                "汉字里的{d}是怎么写的？",
            ),
            "{d}写作{z}。",
            ("{d}写作{z}。", "数字{d}用汉字写就是{z}。", "{d}读作{z}。", "门牌上写着{d}，大家念{z}。"),
        ),
        Wording(
            (
                "How do you write {d} in words?",
                "How is {d} written in words?",
                "What is {d} in words?",
                "How do you spell {d}?",
                "How do you read {d}?",
                "What is the word for {d}?",
                "What is the number {d} in words?",
                "How is {d} spelt?",
            ),
            "{d} in words is {w}.",
            ("{d} in words is {w}.", "The number {d} is read {w}.", "We write {d} as {w}."),
        ),
        _make_numeral_rows(),
    ),
    Relation(
        "digits_of_numeral",
        "numerals",
        Wording(
            (
                "{z}用数字怎么写？",
                "{z}写成数字是什么？",
                "{z}是数字几？",
                "{z}的阿拉伯数字写法是什么？",
                "怎样用数字写{z}？",
                "{z}这个数的数字是什么？",
                "汉字{z}换成数字是多少？",
                "{z}用阿拉伯数字怎么表示？",
            ),
            "{z}写作{d}。",
            ("{z}写作{d}。", "汉字{z}换成数字就是{d}。", "{z}就是{d}。"),
        ),
        Wording(
            (
                "How do you write {w} in digits?",
                "How is {w} written in digits?",
                "What is {w} in digits?",
                "What number is {w}?",
                "Which digits make {w}?",
                "What are the digits of {w}?",
                "What is the number {w} in digits?",
                "How is {w} shown in digits?",
            ),
            "{w} in digits is {d}.",
            ("{w} in digits is {d}.", "We write {w} as {d}.", "The number {w} is {d}."),
        ),
        _make_numeral_rows(),
    ),
)

ARITHMETIC = (
    Relation(
        "addition",
        "addition",
        Wording(
            (
                "{a}加{b}等于几？",
                "{a}加上{b}是多少？",
                "{a}与{b}的和是多少？",
                "{a}加{b}得几？",
                "{a}和{b}加起来是多少？",
                "把{a}和{b}相加得到几？",
                "计算{a}加{b}，结果是多少？",
                "先有{a}个，又来{b}个，一共几个？",
            ),
            "{a}加{b}等于{c}。",
            (
                "{a}加{b}等于{c}。",
                "{a}与{b}的和是{c}。",
                "{a}加上{b}得{c}。",
                "把{a}和{b}加起来就是{c}。",
                "先有{a}个桃子，又摘了{b}个，一共有{c}个。",
            ),
        ),
        Wording(
            (
                "What is {a} plus {b}?",
                "How much is {a} plus {b}?",
                "What is the sum of {a} and {b}?",
                "What do {a} and {b} make?",
                "How much is {a} and {b} more?",
                "What do you get if you add {a} and {b}?",
                "What does {a} plus {b} make?",
                "What is the result of {a} plus {b}?",
            ),
            "{a} plus {b} is {c}.",
            ("{a} plus {b} is {c}.", "The sum of {a} and {b} is {c}.", "{a} and {b} make {c}."),
        ),
        tuple(_make_sum_row(a, b) for a in ADDENDS for b in ADDENDS),
        weight=1.5,
    ),
)

UNIT_CONVERSION = (
    Relation(
        "units",
        "units",
        Wording(
            (
                "{n}{big}等于多少{small}？",
                "{n}{big}是多少{small}？",
                "{n}{big}有多少{small}？",
                "{n}{big}合多少{small}？",
                "多少{small}等于{n}{big}？",
                "把{n}{big}换成{small}是多少？",
                "{n}{big}换算成{small}是多少？",
                "用{small}表示{n}{big}是多少？",
            ),
            "{n}{big}等于{m}{small}。",
            (
                "{n}{big}等于{m}{small}。",
                "{n}{big}就是{m}{small}。",
                "{m}{small}合{n}{big}。",
                "{n}{big}有{m}{small}。",
            ),
        ),
        Wording(
            (
                "How many {small} are {n} {big}?",
                "How many {small} are there in {n} {big}?",
                "How many {small} make {n} {big}?",
                "What are {n} {big} in {small}?",
                "How much are {n} {big} in {small}?",
                "How many {small} do {n} {big} have?",
            ),
            "{n} {big} are {m} {small}.",
            ("{n} {big} are {m} {small}.", "There are {m} {small} in {n} {big}.", "{m} {small} make {n} {big}."),
        ),
        _make_unit_rows(),
        weight=1.2,
    ),
)

RELATIONS: tuple[Relation, ...] = (*NUMERALS, *ARITHMETIC, *UNIT_CONVERSION)
