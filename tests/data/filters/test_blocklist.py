"""Blocklists of the user's own words: whole words, longest first, dropped or masked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.data.filters.blocklist import apply_blocklist, compile_words, read_blocklist
from hanlin.data.ledger import Drop
from hanlin.data.stages import corpus

Put = Callable[[str, Any], Path]
LISTED = compile_words(["赌博", "赌博网站", "ass", "C++", "Ab c"])


def test_listed_words_drop_a_text_from_the_given_count_on() -> None:
    assert apply_blocklist("这个赌博网站", LISTED, "drop", 1) == Drop("blocklist", "赌博网站")
    assert apply_blocklist("赌博害人", LISTED, "drop", 2) == "赌博害人"
    assert apply_blocklist("赌博害人，赌博违法", LISTED, "drop", 2) == Drop("blocklist", "赌博")


def test_a_latin_word_matches_only_whole_and_in_any_case() -> None:
    for text in ("the class of 2020", "assess", "bass"):
        assert apply_blocklist(text, LISTED, "drop", 1) == text
    assert apply_blocklist("What an ASS!", LISTED, "drop", 1) == Drop("blocklist", "ASS")
    assert apply_blocklist("学ass的", LISTED, "drop", 1) == Drop("blocklist", "ass")
    assert apply_blocklist("用C++写", LISTED, "drop", 1) == Drop("blocklist", "C++")


def test_a_single_chinese_character_matches_only_alone() -> None:
    pattern = compile_words(["性", "卵", "赌博"])
    for text in ("这种可能性很大，理性地看，个性也重要", "鸡卵与卵石"):
        assert apply_blocklist(text, pattern, "drop", 1) == text
    assert apply_blocklist("她问：“性”是什么？", pattern, "drop", 1) == Drop("blocklist", "性")
    assert apply_blocklist("赌博害人", pattern, "drop", 1) == Drop("blocklist", "赌博")
    assert apply_blocklist("A 性 B", compile_words(["性"]), "mask", 1) == "A ＊ B"


def test_words_can_be_masked() -> None:
    assert apply_blocklist("这个赌博网站是ab c", LISTED, "mask", 1) == "这个＊＊＊＊是＊＊＊＊"


def test_a_long_list_finds_what_a_plain_search_finds() -> None:
    words = [f"{chr(0x4E00 + n % 500)}{chr(0x4E00 + n // 500)}" for n in range(5000)]
    text = "".join(chr(0x4E00 + n * 37 % 600) for n in range(3000))
    assert bool(compile_words(words).search(text)) == any(word in text for word in words)


def test_a_list_has_a_word_on_each_line(put: Put) -> None:
    assert read_blocklist(put("w.txt", "# 屏蔽词\n赌博 \n\n代开发票\n")) == ["赌博", "代开发票"]
    for data in ("# 空\n", b"\xff\xfe\x00"):
        with pytest.raises(UserError):
            read_blocklist(put("bad.txt", data))


def test_a_recipe_names_its_lists_and_the_ledger_says_what_they_dropped(put: Put, tmp_path: Path) -> None:
    source = put("a.jsonl", [{"text": "翰林院里开满了花。"}, {"text": "来这里赌博吧，来这里。"}])
    inputs = Inputs({"sources.0.path": (source,), "blocklists.0.path": (put("w.txt", "赌博\n"),)})
    settings = Corpus(sources="./a", blocklists="./w.txt", validation_fraction=0)
    metrics = corpus.run(settings, inputs, tmp_path, StageContext())
    assert metrics["dropped"] == {"blocklist": 1} and metrics["rows_kept"] == 1
