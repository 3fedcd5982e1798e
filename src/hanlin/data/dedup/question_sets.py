"""Evaluation questions to decontaminate against."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say

_TEXTS = ("question", "problem", "prompt", "instruction", "query", "original_text", "input", "text", "题目", "问题")


_IDS = ("id", "question_id", "qid", "idx")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of an evaluation set; `id` is what the evaluation calls it, `more` its choices or the like."""

    set: str
    id: str
    text: str
    more: str = ""

    @property
    def key(self) -> str:
        return f"{self.set}\t{self.id}"


def read_set(path: Path, name: str) -> Iterator[Asked]:
    """The questions of a file of JSON Lines or JSON, of a CSV file, or of every such file below a folder.

    Ids are those that `evaluate` and `exam` use: the record's own, or subject, split and row. Raises UserError.
    """
    if not path.exists():
        raise UserError(say("no such file or folder", "文件或文件夹不存在"), path)
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.rglob("*") if file.suffix in (".csv", ".jsonl", ".json"))
    )
    files = [file for file in files if path.is_file() or file.name != "manifest.json"]
    none = True
    for file in files:
        try:
            asked = list(_read_csv(file, name) if file.suffix == ".csv" else _read_json(file, name))
        except UnicodeDecodeError as error:
            raise UserError(say("not UTF-8", "不是 UTF-8 编码"), file) from error
        except OSError as error:
            raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), file) from error
        none = none and not asked
        yield from asked
    if none:
        hint = say(f"rows with one of: {', '.join(_TEXTS)}", f"每行须含其一：{'、'.join(_TEXTS)}")
        raise UserError(say("there is no question in it", "其中没有题目"), path, hint)


def _read_csv(file: Path, name: str) -> Iterator[Asked]:
    """An exam's file: with a heading (CMMLU, C-Eval) or six columns without one (MMLU)."""
    split = file.parent.name if file.parent.name in ("dev", "val", "test") else file.stem.rpartition("_")[2]
    subject = file.stem.removesuffix(f"_{split}")
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = [row for row in csv.reader(opened) if row]
    heading = (
        next((place for place, column in enumerate(rows[0]) if column.lower() == "question"), None) if rows else None
    )
    first, rows = (0, rows) if heading is None else (heading, rows[1:])
    for number, row in enumerate(rows):
        if len(row) >= first + 5:
            yield Asked(name, f"{subject}/{split}/{number}", row[first], "\n".join(row[first + 1 : first + 5]))


def _read_json(file: Path, name: str) -> Iterator[Asked]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except ValueError as error:
        raise UserError(say("not JSON", "不是合法 JSON"), file) from error
    if isinstance(rows, dict):
        rows = next((value for value in rows.values() if isinstance(value, list)), [])
    for number, row in enumerate(_asking(rows)):
        asked = _question_text(row)
        if asked:
            own = next((str(row[key]) for key in _IDS if row.get(key) is not None), f"{file.stem}#{number + 1}")
            yield Asked(name, own, asked, _choices(row))


def _asking(rows: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The rows that ask, also those inside the paragraphs of articles (SQuAD, CMRC)."""
    for row in rows:
        if not isinstance(row, dict):
            continue
        inner = next((row[key] for key in ("paragraphs", "qas") if isinstance(row.get(key), list)), None)
        if inner is None:
            yield row
        else:
            yield from _asking(inner)


def _choices(row: Mapping[str, Any]) -> str:
    """The choices of a question, one below the other."""
    given: Any = next((row[key] for key in ("options", "choices") if isinstance(row.get(key), list | dict)), [])
    texts = given.values() if isinstance(given, dict) else given
    return "\n".join(text for text in texts if isinstance(text, str))


def _question_text(row: Mapping[str, Any]) -> str | None:
    """What is asked: the user's turns of a question of ours, turns of text (MT-Bench), or a field of text, below the
    passage that it is about (AGIEval)."""
    if isinstance(row.get("messages"), list):
        turns = [turn for turn in row["messages"] if isinstance(turn, dict) and turn.get("role") == "user"]
        return "\n".join(str(turn.get("text", turn.get("content", ""))) for turn in turns)
    if isinstance(row.get("turns"), list):
        return "\n".join(turn for turn in row["turns"] if isinstance(turn, str))
    asked = next((row[key] for key in _TEXTS if isinstance(row.get(key), str)), None)
    passage = row.get("passage")
    return f"{passage}\n{asked}" if asked and isinstance(passage, str) and passage.strip() else asked
