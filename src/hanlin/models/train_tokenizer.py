"""A new vocabulary from text, and how well a vocabulary fits a text.

Owns training from nothing. Does not own growing a vocabulary that a model already has (`vocabulary_extension`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from hanlin.chat.packaged import template_tokens
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.core.context import Inputs, Job
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import HELD_OUT
from hanlin.tokenizer.tokenizer import Tokenizer

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Llama 3 splits text before BPE: contractions, words with what stands before them, at most three digits, runs of
signs, line ends, spaces. llama.cpp knows it by the name `llama-bpe`."""

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"


def train_byte_level_bpe(texts: Iterable[str], entries: int, template: str, out: Path) -> Tokenizer:
    """Train a byte-level BPE vocabulary of at most `entries` entries and save it in `out` with its chat template.

    The 256 bytes come first, then what is learnt, then the special tokens: begin and end of text, those of the packaged
    chat template, and a padding token that ends nothing. Fewer entries come out when the text has no more to merge.
    Raises UserError when `entries` is too small for bytes and special tokens.
    """
    special = list(dict.fromkeys([BEGIN, END, *template_tokens(template), PAD]))
    smallest = 256 + len(special)
    if entries < smallest:
        raise UserError(
            say(f"{entries} entries are too few", f"词表大小 {entries} 太小"),
            "entries",
            say(f"bytes and special tokens alone need {smallest}", f"仅字节与特殊符号就需要 {smallest}"),
        )
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    begin = backend.token_to_id(BEGIN)
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BEGIN}:0 $A:0", pair=None, special_tokens=[(BEGIN, begin)]),
        ]
    )
    config = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(backend, config, out)
    ChatTemplate.named(template, tokenizer).save(out)
    return Tokenizer.load(out)


def train(settings: TrainTokenizer, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Work of the stage `TrainTokenizer`: the tokenizer lies in `out`; the figures say how well it fits."""
    paths = inputs.many("text")
    count = 0

    def told() -> Iterator[str]:
        nonlocal count
        for text in texts_in(paths):
            count += 1
            job.progress.at(count, count, say("documents", "篇"))
            yield text

    tokenizer = train_byte_level_bpe(told(), settings.entries, settings.template, out)
    if not count:
        raise UserError(
            say("there is no text to learn a vocabulary from", "没有可用于学习词表的文本"),
            ", ".join(map(str, paths)),
            say("give documents, or .txt or .jsonl files", "请给出 documents 产物或 .txt、.jsonl 文件"),
        )
    heldout = list(texts_in(paths, heldout=True))
    measured = heldout or [text for _, text in zip(range(2000), texts_in(paths), strict=False)]
    return {
        "documents": count,
        "entries": len(tokenizer),
        "measured_on": "heldout" if heldout else "train",
        "characters_per_token": characters_per_token(tokenizer, measured),
    }


def characters_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Characters of the texts for each of their tokens; more is better, and 0 says that there was no text."""
    characters = tokens = 0
    for batch in batches(texts, 1000):
        characters += sum(map(len, batch))
        tokens += sum(map(len, tokenizer.encode_many(batch)))
    return characters / tokens if tokens else 0.0


def batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts in lists of `size`, the last one shorter."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def texts_in(paths: Iterable[Path], heldout: bool = False) -> Iterator[str]:
    """The texts of `documents` artifacts and of plain .txt and .jsonl files, in a fixed order.

    Of a `documents` artifact only its documents are read, or with `heldout` only those held out (other files have
    none). A .txt file gives its lines, a .jsonl file the `text` of each row.
    """
    for path in paths:
        if path.is_dir():
            shards = sorted(path.glob("documents*.jsonl"))
            if shards or (path / HELD_OUT).is_file():
                files = [file for file in [path / HELD_OUT] if file.is_file()] if heldout else shards
            else:
                files = [] if heldout else sorted(file for file in path.rglob("*") if file.is_file())
        else:
            files = [] if heldout else [path]
        for file in files:
            yield from _texts_of_file(file)


def _texts_of_file(file: Path) -> Iterator[str]:
    if file.suffix not in (".txt", ".jsonl"):
        return
    number = 0
    try:
        with file.open("rb") as lines:
            for line in lines:
                number += 1
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if file.suffix == ".txt":
                    yield text
                elif text.strip():
                    yield _text_of_row(json.loads(text))
    except OSError as error:
        raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), file) from error
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        hint = say(
            "turn other files into documents with a corpus stage first", "其他文件请先用 corpus 阶段转成 documents"
        )
        what = say("neither text nor rows with `text` in UTF-8", "不是 UTF-8 文本，也不是含 text 字段的行")
        raise UserError(what, f"{file}:{number}", hint) from error


def _text_of_row(row: Any) -> str:
    text = row["text"]
    if not isinstance(text, str):
        raise TypeError
    return text
