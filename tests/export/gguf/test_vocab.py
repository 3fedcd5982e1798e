"""llama.cpp reads a text as the ids that the model was trained with, whatever Llama tokenizer it has."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf import GGUFWriter
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from hanlin.core.errors import UserError
from hanlin.export.gguf.verify import TEXTS, TokenizerCheck
from hanlin.export.gguf.vocab import GgufVocabulary, add_special_ids, build_vocabulary
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.tokenizer.byte_alphabet import BYTE_TO_CHAR
from hanlin.tokenizer.gguf_splitting import GPT_2, SINGLE_DIGITS
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.train import SPLIT_PATTERN
from tokenizer_folders import accept_fast_ids

Make = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]


def vocabulary_file(tokenizer: Tokenizer, file: Path, stop_ids: list[int]) -> GgufVocabulary:
    """A GGUF file without tensors."""
    vocabulary = build_vocabulary(tokenizer, len(tokenizer))
    writer = GGUFWriter(None, "llama")
    vocabulary.add_to(writer)
    add_special_ids(writer, tokenizer, stop_ids)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return vocabulary


def byte_level(folder: Path, merges: list[tuple[str, str]], **model: Any) -> Path:
    """A byte-level tokenizer whose entries are the bytes and what `merges` build, given in byte letters."""
    entries = [*BYTE_TO_CHAR.values(), *dict.fromkeys("".join(merge) for merge in merges), *model.pop("more", [])]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, **model))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end_of_text|>"])
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end_of_text|>"}), encoding="utf-8")
    return folder


def letters(text: str) -> str:
    return "".join(BYTE_TO_CHAR[byte] for byte in text.encode())


def test_gguf_and_hf_agree_on_ids(plain_model: Path, export: Export) -> None:
    _, metrics = export(plain_model, "F32", compare=False)
    assert metrics["tokenizer"]["texts"] > len(TEXTS)
    assert metrics["tokenizer"]["texts_tokenized_differently"] == 0


@pytest.fixture(scope="session")
def llama_3(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, folder = shared_data / "tokenizer" / "llama3", tmp_path_factory.mktemp("llama3")
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    shutil.copyfile(source / "instruct" / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


@pytest.mark.parametrize("name", [pytest.param("llama3", marks=pytest.mark.slow), "llama2", "literary_alpaca2_merged"])
def test_real_tokenizers_read_real_lines_alike(
    name: str, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("llama_3") if name == "llama3" else shared_data / "tokenizer" / name
    if name == "literary_alpaca2_merged":
        folder = accept_fast_ids(tmp_path / name, folder)
    tokenizer = Tokenizer.load(folder)
    stop_ids = [128001, 128009] if name == "llama3" else [2]
    vocabulary = vocabulary_file(tokenizer, tmp_path / "v.gguf", stop_ids)
    proof = TokenizerCheck(tokenizer, vocabulary, stop_ids)
    proof.check(tmp_path / "v.gguf")
    assert proof.metrics["texts_tokenized_differently"] == 0
    model = LlamaCppModel(tmp_path / "v.gguf", vocabulary_only=True)
    files = ("wiki_zh_trad_drcd_dev.txt", "en_ewt_web_dev.txt", "news_zh_simp_ntrex.txt", "dirty_zh_html_page.txt")
    for file in files:
        lines = (shared_data / "text" / file).read_text(encoding="utf-8").splitlines()[:250]
        assert [model.tokenize(line) for line in lines] == tokenizer.encode_batch(lines), file
    model.close()


def test_an_entry_that_only_sentencepiece_can_build_is_counted_not_hidden(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(accept_fast_ids(tmp_path / "t", shared_data / "tokenizer" / "chinese_llama2"))
    vocabulary = vocabulary_file(tokenizer, tmp_path / "v.gguf", [2])
    proof = TokenizerCheck(tokenizer, vocabulary, [2])
    proof.check(tmp_path / "v.gguf")
    assert len(vocabulary.unreachable_ids) >= 1
    assert proof.metrics["texts_tokenized_differently"] == 1


def test_words_built_by_merges_alone_are_read_alike(tmp_path: Path) -> None:
    # "abc" is an entry that no merge reaches: `ab` is joined first, and `ab`+`c` is no merge
    folder = byte_level(tmp_path / "t", [("a", "b"), ("b", "c")], more=["abc"])
    tokenizer = Tokenizer.load(folder)
    vocabulary = vocabulary_file(tokenizer, tmp_path / "v.gguf", [])
    assert vocabulary.pre == "smaug-bpe"
    model = LlamaCppModel(tmp_path / "v.gguf", vocabulary_only=True)
    assert model.tokenize("abc") == tokenizer.encode("abc") == [256, tokenizer.encode("c")[0]]
    model.close()


DIGITS_THEN_BYTES = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
DIGITS_THEN_WORDS = [
    pre_tokenizers.Split(Regex(SINGLE_DIGITS), "isolated"),
    pre_tokenizers.Split(Regex(GPT_2), "isolated"),
    pre_tokenizers.ByteLevel(False, use_regex=False),
]


@pytest.mark.parametrize("steps", [DIGITS_THEN_BYTES, DIGITS_THEN_WORDS], ids=["digits", "split"])
def test_digits_set_apart_before_gpt_2_are_the_rule_of_smollm(
    steps: list[pre_tokenizers.PreTokenizer], tmp_path: Path
) -> None:
    folder = byte_level(tmp_path / "t", [("1", "2"), ("a", "b"), ("ab", "c"), ("Ġ", "a")])
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    assert vocabulary_file(tokenizer, tmp_path / "v.gguf", []).pre == "smollm"
    model = LlamaCppModel(tmp_path / "v.gguf", vocabulary_only=True)
    texts = [*TEXTS, "abc12 ab٣½Ⅻ 12a", "１２abc²³"]
    assert [model.tokenize(text) for text in texts] == tokenizer.encode_batch(texts)
    model.close()


def test_a_word_that_is_an_entry_is_taken_whole_where_the_tokenizer_does_so(tmp_path: Path) -> None:
    word = letters("翰林")
    folder = byte_level(tmp_path / "t", [("a", "b")], more=[word], ignore_merges=True)
    tokenizer = Tokenizer.load(folder)
    vocabulary = vocabulary_file(tokenizer, tmp_path / "v.gguf", [])
    assert vocabulary.pre == "llama-bpe"
    model = LlamaCppModel(tmp_path / "v.gguf", vocabulary_only=True)
    assert model.tokenize("翰林") == tokenizer.encode("翰林")
    assert len(model.tokenize("翰林")) == 1
    model.close()


def test_typed_special_tokens_stay_text_in_llama_cpp(plain_model: Path, export: Export) -> None:
    out, _ = export(plain_model, "F32", compare=False)
    model = LlamaCppModel(out / "model-F32.gguf", vocabulary_only=True)
    assert not set(model.tokenize("<|eot_id|><|begin_of_text|>")) & Tokenizer.load(plain_model).special_ids
    model.close()


def test_every_stop_id_ends_an_answer_in_llama_cpp(make_model: Make, export: Export, tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    odd = tokenizer.encode("。")[-1]  # nothing in its name says that it ends anything
    stop_ids = [tokenizer.eos_id, tokenizer.token_id("<|eot_id|>"), odd]
    out, metrics = export(make_model(eos_token_id=stop_ids), "F32", compare=False)
    model = LlamaCppModel(out / "model-F32.gguf", vocabulary_only=True)
    assert set(stop_ids) <= model.end_ids
    assert model.eos_id == tokenizer.token_id("<|eot_id|>")  # as its template ends an answer
    assert metrics["tokenizer"]["stop_ids"] == 3
    model.close()


def test_a_difference_is_a_fault_that_stops_the_export(tiny_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    vocabulary = vocabulary_file(tokenizer, tmp_path / "v.gguf", [])
    other = Tokenizer.load(byte_level(tmp_path / "t", [("a", "b")]))
    with pytest.raises(RuntimeError, match=r"llama\.cpp reads"):
        TokenizerCheck(other, vocabulary, []).check(tmp_path / "v.gguf")
    with pytest.raises(RuntimeError, match="does not end an answer"):
        TokenizerCheck(tokenizer, vocabulary, [300]).check(tmp_path / "v.gguf")


def test_a_tokenizer_that_llama_cpp_has_not_is_refused(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "t", [("a", "b")])
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = normalizers.NFC()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"normalizes text \(NFC\)"):
        build_vocabulary(Tokenizer.load(folder), 300)
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{Han}|\P{Han}+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="splits text by another rule"):
        build_vocabulary(Tokenizer.load(folder), 300)


def with_added_tokens(source: Path, folder: Path, normalized: bool) -> Tokenizer:
    """A SentencePiece tokenizer with two tokens that were added to it."""
    shutil.copytree(source, folder)
    backend = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    backend.add_tokens([tokenizers.AddedToken(text, normalized=normalized) for text in ("新词语", "<tool>")])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


def test_tokens_added_to_a_sentencepiece_tokenizer_are_found_again(tiny_sentencepiece: Path, tmp_path: Path) -> None:
    tokenizer = with_added_tokens(tiny_sentencepiece, tmp_path / "added", normalized=False)
    assert tokenizer.eos_id is not None
    vocabulary = vocabulary_file(tokenizer, tmp_path / "v.gguf", [tokenizer.eos_id])
    assert vocabulary.tokens[-2:] == ("新词语", "<tool>") and {kind.name for kind in vocabulary.types[-2:]} == {
        "USER_DEFINED"
    }
    model = LlamaCppModel(tmp_path / "v.gguf", vocabulary_only=True)
    try:
        for text in ("我说新词语很好", "新词语", "a 新词语 b<tool> c<tool>d"):
            assert model.tokenize(text) == tokenizer.encode(text)
    finally:
        model.close()


def test_added_tokens_that_llama_cpp_cannot_find_are_refused_in_a_sentence(
    tiny_sentencepiece: Path, tmp_path: Path
) -> None:
    tokenizer = with_added_tokens(tiny_sentencepiece, tmp_path / "added", normalized=True)
    with pytest.raises(UserError, match="cannot find the added token '新词语'") as refused:
        build_vocabulary(tokenizer, len(tokenizer))
    assert "normalized=False" in str(refused.value.hint)


def test_a_space_before_the_first_text_alone_is_refused(tiny_sentencepiece: Path, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    shutil.copytree(tiny_sentencepiece, folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(UserError, match="a space at the beginning of the first text alone"):
        build_vocabulary(tokenizer, len(tokenizer))


@pytest.mark.parametrize(
    ("rule", "said"), [("normalizer", r"normalizes text \(NFKC\) first"), ("pre_tokenizer", "splits text by another")]
)
def test_rules_of_a_sentencepiece_tokenizer_that_llama_cpp_has_not_are_named(
    rule: str, said: str, tiny_sentencepiece: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sentencepiece, tmp_path / "t"))
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if rule == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), backend.normalizer])
    else:
        backend.normalizer, backend.pre_tokenizer = None, pre_tokenizers.Metaspace()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=said):
        build_vocabulary(Tokenizer.load(folder), 600)
