"""The `tokenizer.model` of an extended or trimmed SentencePiece vocabulary, and of one that a stage leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gguf_vocabularies import write_sentencepiece
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Package
from hanlin.config.settings.model import LoraSettings, Merge
from hanlin.config.settings.surgery.context import ExtendContext
from hanlin.core.context import Inputs, StageContext
from hanlin.export import package
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.models import merge
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from hanlin.models.sentencepiece_file import carry_model, keep_pieces, write_extended_model, write_trimmed_model
from hanlin.models.surgery import context
from hanlin.tokenizer.extend import Extension, extend_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.trim.vocabulary import TrimmableVocabulary, save_trimmed
from random_models import perturb_trainable
from tiny_llama import tiny_llama

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


@pytest.fixture(scope="module")
def trimmed(llama2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama 2's vocabulary trimmed to what `LINES` need, with its `tokenizer.model`."""
    return trim(llama2, LINES, LINES, tmp_path_factory.mktemp("trimmed"))[0]


def trim(llama2: Path, used: list[str], compared: list[str], out: Path) -> tuple[Path, int]:
    vocabulary = TrimmableVocabulary(Tokenizer.load(llama2))
    kept = vocabulary.choose({i for ids in vocabulary.tokenizer.encode_batch(used) for i in ids})
    tokenizer = save_trimmed(vocabulary, kept, out)
    return out, write_trimmed_model(llama2, kept.ids, tokenizer, out, compared)


def test_a_trimmed_vocabulary_keeps_runs_of_spaces_so_that_both_files_split_them_alike(
    trimmed: Path, llama2: Path
) -> None:
    tokenizer = Tokenizer.load(trimmed)
    model = sentencepiece.SentencePieceProcessor(model_file=str(trimmed / "tokenizer.model"))
    indented = [f"春{' ' * count}天\n{' ' * count}return x" for count in range(1, 16)]
    assert model.encode(indented) == tokenizer.encode_batch(indented)
    lengths = map(len, Tokenizer.load(llama2).encode_batch([" " * count + "天" for count in range(1, 16)]))
    assert list(map(len, tokenizer.encode_batch([" " * count + "天" for count in range(1, 16)]))) == list(lengths)


def test_sentencepiece_gives_the_ids_of_the_trimmed_tokenizer(trimmed: Path, llama2: Path) -> None:
    tokenizer = Tokenizer.load(trimmed)
    model = sentencepiece.SentencePieceProcessor(model_file=str(trimmed / "tokenizer.model"))
    assert 259 < model.get_piece_size() == len(tokenizer) < 400
    assert [model.id_to_piece(i) for i in range(len(tokenizer))] == [
        tokenizer.backend.id_to_token(i) for i in range(len(tokenizer))
    ]
    texts = [*LINES, "a library in spring 龘", "学士\t读书"]
    assert model.encode(texts) == tokenizer.encode_batch(texts)
    assert (model.unk_id(), model.bos_id(), model.eos_id()) == (0, 1, 2)


def test_all_pieces_kept_leave_every_byte_of_the_file(llama2: Path) -> None:
    data = (llama2 / "tokenizer.model").read_bytes()
    assert keep_pieces(data, range(32000)) == data


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x80", b"\x0b\x00", b"\x0a" + b"\xff" * 11])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        keep_pieces(data, [0])


