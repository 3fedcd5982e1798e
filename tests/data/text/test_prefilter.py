"""The prefilter never misses what a rule looks for, and rules give the same result without it."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.data.filters import mojibake
from hanlin.data.filters import text as clean
from hanlin.data.text import prefilter
from hanlin.data.text.lexicons import BETTING_SITES, SPAM_PHRASES, Phrases
from hanlin.data.text.prefilter import find_composing_chars

TELLING = [
    *("\r\n\u2028\u3000\xa0 \t", "\n\n\n", "锛銆", "锟斤拷", "烫烫烫", "é“ä½å¥½à”", "ﬁ⼈Ａ３", "\u200b\ue000\ufeff"),
    *("e\u0301", "\u1100\u1161\u11a8", "\U0002f800\U00020000", "扫码关注微信：", "投注亚博必威返水", "上一页下一篇："),
]
COMPOSING = re.compile(f"[{re.escape(find_composing_chars())}\U00020000-\U0010ffff]")
texts = st.lists(st.sampled_from(TELLING) | st.text("".join(TELLING), max_size=4) | st.text(max_size=4)).map("".join)


@given(texts)
@pytest.mark.parametrize("phrases", [BETTING_SITES, SPAM_PHRASES])
def test_the_prefilter_misses_no_phrase(phrases: Phrases, text: str) -> None:
    hits = phrases.pattern.findall(text)
    assert phrases.prefilter.count_candidates(text) >= len(hits)
    assert phrases.find_all(text) == hits


@given(texts)
def test_a_text_without_a_composing_character_is_in_nfc(text: str) -> None:
    assert COMPOSING.search(text) or unicodedata.is_normalized("NFC", text)


@given(texts)
def test_rules_change_the_same_texts_with_and_without_prefilter(text: str) -> None:
    plain = unicodedata.normalize("NFC", text).translate(clean._FULL_WIDTH)
    wide = clean._COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), plain)
    assert clean.unicode(text) == wide
    ends = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    ends = clean._PAGE_BREAK.sub("\n", ends)
    assert clean.control_characters(text) == clean._CONTROL.sub("", ends)
    lines = "\n".join(line.rstrip(" \t\u3000") for line in text.replace("\xa0", " ").split("\n"))
    assert clean.whitespace(text) == clean._EMPTY_LINES.sub("\n\n", clean._INDENT.sub("", lines)).strip("\n")


@given(texts)
def test_the_prefilter_sees_mojibake_of_every_kind(text: str) -> None:
    assert mojibake._PAIR_PREFILTER.may_match(text) == bool(mojibake._PAIR.search(text))
    assert mojibake._GBK_PREFILTER.count_candidates(text) == text.count("锛") + text.count("銆")
    assert mojibake._LOSSY_PREFILTER.may_match(text) or not any(mark in text for mark in mojibake._LOSSY_MARKS)


def test_a_text_without_the_line_ends_around_it_is_scanned_as_it_would_be_alone() -> None:
    texts = [f"{'  ' * n}欢迎来电咨询\n\n{'字' * n}公司产品\t \n质量价格" for n in range(20)]
    for text in texts:
        for before, after in (("\n", ""), ("", "\n"), ("\n\n", "\n\n\n"), ("", "")):
            alone = prefilter._scan_whole(text)
            prefilter._scan(before + text + after)
            scan = prefilter._scan(text)
            assert scan.any & alone.any == alone.any
            assert (scan.masks & alone.masks).tolist() == alone.masks.tolist()
            assert scan.masks[:-2].tolist() == alone.masks[:-2].tolist()
