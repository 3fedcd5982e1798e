"""The tokenizer that is read from a GGUF file gives the ids of the folder that the file was made from.

What it does without a folder, with the files of other converters, is `test_gguf_of_others`.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from gguf_vocabularies import RULES, real_lines, write_vocabulary
from hanlin.core.errors import UserError
from hanlin.export.gguf.verify import TEXTS
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params
from hanlin.tokenizer.gguf_metadata import read_gguf_metadata
from hanlin.tokenizer.gguf_splitting import SPLITTING_RULES
from hanlin.tokenizer.tokenizer import Tokenizer
from tokenizer_folders import accept_fast_ids, llama2, llama3, tiny_sentencepiece

__all__ = ["llama2", "llama3", "tiny_sentencepiece"]


def assert_alike(lone: Tokenizer, beside: Tokenizer) -> None:
    assert len(lone) == len(beside) and lone.special_ids == beside.special_ids
    assert (lone.bos_id, lone.adds_bos, lone.pad_id) == (beside.bos_id, beside.adds_bos, beside.pad_id)
    assert (lone.prefix_space, lone.strips_leading_space) == (beside.prefix_space, beside.strips_leading_space)


@pytest.mark.parametrize("name", ["llama3", "llama2", "literary_alpaca2_merged", "chinese_llama2"])
def test_a_real_tokenizer_in_a_file_gives_the_ids_of_its_folder(
    name: str, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name in ("llama3", "llama2"):
        folder = request.getfixturevalue(name)
    else:
        folder = accept_fast_ids(tmp_path / name, shared_data / "tokenizer" / name)
    beside = Tokenizer.load(folder)
    lone = Tokenizer.load(write_vocabulary(beside, tmp_path / "v.gguf", beside.eos_id or 0))
    assert_alike(lone, beside)
    lines = [*TEXTS, *real_lines(shared_data, 100)]
    assert lone.encode_batch(lines) == beside.encode_batch(lines)
    assert lone.encode_batch(lines, continuation=True) == beside.encode_batch(lines, continuation=True)
    for ids in beside.encode_batch(TEXTS):
        assert lone.decode(ids) == beside.decode(ids)


@pytest.mark.parametrize("name", ["tiny_tokenizer", "tiny_sentencepiece"])
def test_a_small_tokenizer_in_a_file_gives_the_ids_of_its_folder(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    beside = Tokenizer.load(request.getfixturevalue(name))
    lone = Tokenizer.load(write_vocabulary(beside, tmp_path / "v.gguf", beside.eos_id or 0))
    assert_alike(lone, beside)
    assert lone.encode_batch(TEXTS) == beside.encode_batch(TEXTS)


def test_a_typed_special_token_stays_text(tiny_tokenizer: Path, tmp_path: Path) -> None:
    lone = Tokenizer.load(write_vocabulary(Tokenizer.load(tiny_tokenizer), tmp_path / "v.gguf"))
    assert not lone.special_ids & set(lone.encode("<|eot_id|><|begin_of_text|>"))


@pytest.mark.slow
@pytest.mark.parametrize("pre", [rule for rule in RULES if rule not in ("llama-bpe", "tekken")])
def test_every_splitting_rule_gives_the_ids_of_llama_cpp(
    pre: str, llama3: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Not of `tekken`: llama.cpp's form of it does not know combining marks, the tokenizer of the model does."""
    file = write_vocabulary(Tokenizer.load(llama3), tmp_path / "v.gguf", 128001, pre=pre)
    model = LlamaCppModel(file, vocabulary_only=True)
    lines = [*TEXTS, *real_lines(shared_data, 100)]
    assert Tokenizer.load(file).encode_batch(lines) == [model.tokenize(line) for line in lines]
    model.close()


@pytest.mark.parametrize("pre", sorted(SPLITTING_RULES))
def test_every_named_splitting_rule_gives_the_ids_of_llama_cpp(pre: str, tiny_tokenizer: Path, tmp_path: Path) -> None:
    """Not of wide spaces by DeepSeek's rules: llama.cpp takes them for other characters than the models' tokenizers."""
    file = write_vocabulary(Tokenizer.load(tiny_tokenizer), tmp_path / "v.gguf", pre=pre)
    lone = Tokenizer.load(file)
    model = LlamaCppModel(file, vocabulary_only=True)
    texts = [text for text in TEXTS if "\u3000" not in text or pre not in ("deepseek-llm", "deepseek-coder")]
    assert [lone.encode(text) for text in texts] == [model.tokenize(text) for text in texts]
    model.close()


def test_the_ends_of_an_answer_are_those_of_llama_cpp(tiny_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    odd = tokenizer.encode("。")[-1]
    file = write_vocabulary(tokenizer, tmp_path / "v.gguf", tokenizer.eos_id or 0, odd)
    model = LlamaCppModel(file, vocabulary_only=True)
    assert set(read_eos_token_ids(file)) == model.end_ids
    model.close()


def test_sampling_defaults_are_greedy_unless_the_file_has_some(tiny_tokenizer: Path, tmp_path: Path) -> None:
    assert read_sampling_params(write_vocabulary(Tokenizer.load(tiny_tokenizer), tmp_path / "v.gguf")) == {
        "temperature": 0.0
    }


def test_a_rule_that_is_not_known_is_named(tiny_tokenizer: Path, tmp_path: Path) -> None:
    file = write_vocabulary(Tokenizer.load(tiny_tokenizer), tmp_path / "v.gguf", pre="kimi-k2")
    with pytest.raises(UserError, match="kimi-k2"):
        Tokenizer.load(file)


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGML" * 9, b"GGUF\x03\0\0\0" + b"\xff" * 16, b"GGUF\x01" + bytes(30)])
def test_a_broken_file_is_refused_in_a_sentence(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "v.gguf"
    file.write_bytes(data)
    with pytest.raises(UserError):
        Tokenizer.load(file)


def test_a_file_that_is_cut_anywhere_in_its_metadata_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    whole = write_vocabulary(Tokenizer.load(tiny_tokenizer), tmp_path / "v.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(0, len(whole) - 64, 997):
        cut.write_bytes(whole[:size])
        with pytest.raises(UserError):
            Tokenizer.load(cut)


def test_metadata_is_read_as_the_package_gguf_reads_it(tiny_tokenizer: Path, tmp_path: Path) -> None:
    file = write_vocabulary(Tokenizer.load(tiny_tokenizer), tmp_path / "v.gguf", 1, tokenizer__chat_template="{{ 你 }}")
    fields = gguf.GGUFReader(file).fields
    values = read_gguf_metadata(file).values
    assert set(values) == {key for key in fields if not key.startswith("GGUF.")}
    assert all(values[key] == fields[key].contents() for key in values)
