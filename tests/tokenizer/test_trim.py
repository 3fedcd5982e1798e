"""Trimming a vocabulary: texts of kept entries keep their tokens, all others are written in what is left."""

from __future__ import annotations

import json
import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers

from hanlin.core.errors import UserError
from hanlin.export.gguf.vocab import build_vocabulary
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.trim.generation_ids import renumber_generation
from hanlin.tokenizer.trim.verify import verify_entries, verify_texts
from hanlin.tokenizer.trim.vocabulary import KeptEntries, TrimmableVocabulary, save_trimmed

TEXTS = ["院子里的花开了，小鸟唱歌。", "My name is Xiaohan; the bird sings.\n\n1 2 3", "  two  spaces 花 "]
STRANGE = ["鑫龘 🐉", "naïve café\tx", "\x00\x7f", "the names of birds 鸟鸟"]


@pytest.fixture(params=["byte_level", "sentencepiece"])
def folder(request: pytest.FixtureRequest, tiny_tokenizer: Path, tiny_sentencepiece: Path) -> Path:
    return tiny_tokenizer if request.param == "byte_level" else tiny_sentencepiece


def trimmed(before: Tokenizer, texts: list[str], out: Path) -> tuple[Tokenizer, KeptEntries]:
    vocabulary = TrimmableVocabulary(before)
    kept = vocabulary.choose(token_id for ids in before.encode_batch(texts) for token_id in ids)
    return save_trimmed(vocabulary, kept, out), kept


def test_texts_keep_their_tokens_and_any_other_text_is_read_back(folder: Path, tmp_path: Path) -> None:
    before = Tokenizer.load(folder)
    after, kept = trimmed(before, TEXTS, tmp_path / "small")
    assert len(after) == len(kept.ids) < len(before)
    assert [[kept.ids[new] for new in after.encode(text)] for text in TEXTS] == before.encode_batch(TEXTS)
    assert [after.decode(after.encode(text)) for text in STRANGE] == STRANGE
    assert verify_texts(before, after, kept, TEXTS + STRANGE) >= len(TEXTS)


def test_every_text_of_kept_entries_keeps_its_tokens_whatever_the_texts_were(folder: Path, tmp_path: Path) -> None:
    before = Tokenizer.load(folder)
    draw = random.Random(3)
    pieces = [text[i : i + 4] for text in TEXTS for i in range(0, len(text), 3)]
    for round_number in range(3):
        after, kept = trimmed(before, draw.sample(pieces, 6), tmp_path / str(round_number))
        assert verify_entries(before, after, kept) > 0
        verify_texts(before, after, kept, ["".join(draw.sample(pieces, 4)) for _ in range(50)])


def test_special_and_added_tokens_bytes_and_the_rule_around_a_text_stay(folder: Path, tmp_path: Path) -> None:
    before = Tokenizer.load(folder)
    after, kept = trimmed(before, [], tmp_path / "small")
    assert after.added_tokens.keys() == before.added_tokens.keys()
    assert kept.always == len(kept.ids) - kept.merge_parts
    old = before.backend.encode("花", add_special_tokens=True).ids
    new = after.backend.encode("花", add_special_tokens=True).ids
    assert (after.bos_id, after.eos_id, after.adds_bos) == (
        kept.new_ids.get(before.bos_id or 0), kept.new_ids[before.eos_id or 0], before.adds_bos,
    )  # fmt: skip
    assert (new[0] == after.bos_id) == (old[0] == before.bos_id)


def test_a_trimmed_vocabulary_trims_again_to_what_it_would_have_been_at_once(folder: Path, tmp_path: Path) -> None:
    before = Tokenizer.load(folder)
    once, _ = trimmed(before, TEXTS[:1], tmp_path / "once")
    first, _ = trimmed(before, TEXTS, tmp_path / "first")
    again, _ = trimmed(first, TEXTS[:1], tmp_path / "again")
    assert again.backend.to_str() == once.backend.to_str()


def test_llama_cpp_reads_a_trimmed_vocabulary_by_the_same_rules(folder: Path, tmp_path: Path) -> None:
    before = Tokenizer.load(folder)
    after, kept = trimmed(before, TEXTS, tmp_path / "small")
    whole, small = build_vocabulary(before, len(before)), build_vocabulary(after, len(after))
    assert (small.model, small.pre, small.space_before_text) == (whole.model, whole.pre, whole.space_before_text)
    assert small.tokens == tuple(whole.tokens[old] for old in kept.ids)
    assert small.types == tuple(whole.types[old] for old in kept.ids)
    ordered = sorted((score, new) for new, score in enumerate(small.scores) if score < 0)
    pairs = [(whole.scores[kept.ids[a]], whole.scores[kept.ids[b]]) for (_, a), (_, b) in pairwise(ordered)]
    assert all(lower <= higher for lower, higher in pairs)


def test_a_vocabulary_of_another_kind_or_without_a_needed_byte_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False))
    unigram.decoder = tokenizers.decoders.Metaspace()  # type: ignore[assignment]
    with pytest.raises(UserError, match="cannot be trimmed"):
        TrimmableVocabulary(Tokenizer(unigram, {}, tmp_path))
    folder = Path(shutil.copytree(tiny_tokenizer, tmp_path / "broken"))
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    vocabulary["ÿx"] = vocabulary.pop("ÿ")
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="holds a byte that is no entry"):
        TrimmableVocabulary(Tokenizer.load(folder))


def test_a_byte_that_no_entry_holds_may_be_missing(tiny_tokenizer: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_tokenizer, tmp_path / "missing"))
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert not any("ÿ" in token and token != "ÿ" for token in data["model"]["vocab"])
    data["model"]["vocab"]["unused"] = data["model"]["vocab"].pop("ÿ")
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    after, kept = trimmed(Tokenizer.load(folder), TEXTS, tmp_path / "small")
    assert kept.always == 255 + len(after.added_tokens)


def test_ids_in_generation_settings_are_renumbered_however_deep_they_are(tmp_path: Path) -> None:
    config = {
        "eos_token_id": [5, 7], "pad_token_id": -1, "bad_words_ids": [[1, 2], [3]], "max_length": 5, "do_sample": True,
        "bos_token_id": None,
    }  # fmt: skip
    assert renumber_generation(config, lambda token_id: token_id * 10, tmp_path) == {
        **config, "eos_token_id": [50, 70], "bad_words_ids": [[10, 20], [30]],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3", "llama2"])
def test_real_vocabularies_trim(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    before = Tokenizer.load(request.getfixturevalue(name))
    after, kept = trimmed(before, TEXTS + STRANGE, tmp_path / "small")
    assert verify_entries(before, after, kept) > 50
    assert verify_texts(before, after, kept, TEXTS + STRANGE) == len(TEXTS + STRANGE)
    before.enable_fast_encoder()
    after.enable_fast_encoder()
    assert after.uses_fast_encoder == before.uses_fast_encoder
    assert [[kept.ids[new] for new in after.encode(text)] for text in TEXTS] == before.encode_batch(TEXTS)
