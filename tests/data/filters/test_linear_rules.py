"""No pattern takes longer than in proportion to the text, whatever it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hanlin.data.filters.html import html
from hanlin.data.filters.repetition import find_runs, repeated_lines
from hanlin.data.filters.text import advertisements
from hanlin.data.text.cantonese import is_cantonese
from hanlin.data.text.language_id import identify_language

MAX_SECONDS = 2.0
"""Processor time; each of these texts takes some milliseconds, and took from seconds to days."""


@pytest.mark.parametrize(
    ("judge", "text"),
    [
        (html, "<!--[-->" * 2_000 + "<main>正文</main>"),
        (lambda text: find_runs(text, 0.2, 10), "." * 200_000),
        (identify_language, "一二三四" + "a" * 200_000),
        (identify_language, "一二三四" + "a-b." * 50_000),
        (lambda text: is_cantonese(text, 200_000), "嘅" + "“他說這個" * 60_000),
        (lambda text: advertisements(text, 5.0, 3), "***\n" * 40_000 + "本文摘要"),
        (lambda text: repeated_lines(text, 0.5), ("![" * 60_000 + "\n") * 3),
    ],
    ids=["comments", "dots", "one_word", "one_address", "open_quotations", "lines_of_marks", "open_images"],
)
def test_long_texts_of_one_kind_take_no_time(judge: Callable[[str], object], text: str) -> None:
    start = time.process_time()
    judge(text)
    assert time.process_time() - start < MAX_SECONDS
