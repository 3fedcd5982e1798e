"""Chinese pieces behind a vocabulary that a model knows."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.bpe_trainer import BpeTrainer
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.extend import MARKS, Extension, _BaseVocabulary, extend_tokenizer, verify_ids
from hanlin.tokenizer.tokenizer import Tokenizer

ENGLISH = ["The library stands in the east of the town; 12 birds sing.", "My name is Xiaohan."] * 3
CHINESE = [
    "翰林院在城东，春天的时候翰林院里开满了花。",
    "我在翰林院读书，春天的时候最喜欢读书。",
    "2024年的春天，Xiaohan在翰林院town里住了12天。",
] * 4
OTHER = st.text(st.characters(exclude_categories=["Cs"]).filter(lambda letter: letter < "㐀" or "鿿" < letter < "𠀀"))


@pytest.fixture(scope="session", params=["byte_level", "sentencepiece"])
def extension(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_sentencepiece: Path
) -> tuple[Tokenizer, Extension]:
    """A small tokenizer that knows no Chinese or little, and what it becomes."""
    if request.param == "byte_level":
        base = train_tokenizer(ENGLISH, 320, "llama3", tmp_path_factory.mktemp("english"))
    else:
        base = Tokenizer.load(tiny_sentencepiece)
    return base, extend_tokenizer(base, CHINESE, 60, min_saved=2)


@settings(max_examples=150, deadline=None)
@given(text=OTHER)
def test_new_vocabulary_leaves_english_and_digits_alone(extension: tuple[Tokenizer, Extension], text: str) -> None:
    base, made = extension
    assert made.tokenizer.encode(text) == base.encode(text)


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from("翰林院春天读书的，。 a1\n龘") | OTHER, max_size=12))
def test_new_vocabulary_decodes_every_old_text(extension: tuple[Tokenizer, Extension], parts: list[str]) -> None:
    _, made = extension
    text = "".join(parts).replace("▁", "_")
    assert made.tokenizer.decode(made.tokenizer.encode(text)) == text


def test_new_vocabulary_keeps_every_old_id(extension: tuple[Tokenizer, Extension]) -> None:
    base, made = extension
    new = made.tokenizer.backend.get_vocab(with_added_tokens=True)
    old = base.backend.get_vocab(with_added_tokens=True)
    assert {token: new[token] for token in old} == old
    assert made.first_id == len(base)
    assert sorted(set(new.values()) - set(old.values())) == list(range(len(base), len(base) + len(made.pieces)))
    assert made.tokenizer.special_ids == base.special_ids


def test_every_new_piece_is_reached_by_its_own_text(extension: tuple[Tokenizer, Extension]) -> None:
    _, made = extension
    for number, piece in enumerate(made.pieces, start=made.first_id):
        if "\ufffd" not in piece:
            assert made.tokenizer.encode(piece, continuation=True) == [number]


def test_old_ids_spell_the_same_bytes(extension: tuple[Tokenizer, Extension]) -> None:
    base, made = extension
    assert len(made.old_ids) == len(made.pieces)
    for number, old in enumerate(made.old_ids, start=made.first_id):
        assert len(old) > 1
        assert b"".join(map(base.token_bytes, old)) == made.tokenizer.token_bytes(number)


def test_new_pieces_are_chinese_and_what_is_said_often(extension: tuple[Tokenizer, Extension]) -> None:
    _, made = extension
    assert {"翰林院", "春天"} < set(made.pieces)
    assert all(re.fullmatch(f"[{MARKS}]{{,2}}[一-鿿]+[{MARKS}]{{,2}}|.*\ufffd.*", piece) for piece in made.pieces)


def test_entries_hold_the_marks_that_the_tokenizer_leaves_in_one_word_with_chinese(
    llama2: Path, tmp_path: Path
) -> None:
    base = Tokenizer.load(llama2)
    said = ["子曰：“学而时习之，不亦说乎？”", "有子曰：“其为人也孝弟。”", "曾子曰：“吾日三省吾身，而不习。”"] * 5
    anywhere = extend_tokenizer(base, said, 60)
    assert {"子曰：“", "，不"} < set(anywhere.pieces)
    verify_ids(base, anywhere, [*said, "“Yes—‘no’ …”"])
    english = train_tokenizer([*ENGLISH, "，。" * 20], 320, "llama3", tmp_path)
    before = extend_tokenizer(english, ["不说，而不习。"] * 9, 20).pieces
    assert "，而" in before and not any(piece[-1] in MARKS for piece in before)


def test_a_tokenizer_that_splits_at_every_mark_learns_as_many_entries_as_asked(tmp_path: Path) -> None:
    base = train_tokenizer([*ENGLISH, "，。" * 20], 320, "llama3", tmp_path)
    rules = json.loads(base.backend.to_str())
    rules["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    splitting = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(rules)), base.config, tmp_path)
    assert len(splitting.encode("，")) == 1
    made = extend_tokenizer(splitting, ["春天来了，而翰林院很冷，而后花开，而人来。"] * 9, 20)
    assert len(made.pieces) == 20
    assert not any(letter in MARKS for letter in "".join(made.pieces))


def test_entries_that_cannot_be_reached_are_made_up_for(
    extension: tuple[Tokenizer, Extension], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = extension
    learned = extend_tokenizer(base, CHINESE, 31, min_saved=2).pieces
    unreachable = next(piece for piece in reversed(learned[:30]) if len(piece) > 1 and "\ufffd" not in piece)
    reach = _BaseVocabulary.unreachable_pieces

    def without(self: _BaseVocabulary, extended: Tokenizer, pieces: list[str]) -> list[str]:
        return reach(self, extended, pieces) or [piece for piece in pieces if self.text_of(piece) == unreachable]

    monkeypatch.setattr(_BaseVocabulary, "unreachable_pieces", without)
    assert len(extend_tokenizer(base, CHINESE, 30, min_saved=2).pieces) == 30
    assert unreachable not in extend_tokenizer(base, CHINESE, 30, min_saved=2).pieces


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from("翰林院春天读书的，。“ a1\n龘") | OTHER, max_size=12))
def test_every_text_keeps_its_old_ids_inside_the_new_ones(
    extension: tuple[Tokenizer, Extension], parts: list[str]
) -> None:
    base, made = extension
    verify_ids(base, made, ["".join(parts)])


def test_a_text_that_is_split_elsewhere_is_detected(extension: tuple[Tokenizer, Extension]) -> None:
    base, made = extension
    wrong = dataclasses.replace(made, old_ids=((1,),) * len(made.pieces))
    with pytest.raises(RuntimeError, match="other places"):
        verify_ids(base, wrong, ["翰林院春天读书"])


def test_own_words_become_entries_even_if_no_text_has_them(extension: tuple[Tokenizer, Extension]) -> None:
    base, _ = extension
    words = ["冠状动脉粥样硬化性心脏病", "翰林院", "心脏病"]
    made = extend_tokenizer(base, CHINESE, 120, words=words, min_saved=2)
    assert [len(ids) for ids in made.tokenizer.encode_batch(words, continuation=True)] == [1, 1, 1]
    verify_ids(base, made, [*CHINESE, *words, "冠状动脉，心脏病；library 12"])


@pytest.mark.parametrize(
    "texts",
    [["翰林院里开满了花"], ["，".join(["翰林院里", "学士", "读书", "春天"] * 40)]],
    ids=["a short text", "one line that repeats itself"],
)
def test_own_words_come_first_however_little_the_texts_say(
    extension: tuple[Tokenizer, Extension], texts: list[str]
) -> None:
    made = extend_tokenizer(extension[0], texts, 12, words=["豆浆"])
    assert "豆浆" in made.pieces


@pytest.mark.parametrize("word", ["PD-1抑制剂", "字", "", "，翰林", "词" * 33])
def test_words_that_are_not_chinese_are_refused(extension: tuple[Tokenizer, Extension], word: str) -> None:
    with pytest.raises(UserError, match="is no word of 2 to 32 Chinese characters"):
        extend_tokenizer(extension[0], CHINESE, 60, words=[word])


def test_words_without_room_are_refused(extension: tuple[Tokenizer, Extension]) -> None:
    with pytest.raises(UserError, match="2 new entries are too few for the 1 words"):
        extend_tokenizer(extension[0], CHINESE, 2, words=["冠状动脉粥样硬化"])


def test_weights_count_text_as_often_as_they_say(extension: tuple[Tokenizer, Extension]) -> None:
    base, _ = extension
    weighted = extend_tokenizer(base, [(CHINESE[0], 3.0), (CHINESE[1], 1.0)], 60, min_saved=2)
    repeated = extend_tokenizer(base, [*CHINESE[:1] * 3, CHINESE[1]], 60, min_saved=2)
    assert weighted.pieces == repeated.pieces


@pytest.mark.parametrize("kind", ["Lowercase", "StripAccents"])
def test_a_tokenizer_that_changes_text_is_refused(tmp_path: Path, kind: str) -> None:
    base = train_tokenizer(ENGLISH, 320, "llama3", tmp_path)
    rules = json.loads(base.backend.to_str())
    rules["normalizer"] = {"type": kind}
    changed = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(rules)), base.config, tmp_path)
    with pytest.raises(UserError, match=f"changes text in a way that is not known here: {kind}"):
        extend_tokenizer(changed, CHINESE, 5)


def test_new_vocabulary_writes_chinese_in_fewer_tokens(extension: tuple[Tokenizer, Extension]) -> None:
    base, made = extension
    assert characters_per_token(made.tokenizer, CHINESE) > 1.5 * characters_per_token(base, CHINESE)


def test_an_extended_tokenizer_is_saved_whole(extension: tuple[Tokenizer, Extension], tmp_path: Path) -> None:
    _, made = extension
    made.tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.backend.to_str() == made.tokenizer.backend.to_str()
    assert again.encode("翰林院 <s> library") == made.tokenizer.encode("翰林院 <s> library")


def test_chats_render_as_before_with_the_same_stops(tmp_path: Path) -> None:
    from hanlin.core.records import Message

    base = train_tokenizer(ENGLISH, 320, "llama3", tmp_path)
    grown = extend_tokenizer(base, CHINESE, 40, min_saved=2).tokenizer
    before, after = ChatTemplate.load(tmp_path, base), ChatTemplate.load(tmp_path, grown)
    chat = [Message("user", "What <|eot_id|>?"), Message("assistant", "My name is Xiaohan.")]
    assert after.render(chat) == before.render(chat)
    assert after.stop_ids == before.stop_ids


def test_extending_depends_on_nothing_but_its_arguments(extension: tuple[Tokenizer, Extension]) -> None:
    base, made = extension
    again = extend_tokenizer(base, reversed(CHINESE), 60, min_saved=2)
    assert again.pieces == made.pieces
    assert again.tokenizer.backend.to_str() == made.tokenizer.backend.to_str()


def test_what_is_there_already_is_not_added_again(extension: tuple[Tokenizer, Extension]) -> None:
    _, made = extension
    more = extend_tokenizer(made.tokenizer, CHINESE, 60, min_saved=2)
    assert not set(more.pieces) & set(made.pieces)
    assert more.first_id == len(made.tokenizer)


def test_nothing_to_learn_adds_nothing(extension: tuple[Tokenizer, Extension]) -> None:
    base, _ = extension
    for none in (
        extend_tokenizer(base, ENGLISH, 50),
        extend_tokenizer(base, CHINESE, 0),
        extend_tokenizer(base, [], 50),
    ):
        assert none.pieces == ()
        assert len(none.tokenizer) == len(base)


def test_pieces_are_no_longer_than_asked(extension: tuple[Tokenizer, Extension]) -> None:
    base, _ = extension
    assert max(map(len, extend_tokenizer(base, CHINESE, 60, min_saved=2, max_length=2).pieces)) == 2


def test_a_vocabulary_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    row: dict[str, object] = {"version": "1.0", "added_tokens": [], "model": model, "decoder": None, "normalizer": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**row, "pre_tokenizer": None}), encoding="utf-8")
    with pytest.raises(UserError, match="cannot be extended"):
        extend_tokenizer(Tokenizer.load(tmp_path), CHINESE, 5)


# ----------------------------------------------------------------------------------------------- how merges are learned


def naive(words: list[list[int]], counts: list[int], first_new: int, least: int) -> list[tuple[int, int]]:
    """Byte pair encoding by the book: count every pair anew for each join."""
    words = [list(word) for word in words]
    merges: list[tuple[int, int]] = []
    while True:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in zip(words, counts, strict=True):
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < least:
            return merges
        for word in words:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = [first_new + len(merges)]
                place += 1
        merges.append(best)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12),
    counts=st.lists(st.integers(1, 5), min_size=12, max_size=12),
)
def test_joins_are_those_of_byte_pair_encoding_by_the_book(words: list[list[int]], counts: list[int]) -> None:
    words = [_without_runs(word) for word in words]
    counts = counts[: len(words)]
    learner = BpeTrainer(words, counts, first_new=4, min_saved=2)
    assert [(merge.left, merge.right) for merge in learner.merges(lambda left, right, new: new)] == naive(
        words, counts, 4, 2
    )


def _without_runs(word: list[int]) -> list[int]:
    """Runs of one symbol out: of `aaa` the book counts two pairs where only one can be joined."""
    return [symbol for place, symbol in enumerate(word) if place == 0 or word[place - 1] != symbol]


def test_of_three_equal_symbols_the_first_two_are_joined() -> None:
    learner = BpeTrainer([[0, 0, 0, 1]], [5], first_new=2, min_saved=1)
    merges = [(merge.left, merge.right) for merge in learner.merges(lambda left, right, new: new)]
    assert merges == [(0, 0), (0, 1), (2, 3)]


def test_a_forbidden_join_is_never_made() -> None:
    learner = BpeTrainer([[0, 1, 2]], [9], first_new=3, min_saved=1)
    merges = learner.merges(lambda left, right, new: None if (left, right) == (0, 1) else new)
    assert [(merge.left, merge.right) for merge in merges] == [(1, 2), (0, 3)]


# --------------------------------------------------------------------------------------------------- real vocabularies


def corpus(shared_data: Path, name: str, characters: int) -> str:
    return (shared_data / "text" / name).read_text(encoding="utf-8")[:characters]


@pytest.mark.parametrize("which", [pytest.param("llama3", marks=pytest.mark.slow), "llama2"])
def test_real_vocabularies_grow_and_leave_english_alone(
    which: str, shared_data: Path, request: pytest.FixtureRequest
) -> None:
    base = Tokenizer.load(request.getfixturevalue(which))
    made = extend_tokenizer(base, [corpus(shared_data, "wiki_zh_simp_cmrc2018_dev.txt", 150_000)], 1500)
    assert len(made.pieces) == 1500
    assert made.first_id == {"llama3": 128256, "llama2": 32000}[which]
    english = corpus(shared_data, "en_wiki_demo.txt", 150_000)
    assert made.tokenizer.encode(english) == base.encode(english)
    chinese = corpus(shared_data, "novel_hongloumeng.txt", 50_000)
    assert made.tokenizer.decode(made.tokenizer.encode(chinese)) == chinese
    assert characters_per_token(made.tokenizer, [chinese]) > characters_per_token(base, [chinese])