def test_the_file_is_carried_on_beside_a_tokenizer_that_did_not_change(trimmed: Path, tmp_path: Path) -> None:
    assert carry_model([tmp_path / "none", trimmed], Tokenizer.load(trimmed), tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (trimmed / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("kind", ["pieces", "entries", "ids", "ranks"])
def test_a_file_that_gives_other_ids_is_left_out_and_said(
    kind: str, trimmed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "base"
    shutil.copytree(trimmed, base)
    data = (trimmed / "tokenizer.model").read_bytes()
    rules: dict[str, Any] = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    size = len(rules["model"]["vocab"])
    if kind == "pieces":
        data = keep_pieces(data, range(size - 1))  # the last entry is none of its pieces
    elif kind == "entries":
        vocabulary = rules["model"]["vocab"]
        one, other = (token for token, index in vocabulary.items() if index in (size - 1, size - 2))
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    elif kind == "ids":
        rules["model"]["merges"] = []
    else:
        data = b"aGVsbG8= 0\n"
    (base / "tokenizer.model").write_bytes(data)
    (base / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
    assert not carry_model([base], Tokenizer.load(base), tmp_path)
    assert "tokenizer.model is left out" in caplog.text
    assert not (tmp_path / "tokenizer.model").exists()


def test_merging_and_surgery_carry_the_file_on(trimmed: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(trimmed)
    base = tiny_llama(tmp_path / "base", tokenizer, seed=1)
    tokenizer.save(base)
    shutil.copyfile(trimmed / "tokenizer.model", base / "tokenizer.model")
    adapter = perturb_trainable(attach_lora(load_model(base), LoraSettings(rank=2), seed=1))
    save_adapter(adapter, tmp_path / "adapter", base=base)
    tokenizer.save(tmp_path / "adapter")  # as other programs do, without the file
    (tmp_path / "merged").mkdir()
    settings = Merge.model_validate({"adapter": "./adapter", "check": "weights"})
    merge.run(settings, Inputs({"adapter": (tmp_path / "adapter",)}), tmp_path / "merged", StageContext())
    longer = ExtendContext(model="./merged", context_length=512)
    context.run(longer, Inputs({"model": (tmp_path / "merged",)}), tmp_path / "longer", StageContext())
    for folder in ("merged", "longer"):
        assert (tmp_path / folder / "tokenizer.model").read_bytes() == (trimmed / "tokenizer.model").read_bytes()


@pytest.mark.slow
def test_a_package_for_a_hub_carries_the_file_on(trimmed: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(trimmed)
    base = tiny_llama(tmp_path / "base", tokenizer, seed=1)
    ChatTemplate.from_packaged("llama2", tokenizer).save(base)
    shutil.copyfile(trimmed / "tokenizer.model", base / "tokenizer.model")
    settings = Package(model="./base", target="huggingface")
    (tmp_path / "package").mkdir()
    package.run(settings, Inputs({"model": (base,)}), tmp_path / "package", StageContext())
    assert (tmp_path / "package" / "tokenizer.model").read_bytes() == (trimmed / "tokenizer.model").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extended", "trimmed"])
def test_ten_thousand_lines_have_equal_ids_in_sentencepiece_transformers_and_llama_cpp(
    shared_data: Path, llama2: Path, tmp_path: Path, kind: str
) -> None:
    from transformers import AutoTokenizer

    learned = (shared_data / "text" / "wiki_zh_simp_cmrc2018_dev.txt").read_text(encoding="utf-8").splitlines()
    names = ("novel_hongloumeng.txt", "wiki_zh_trad_drcd_dev.txt", "news_zh_simp_ntrex.txt", "en_tinyshakespeare.txt")
    lines = [line for name in names for line in (shared_data / "text" / name).read_text("utf-8").splitlines()]
    lines = [line for line in dict.fromkeys(lines) if line.strip()][:12_000]
    if kind == "extended":
        made = extend_tokenizer(Tokenizer.load(llama2), learned, 8000)
        assert write_extended_model(llama2, made, tmp_path, lines) == len(lines) >= 10_000
        made.tokenizer.save(tmp_path)
    else:
        assert trim(llama2, learned, lines, tmp_path)[1] == len(lines) >= 10_000
    fast = AutoTokenizer.from_pretrained(str(tmp_path))
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    expected = model.encode(lines)
    assert fast(lines, add_special_tokens=False)["input_ids"] == expected
    ids = range(model.get_piece_size())
    types = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in ids]
    pieces, scores = [model.id_to_piece(i) for i in ids], [model.get_score(i) for i in ids]
    llama_cpp = LlamaCppModel(
        write_sentencepiece(tmp_path / "vocabulary.gguf", pieces, scores, types), vocabulary_only=True
    )
    assert [llama_cpp.tokenize(line) for line in lines] == expected
    llama_cpp.close()
