"""Text that was decoded with the wrong encoding is turned back where no byte was lost, and given up otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.data.mojibake import repair

TEXT = "春天来了，院子里的花都开了。他说：“我们一起去看看吧！”——《翰林院》"


def misread(text: str, page: str, lossy: bool = False) -> str:
    """UTF-8 read byte by byte as a Western code page; bytes that it leaves undefined stay or are dropped."""
    out = []
    for byte in text.encode("utf-8"):
        try:
            out.append(bytes([byte]).decode(page))
        except UnicodeDecodeError:
            out.append("" if lossy else chr(byte))
    return "".join(out)


@pytest.mark.parametrize("page", ["latin-1", "cp1252", "cp1254"])
def test_utf8_read_as_a_western_page_comes_back_whole(page: str) -> None:
    assert repair(misread(TEXT, page)) == (TEXT, 0)


def test_utf8_read_as_gbk_comes_back_whole_when_no_byte_was_lost() -> None:
    text = "你好世界" * 3
    assert repair(text.encode("utf-8").decode("gb18030")) == (text, 0)


@pytest.mark.parametrize("page", ["cp1252", "cp1254"])
def test_lost_bytes_are_counted_not_guessed(page: str) -> None:
    damaged = misread(TEXT * 3, page, lossy=True)
    _, lost = repair(damaged)
    assert lost > 0.05 * len(damaged)


def test_gbk_mojibake_with_lost_bytes_is_given_up() -> None:
    _, lost = repair(("他说：春天来了，花开了。" * 9).encode("utf-8").decode("gbk", "replace"))
    assert lost > 50


def test_the_marks_of_bytes_lost_twice_count() -> None:
    assert repair("前面锟斤拷锟斤拷后面")[1] == 6


def test_a_wrong_piece_in_a_right_text_is_mended() -> None:
    assert repair("她的未婚夫 fiancÃ© 来了。") == ("她的未婚夫 fiancé 来了。", 0)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Le café déjà vu: «à propos», naïve É…",
        "按下代表“à”的按键；“etelä”意为“南”；“a essayé”（尝试过）",
        "Tomáš Berdych, São Tomé, NÃO",
        "Ελληνικά και ρωσικά: привет",
        "魑魅魍魉，饕餮貔貅，龘靐齉爩",
        "Plain English.",
        "",
    ],
)
def test_right_text_is_left_alone(text: str) -> None:
    assert repair(text) == (text, 0)


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1))
def test_any_chinese_text_comes_back_from_latin_1(text: str) -> None:
    assert repair(misread(text, "latin-1"))[0] == text
