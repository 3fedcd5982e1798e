"""GGUF files as other converters write them: pieces that share a score, ends by name, tokens of odd types, any text.

The ids are compared with llama.cpp's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from gguf import TokenType

from gguf_vocabularies import RULES, real_lines, write_sentencepiece, write_vocabulary
from hanlin.core.errors import UserError
from hanlin.export.gguf.verify import TEXTS
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import Tokenizer
from random_texts import random_texts
from tokenizer_folders import llama3

__all__ = ["llama3"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TIED = (*"▁甲乙丙丁ab", "甲乙", "乙甲", "甲乙甲", "乙丙", "丙丁", "ab", "ba", "aba", "▁a", "▁甲", "▁▁", "▁▁▁▁")
SEED = 20261129


def write_small(file: Path, *added: tuple[str, TokenType], space: bool = True, score: float = 0.0) -> Path:
    """A vocabulary of bytes and the pieces of `TIED`, all of one score."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, *TIED, *(name for name, _ in added)]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    types += [*[TokenType.NORMAL] * len(TIED), *(kind for _, kind in added)]
    return write_sentencepiece(file, pieces, [score] * len(pieces), types, space)


def assert_llama_cpp_agrees(file: Path, texts: Sequence[str]) -> None:
    lone, model = Tokenizer.load(file), LlamaCppModel(file, vocabulary_only=True)
    try:
        expected = [model.tokenize(text) for text in texts]
    finally:
        model.close()
    found = lone.encode_batch(texts)
    differing = [text for text, ids, other in zip(texts, found, expected, strict=True) if ids != other]
    assert not differing, differing[:3]


def test_pieces_that_share_a_score_are_joined_from_the_left(tmp_path: Path) -> None:
    texts = ["甲乙甲", "乙甲乙", "乙甲乙甲乙", "甲乙丙丁丙", "abab", "a  b    c", "     ", "", " ", "x甲\n乙", *TEXTS]
    for space in (True, False):
        file = write_small(tmp_path / f"{space}.gguf", ("<|mark|>", TokenType.USER_DEFINED), space=space)
        marked = ["甲<|mark|>乙甲", "<|mark|><|mark|>", "a<|mark|> b", "<|mark"]
        assert_llama_cpp_agrees(file, [*texts, *marked, *random_texts(SEED, 50)])


def test_such_a_vocabulary_goes_on_from_other_text_without_a_space(tmp_path: Path) -> None:
    lone = Tokenizer.load(write_small(tmp_path / "v.gguf"))
    assert lone.encode("甲乙") == [lone.token_id("▁甲"), lone.token_id("乙")]  # the leftmost of two with one score
    assert lone.encode("甲乙", continuation=True) == [lone.token_id("甲乙")]
    assert lone.decode(lone.encode("甲乙 x")) == "甲乙 x"
    with pytest.raises(UserError, match="half of a surrogate pair"):
        lone.encode("\ud800")


@pytest.mark.parametrize(
    "name",
    ["chinese_llama2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("literary_alpaca2_merged", "llama2"))],
)
def test_a_merged_vocabulary_in_a_file_gives_the_ids_of_llama_cpp(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Two of the three have thousands of pieces with a score of 0: 165 and 333 of 941 real lines differed by merges."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / "tokenizer" / name / "tokenizer.model"))
    ids = range(model.get_piece_size())
    kinds = {0: TokenType.UNKNOWN, 1: TokenType.CONTROL, 2: TokenType.CONTROL}
    types = [kinds.get(i, TokenType.BYTE if model.is_byte(i) else TokenType.NORMAL) for i in ids]
    pieces, scores = [model.id_to_piece(i) for i in ids], [model.get_score(i) for i in ids]
    file = write_sentencepiece(tmp_path / "v.gguf", pieces, scores, types)
    assert_llama_cpp_agrees(file, [*TEXTS, *real_lines(shared_data, 60), *random_texts(SEED, 200)])


@pytest.mark.slow
@pytest.mark.parametrize("pre", [name for name in RULES if name not in ("tekken", "deepseek-llm", "deepseek-coder")])
def test_random_texts_give_the_ids_of_llama_cpp(pre: str, llama3: Path, tmp_path: Path) -> None:
    file = write_vocabulary(Tokenizer.load(llama3), tmp_path / "v.gguf", 128001, pre=pre)
    assert_llama_cpp_agrees(file, random_texts(SEED, 5000))


ENDS = [
    *(("<|im_end|>",), ("<|return|>", "<|call|>", "<|end|>"), ("<|end|>",), ("<eos>",), ("<EOT>", "[EOS]")),
    *(("<｜end▁of▁sentence｜>",), ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"), ("[PAD]",)),
]


@pytest.mark.parametrize("kind", [TokenType.CONTROL, TokenType.USER_DEFINED])
@pytest.mark.parametrize("names", ENDS, ids=lambda names: names[0])
def test_ends_by_name_are_those_of_llama_cpp_and_a_typed_one_stays_text(
    names: tuple[str, ...], kind: TokenType, tmp_path: Path
) -> None:
    file = write_small(tmp_path / "v.gguf", *((name, kind) for name in names))
    model = LlamaCppModel(file, vocabulary_only=True)
    ends = model.end_ids
    model.close()
    assert set(read_eos_token_ids(file)) == ends
    lone = Tokenizer.load(file)
    for name in names:
        token_id = lone.token_id(name)
        assert token_id is not None and (token_id not in ends or token_id not in lone.encode(f"a{name}b"))
