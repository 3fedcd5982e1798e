"""GGUF files that hold a vocabulary and no tensors, as Hanlin and as other converters write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gguf import GGUFWriter

from hanlin.export.gguf.vocab import add_special_ids, build_vocabulary
from hanlin.tokenizer.gguf_splitting import SPLITTING_RULES
from hanlin.tokenizer.tokenizer import Tokenizer

LINES = ("wiki_zh_trad_drcd_dev.txt", "en_ewt_web_dev.txt", "news_zh_simp_ntrex.txt", "dirty_zh_html_page.txt")
RULES = tuple({rule: name for name, rule in reversed(SPLITTING_RULES.items())}.values())
"""One name of each splitting rule."""


def write_vocabulary(tokenizer: Tokenizer, file: Path, *stop_ids: int, pre: str = "", **texts: str) -> Path:
    """A GGUF file without tensors, with the splitting rule `pre` if one is named."""
    vocabulary = build_vocabulary(tokenizer, len(tokenizer))
    writer = GGUFWriter(None, "llama")
    (replace(vocabulary, pre=pre) if pre else vocabulary).add_to(writer)
    add_special_ids(writer, tokenizer, stop_ids)
    for key, text in texts.items():
        writer.add_string(key.replace("__", "."), text)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return file


def real_lines(shared_data: Path, count: int) -> list[str]:
    files = [shared_data / "text" / name for name in LINES]
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()[:count]]


def write_sentencepiece(
    file: Path, pieces: Sequence[str], scores: Sequence[float], types: Sequence[int], space: bool = True
) -> Path:
    """A GGUF file of a SentencePiece vocabulary, as llama.cpp's converter writes it from a `tokenizer.model`."""
    writer = GGUFWriter(None, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(pieces))
    writer.add_token_scores(list(scores))
    writer.add_token_types(list(types))
    for name, token_id in (("bos", 1), ("eos", 2), ("unk", 0)):
        getattr(writer, f"add_{name}_token_id")(token_id)
    writer.add_add_space_prefix(space)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return file
