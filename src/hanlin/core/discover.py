"""Which files of a folder hold records, and of which kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference, read_jsonl

VALIDATION_FILE = "validation.jsonl"


def validation_file(path: Path) -> Path:
    """The held-out records of a data artifact, or the file itself. Raises UserError where nothing was held out."""
    file = path / VALIDATION_FILE if path.is_dir() else path
    if not file.is_file():
        what = say("these data have no validation split", "这些数据没有留出部分")
        hint = say(
            "set `validation_fraction` in the stage that made them", "请在生成它们的阶段设置 validation_fraction"
        )
        raise UserError(what, path, hint)
    return file


def record_kind(file: Path) -> type[Conversation] | type[Document]:
    """What the records of a file are, by its first line; the reader says what is wrong with others."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"{}")
    try:
        return Conversation if "messages" in json.loads(first) else Document
    except (ValueError, TypeError):
        return Document


def texts_in(paths: Iterable[Path], validation: bool = False) -> Iterator[str]:
    """The texts of `documents` artifacts and of plain .txt and .jsonl files, in a fixed order.

    Of a `documents` artifact only its documents are read, or with `validation` only those held out (other files have
    none). A .txt file gives its lines, a .jsonl file the `text` of each row.
    """
    for path in paths:
        if path.is_dir():
            shards = sorted(path.glob("documents*.jsonl"))
            if shards or (path / VALIDATION_FILE).is_file():
                files = [file for file in [path / VALIDATION_FILE] if file.is_file()] if validation else shards
            else:
                files = [] if validation else sorted(file for file in path.rglob("*") if file.is_file())
        else:
            files = [] if validation else [path]
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


def record_files(path: Path, *nouns: str) -> list[Path]:
    """The files of records in an artifact: `documents.jsonl`, or several of them in the order of their names."""
    files = [path] if path.is_file() else [file for noun in nouns for file in sorted(path.glob(f"{noun}s*.jsonl"))]
    if not files:
        wanted = " / ".join(f"{noun}s.jsonl" for noun in nouns)
        raise UserError(say(f"there is no {wanted} here", f"这里没有 {wanted}"), path)
    return files


def holds_pairs(file: Path) -> bool:
    """Whether the records of a file are pairs, as its first line says; what is neither is named by its reader."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and "chosen" in row


def unpaired_preferences(file: Path, paired: bool) -> Iterator[UnpairedPreference]:
    if not paired:
        yield from read_jsonl(file, UnpairedPreference)
        return
    for pair in read_jsonl(file, Preference):
        yield from UnpairedPreference.of_pair(pair)


def _lines(file: Path) -> int:
    with file.open("rb") as source:
        return sum(1 for line in source if line.strip())
