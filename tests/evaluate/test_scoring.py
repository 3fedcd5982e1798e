"""The shared measures: what language an answer is in, when it is right, how sure a share is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.core.text import answer_language
from hanlin.evaluate.scoring import is_correct, standard_error, wilson_interval


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("翰林院在城东。", "zh"),
        ("The library stands in the east.", "en"),
        ("使用 Python 语言编程", "zh"),
        ("我用ab", "zh"),
        ("我用abc", "en"),
        ("Привет, мир", "other"),
        ("こんにちは", "other"),
        ("𠀀𪜀", "zh"),
        ("７ = 7。", "none"),
        ("", "none"),
    ],
)
def test_an_answer_is_chinese_when_half_of_its_letters_are(text: str, language: str) -> None:
    assert answer_language(text) == language


def test_full_width_digits_and_outer_space_do_not_make_an_answer_wrong() -> None:
    assert is_correct(" １２\n", ["12", "十二"])


def test_any_listed_answer_is_right_and_no_other() -> None:
    assert is_correct("十二", ["12", "十二"])
    assert not is_correct("十二。", ["12", "十二"])


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_holds_the_share_it_is_about(case: tuple[int, int]) -> None:
    hits, total = case
    interval = wilson_interval(hits, total)
    assert 0 <= interval.low <= hits / total <= interval.high <= 1


def test_the_wilson_interval_solves_the_score_equation() -> None:
    # its ends are where |p - share| is 1.96 standard errors of p itself
    hits, total = 7, 40
    for end in (wilson_interval(hits, total).low, wilson_interval(hits, total).high):
        deviation = abs(hits / total - end) / (end * (1 - end) / total) ** 0.5
        assert deviation == pytest.approx(1.959964, abs=1e-5)


def test_nothing_asked_is_nothing_known() -> None:
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)


def test_the_standard_error_is_that_of_the_sample_mean() -> None:
    import statistics

    values = [1] * 3 + [0] * 9
    assert standard_error(3, 12) == pytest.approx(statistics.stdev(values) / 12**0.5)
