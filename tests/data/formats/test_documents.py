"""Formats of documents, and how lines, chapters and titles become one text."""

from __future__ import annotations

from typing import Any

import pytest

from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import ParsedText, read_document, read_titled_document
from hanlin.data.ledger import Drop


def read_one(row: Any) -> ParsedText | Drop:
    (found,) = read_document(row)
    return found


@pytest.mark.parametrize("field", ["text", "content", "contents", "completion", "raw_content", "正文"])
def test_text_is_found_under_its_usual_names(field: str) -> None:
    found = read_one({"id": 7, field: "春眠不觉晓", "url": "u"})
    assert found == ParsedText("春眠不觉晓", {"id": 7, "url": "u"})


def test_a_poem_begins_with_its_title_and_author() -> None:
    found = read_one(
        {"author": "孟浩然", "paragraphs": ["春眠不觉晓，", "处处闻啼鸟。"], "title": "春晓", "tags": ["唐诗"]}
    )
    assert isinstance(found, ParsedText)
    assert found.text == "春晓\n孟浩然\n春眠不觉晓，\n处处闻啼鸟。"
    assert found.meta == {"author": "孟浩然", "title": "春晓", "tags": ["唐诗"]}


def test_a_classic_begins_with_its_chapter() -> None:
    found = read_one({"chapter": "学而篇", "paragraphs": ["子曰：", "有子曰："]})
    assert isinstance(found, ParsedText) and found.text == "学而篇\n子曰：\n有子曰："


def test_a_list_of_lines_under_content_is_text_too() -> None:
    found = read_one({"title": "关雎", "chapter": "国风", "content": ["关关雎鸠", "在河之洲"]})
    assert isinstance(found, ParsedText) and found.text == "关雎\n国风\n关关雎鸠\n在河之洲"


def test_chapters_become_one_text() -> None:
    chapters = [{"title": "一", "paragraphs": ["甲", "乙"]}, {"title": "二", "content": "丙"}]
    found = read_one({"title": "书", "chapters": chapters})
    assert isinstance(found, ParsedText) and found.text == "书\n一\n甲\n乙\n二\n丙"


def test_our_own_documents_are_read_back() -> None:
    found = read_one({"id": "a#1", "text": "春", "source": "a:1", "meta": {"license": "CC0"}})
    assert found == ParsedText("春", {"license": "CC0"})


def test_a_title_named_in_fields_is_put_above_once() -> None:
    assert [found.text for found in read_titled_document({"title": "春", "text": "花开"})] == ["春\n花开"]  # type: ignore[union-attr]
    assert [found.text for found in read_titled_document({"title": "春", "text": "春\n花开"})] == ["春\n花开"]  # type: ignore[union-attr]


@pytest.mark.parametrize("turn", [{"role": "pretrain"}, {"role": "assistant"}, {"from": "gpt"}])
def test_a_text_for_pre_training_may_be_written_as_a_turn_of_the_model_alone(turn: dict[str, str]) -> None:
    """As XTuner and ms-swift write it; as a conversation it has no question."""
    text = {"value" if "from" in turn else "content": "春眠不觉晓"}
    row = {"messages": [{**turn, **text}], "lang": "zh"}
    assert read_one(row) == ParsedText("春眠不觉晓", {"lang": "zh"})
    assert not any(candidate.recognize(row) for candidate in CHAT_FORMATS)


@pytest.mark.parametrize(
    "row", [{"text": "<__dj__image> 一张床。", "images": ["a.png"]}, {"text": "<image>\n床", "image": "a"}]
)
def test_a_text_with_the_place_of_a_picture_is_dropped_by_name(row: dict[str, Any]) -> None:
    found = read_one(row)
    assert isinstance(found, Drop) and found.reason == "media"


def test_a_text_beside_a_picture_is_a_text() -> None:
    assert read_one({"text": "一张床。", "image": "a.png"}) == ParsedText("一张床。", {"image": "a.png"})


@pytest.mark.parametrize("row", [{"text": ""}, {"foo": 1}, {"text": [1, 2]}, {"text": None}])
def test_a_row_without_text_is_dropped(row: Any) -> None:
    found = read_one(row)
    assert isinstance(found, Drop) and found.reason == "no_text"


def test_a_row_that_is_not_an_object_is_dropped() -> None:
    assert read_one(7) == Drop("other_format", "int")
