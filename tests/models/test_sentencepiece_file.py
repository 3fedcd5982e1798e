"""The `tokenizer.model` of an extended SentencePiece vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hanlin.models.sentencepiece_file import write_extended_model
from hanlin.tokenizer.extend import Extension, extend_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")
LINES = [
    "翰林院在城东，春天的时候翰林院里开满了花。",
    "“翰林院”的学士说：春天来了，学士们都读书。哈哈哈哈哈",
    "a 12 library",
]


@pytest.fixture(scope="module")
def extension(llama2: Path) -> Extension:
    return extend_tokenizer(Tokenizer.load(llama2), LINES * 3, 60, words=["冠状动脉", "哈哈哈"], min_saved=2)


def test_sentencepiece_gives_the_ids_of_the_extended_tokenizer(
    extension: Extension, llama2: Path, tmp_path: Path
) -> None:
    texts = [*LINES, "冠状动脉，春天 <s> ▁ 龘\n\n学士\t书"]
    assert write_extended_model(llama2, extension, tmp_path, texts) == 5
    data = (tmp_path / "tokenizer.model").read_bytes()
    assert data.startswith((llama2 / "tokenizer.model").read_bytes())
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert model.get_piece_size() == len(extension.tokenizer)
    assert [model.id_to_piece(extension.first_id + i) for i in range(len(extension.pieces))] == list(extension.pieces)
    assert model.get_score(32000) == model.get_score(31999) - 1
    assert model.encode(LINES) == extension.tokenizer.encode_batch(LINES)


def test_no_file_is_written_that_gives_other_ids(extension: Extension, llama2: Path, tmp_path: Path) -> None:
    other = Extension(extension.tokenizer, extension.first_id, extension.pieces[::-1], extension.old_ids)
    assert write_extended_model(llama2, other, tmp_path, LINES) == 0
    assert not any(tmp_path.iterdir())


def test_without_a_model_of_the_same_entries_no_file_is_written(
    extension: Extension, llama2: Path, tiny_sentencepiece: Path, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    shutil.copyfile(tiny_sentencepiece / "tokenizer.json", tmp_path / "base" / "tokenizer.json")
    assert write_extended_model(tmp_path / "base", extension, tmp_path, LINES) == 0
    fewer = Extension(extension.tokenizer, extension.first_id, extension.pieces[:-1], extension.old_ids)
    assert write_extended_model(llama2, fewer, tmp_path, LINES) == 0
    assert not (tmp_path / "tokenizer.model").exists()


@pytest.mark.slow
def test_ten_thousand_lines_have_equal_ids_in_sentencepiece_and_transformers(
    shared_data: Path, llama2: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    text = (shared_data / "text" / "wiki_zh_simp_cmrc2018_dev.txt").read_text(encoding="utf-8")
    made = extend_tokenizer(Tokenizer.load(llama2), text.splitlines(), 8000)
    names = ("novel_hongloumeng.txt", "wiki_zh_trad_drcd_dev.txt", "news_zh_simp_ntrex.txt", "en_tinyshakespeare.txt")
    lines = [line for name in names for line in (shared_data / "text" / name).read_text("utf-8").splitlines()]
    lines = [line for line in dict.fromkeys(lines) if line.strip()][:12_000]
    assert write_extended_model(llama2, made, tmp_path, lines) == len(lines) >= 10_000
    made.tokenizer.save(tmp_path)
    fast = AutoTokenizer.from_pretrained(str(tmp_path))
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert fast(lines, add_special_tokens=False)["input_ids"] == model.encode(lines)
