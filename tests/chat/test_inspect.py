"""What a token looks like: every byte is accounted for, nothing invisible stays so, learned tokens are the answer's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.chat.inspect import ExampleView, TokenView, view_record, view_tokens
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, Preference
from hanlin.tokenizer.tokenizer import Tokenizer


@pytest.fixture(params=["byte_level", "sentencepiece"])
def either(request: pytest.FixtureRequest, tiny_tokenizer: Path, tiny_sentencepiece: Path) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer if request.param == "byte_level" else tiny_sentencepiece)


def shown(tokenizer: Tokenizer, text: str) -> list[str]:
    return [piece.shown for piece in pieces_of(tokenizer, text)]


def pieces_of(tokenizer: Tokenizer, text: str) -> tuple[TokenView, ...]:
    ids = tokenizer.encode(text, continuation=True)
    return view_tokens(tokenizer, ids, [False] * len(ids))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_the_pieces_join_to_the_text_and_show_no_replacement_character(text: str, tiny_tokenizer: Path) -> None:
    found = pieces_of(Tokenizer.load(tiny_tokenizer), text)
    assert "".join(piece.text for piece in found) == text
    assert b"".join(piece.data for piece in found) == text.encode()
    assert "\ufffd" not in "".join(piece.shown for piece in found)


def test_the_pieces_join_to_the_text(either: Tokenizer) -> None:
    text = "龘靐 🎉 and  two\n\n\tgreetings，你好。"
    assert "".join(piece.text for piece in pieces_of(either, text)) == text


def test_a_character_of_several_tokens_is_shown_as_bytes_and_named_at_the_last(either: Tokenizer) -> None:
    found = pieces_of(either, "龘")
    assert len(found) > 1
    assert "".join(piece.shown for piece in found) == "⟨E9⟩⟨BE⟩⟨98=龘⟩"
    assert [piece.text for piece in found] == [""] * (len(found) - 1) + ["龘"]


def test_half_a_character_at_the_end_stays_bytes(either: Tokenizer) -> None:
    ids = either.encode("龘", continuation=True)[:-1]
    found = view_tokens(either, ids, [True] * len(ids))
    assert re.fullmatch(r"(⟨[0-9A-F]{2}⟩)+", "".join(piece.shown for piece in found))
    assert "".join(piece.text for piece in found) == ""


def test_a_special_token_ends_a_character(tokenizer: Tokenizer) -> None:
    half, eot = tokenizer.encode("龘"), tokenizer.token_id("<|eot_id|>")
    assert eot is not None
    found = view_tokens(tokenizer, [*half[:-1], eot, half[-1]], [False] * (len(half) + 1))
    assert "龘" not in "".join(piece.shown for piece in found)
    assert [piece.shown for piece in found if piece.special] == ["<|eot_id|>"]


def test_white_space_is_visible(tokenizer: Tokenizer) -> None:
    assert "".join(shown(tokenizer, "a\n\tb")) == "a⏎⇥b"
    assert "".join(shown(tokenizer, "\u3000\u3000春")).count("□") == 2
    assert any(text.startswith("␣") for text in shown(tokenizer, "the library stands"))


@pytest.mark.parametrize(
    ("text", "seen"),
    [("\x1b[31m", "⟨U+001B⟩"), ("\u200b", "⟨U+200B⟩"), ("\u202e", "⟨U+202E⟩"), ("\r", "⟨U+000D⟩")],
)
def test_what_has_no_glyph_is_named(tiny_tokenizer: Path, text: str, seen: str) -> None:
    said = "".join(shown(Tokenizer.load(tiny_tokenizer), text))
    assert text[0] not in said
    assert seen in said or f"={seen}⟩" in said


def test_a_typed_special_token_is_not_marked_special(tokenizer: Tokenizer) -> None:
    found = pieces_of(tokenizer, "<|eot_id|>")
    assert len(found) > 1 and not any(piece.special for piece in found)


def test_target_text_of_a_conversation_is_the_answers_and_their_stops(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    turns = (Message("user", "你叫什么名字？"), Message("assistant", "我叫小翰。"))
    (view,) = view_record(Conversation(turns, "c"), tokenizer, template)
    assert "".join(piece.text for piece in view.tokens if piece.learned) == "我叫小翰。<|eot_id|>"
    assert view.num_tokens == len(view.tokens) and view.num_learned == sum(piece.learned for piece in view.tokens)


def test_a_preference_is_two_examples_whose_only_target_is_the_last_answer(
    tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    prompt = (Message("user", "甲"), Message("assistant", "乙"), Message("user", "丙"))
    record = Preference(prompt, Message("assistant", "好"), Message("assistant", "不好"), "p")
    found = list(view_record(record, tokenizer, template))
    assert [view.part for view in found] == ["chosen", "rejected"]
    learned = ["".join(piece.text for piece in view.tokens if piece.learned) for view in found]
    assert learned == ["好<|eot_id|>", "不好<|eot_id|>"]


def test_a_document_stands_between_begin_and_end_and_needs_no_template(tokenizer: Tokenizer) -> None:
    (view,) = view_record(Document("春天的院子", "d"), tokenizer, None)
    assert [piece.id for piece in (view.tokens[0], view.tokens[-1])] == [tokenizer.bos_id, tokenizer.eos_id]
    assert [piece.learned for piece in view.tokens] == [False] + [True] * (view.num_tokens - 1)


def test_characters_per_token_count_text_alone() -> None:
    text = [TokenView(1, "你好", "你好", b"", True, False), TokenView(2, "吗", "吗", b"", True, False)]
    view = ExampleView("r", "", (TokenView(0, "<s>", "<s>", b"<s>", False, True), *text))
    assert view.characters_per_token == 1.5


def test_a_record_that_cannot_be_rendered_is_named(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    with pytest.raises(UserError, match="chat-9"):
        list(view_record(Conversation((Message("assistant", "好"),), "chat-9"), tokenizer, template))
