"""Numbers are written in digits, whatever they were written in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.data.dedup.numbers import unify_chinese_numbers, unify_english_numbers


@pytest.mark.parametrize(
    ("written", "digits"),
    [
        ("一百二十三", "123"),
        ("一百零五", "105"),
        ("一百二", "120"),
        ("两万三", "23000"),
        ("十", "10"),
        ("十五", "15"),
        ("一亿三千万", "130000000"),
        ("一万二千三百四十五", "12345"),
        ("壹佰贰拾叁", "123"),
        ("3千5百", "3500"),
        ("2.5万", "25000"),
        ("三点五", "3.5"),
        ("三点五万", "35000"),
        ("百分之三十", "30"),
        ("百分之百", "100"),
        ("三分之二", "2/3"),
        ("一又四分之三", "1 3/4"),
        ("七十五千米", "75000米"),
        ("第十二", "第12"),
        ("三点十五分", "三点15分"),
        ("三点五分", "三点五分"),
        ("万一", "万一"),
        ("千万", "千万"),
        ("春天", "春天"),
    ],
)
def test_chinese_numbers(written: str, digits: str) -> None:
    assert unify_chinese_numbers(written) == digits


@pytest.mark.parametrize(
    ("written", "digits"),
    [
        ("twenty-five", "25"),
        ("one hundred and five", "105"),
        ("three thousand two hundred", "3200"),
        ("a hundred", "100"),
        ("two and three", "2 and 3"),
        ("someone", "someone"),
    ],
)
def test_english_numbers(written: str, digits: str) -> None:
    assert unify_english_numbers(written) == digits


@given(st.text(alphabet="一二两三五九十百千万亿零〇点分之又0123456789.／．，壹拾佰米个"))
def test_no_text_makes_it_fail(text: str) -> None:
    assert isinstance(unify_chinese_numbers(text), str)
