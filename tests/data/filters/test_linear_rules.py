"""No pattern takes longer than in proportion to the text, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hanlin.data.filters.html import html
from hanlin.data.filters.repetition import find_runs, repeated_lines
from hanlin.data.filters.text import advertisements
from hanlin.data.text.cantonese import is_cantonese
from hanlin.data.text.language_id import identify_language
from waiting import hang_limit

GIVE_UP_SECONDS = 60.0
"""Each of these texts is judged in less than a second, and took from minutes to days."""


@pytest.mark.parametrize(
    ("judge", "text"),
    [
        (html, "<!--[-->" * 20_000 + "<main>正文</main>"),
        (lambda text: find_runs(text, 0.2, 10), "." * 2_000_000),
        (identify_language, "一二三四" + "a" * 1_000_000),
        (identify_language, "一二三四" + "a-b." * 250_000),
        (lambda text: is_cantonese(text, 2_000_000), "嘅" + "“他說這個" * 400_000),
        (lambda text: advertisements(text, 5.0, 3), "***\n" * 400_000 + "本文摘要"),
        (lambda text: repeated_lines(text, 0.5), ("![" * 600_000 + "\n") * 3),
    ],
    ids=["comments", "dots", "one_word", "one_address", "open_quotations", "lines_of_marks", "open_images"],
)
def test_long_texts_of_one_kind_do_not_hang(judge: Callable[[str], object], text: str) -> None:
    with hang_limit(GIVE_UP_SECONDS):
        judge(text)
