"""Fixtures of the tests of tokenizers: a tiny one like SentencePiece's, made on the spot, and Llama's real ones."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from hanlin.chat.template import ChatTemplate
from hanlin.tokenizer.tokenizer import Tokenizer

PROSE = [
    "院子里的花开了，小鸟在树上唱歌。",
    "我叫小翰，是一个中文助手，很高兴认识你。",
    "My name is Xiaohan and I am glad to meet you.",
    "The bird sings in the tree; the flowers are open, 1 2 3.",
] * 3


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer: Path) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer)


@pytest.fixture(scope="session")
def template(tiny_tokenizer: Path, tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer, tokenizer)


@pytest.fixture(scope="session")
def tiny_sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece BPE tokenizer in the form of Llama 2's `tokenizer.json`: byte fallback, a space before text."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special + byte_tokens, show_progress=False)
    backend.train_from_iterator(PROSE, trainer)
    data = json.loads(backend.to_str())
    data["model"].update({"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True})
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in special]
    data["pre_tokenizer"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(data))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    folder = tmp_path_factory.mktemp("tiny_sentencepiece")
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def llama3(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer folder of Llama 3 Instruct, its chat template in `tokenizer_config.json`."""
    source = shared_data / "tokenizer" / "llama3"
    folder = tmp_path_factory.mktemp("llama3")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(source / "instruct" / name, folder / name)
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    return folder


@pytest.fixture(scope="session")
def llama2(shared_data: Path) -> Path:
    return shared_data / "tokenizer" / "llama2"


def accept_fast_ids(folder: Path, source: Path | None = None) -> Path:
    """Let a SentencePiece folder, first copied from `source`, accept the ids of its converted tokenizer."""
    if source is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"use_fast": True}), encoding="utf-8")
    return folder
