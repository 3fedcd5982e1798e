"""Patterns that are compiled on use are those that `re.compile` makes."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import hanlin.data
from hanlin.data.text.page_furniture import LONG_NOTICE, NOTICE_STARTS
from hanlin.data.text.patterns import compile_on_use
from hanlin.data.text.prefilter import BigramFilter


def test_a_pattern_does_what_a_compiled_one_does() -> None:
    lazy, compiled = compile_on_use(r"(\w)(?P<digit>\d)", re.I), re.compile(r"(\w)(?P<digit>\d)", re.I)
    text = "a1 b2, C3"
    assert lazy.findall(text) == compiled.findall(text)
    assert [match.span() for match in lazy.finditer(text)] == [match.span() for match in compiled.finditer(text)]
    assert (lazy.sub("x", text), lazy.split(text)) == (compiled.sub("x", text), compiled.split(text))
    match = lazy.search(text)
    assert match is not None
    assert match["digit"] == "1"
    assert lazy.match(text, 1) is None
    assert (lazy.pattern, lazy.flags, lazy.groups) == (compiled.pattern, compiled.flags, compiled.groups)


def test_a_mistake_in_a_pattern_is_found_when_it_is_used() -> None:
    broken = compile_on_use("(")
    with pytest.raises(re.error):
        broken.search("")


def test_every_pattern_of_the_data_rules_and_formats_is_a_correct_one() -> None:
    """None is compiled on import, so that a mistake in one would be found by the first user of its rule."""
    names = [module.name for module in pkgutil.walk_packages(hanlin.data.__path__, "hanlin.data.")]
    lazy = {
        id(value): value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if type(value).__name__ == "_Pattern"
    }
    assert len(lazy) > 100
    assert all(pattern.pattern for pattern in lazy.values())


def test_a_pattern_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        _ = compile_on_use("a").no_method  # type: ignore[attr-defined]


def test_every_long_notice_begins_with_one_of_its_first_characters() -> None:
    """The rule looks at the first character of a line before it tries the pattern."""
    declared = [
        "免责声明",
        "版权声明",
        "特别声明",
        "郑重声明",
        "转载声明",
        "声明",
        "注：本文",
        "本文仅供",
        "本站转载",
        "仅供",
    ]
    others = ["由于传播", "仅限", "内容仅", "请自觉", "请读者自觉", "请勿利用", "请勿将", "本网来源", "本平台不代表"]
    notices = [f"{beginning}，版权归作者" for beginning in (*declared, *others)]
    assert all(LONG_NOTICE.match(notice) for notice in notices)
    assert {notice[0] for notice in notices} == NOTICE_STARTS


def test_a_filter_finds_every_pair_wherever_it_is() -> None:
    pairs = [chr(first) + chr(second) for first in range(0x4E00, 0x4E40) for second in range(0x5000, 0x5010)]
    found = BigramFilter(pairs).find("，".join(pairs))
    assert set(range(0, 3 * len(pairs), 3)) <= set(found.tolist())
