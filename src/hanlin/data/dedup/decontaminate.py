"""Evaluation questions inside training records: found by runs of characters or words that both have.

Owns the reading of question sets, the index and `contamination.json`. Does not own what becomes of a record
(`sifting`) or of a question that was found (`evaluate`).

Source: Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C) compare runs of 13 words and leave out those that are
common; here Chinese questions are compared by runs of 13 characters (letters and digits, in one width, case and
script), which are shorter than 13 words, so that one common run alone does not make a record contaminated unless
`share` is 0.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.config.settings.data import Decontaminate
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.dedup.keys import letters
from hanlin.data.text.char_stats import profile, rolling_hashes

FILE = "contamination.json"
_SHORTEST = 8
_FEWEST_DIFFERENT = 6
_WORD = re.compile(r"[^\W_]+")
_TEXTS = ("question", "problem", "prompt", "instruction", "query", "original_text", "input", "text", "题目", "问题")
_IDS = ("id", "question_id", "qid", "idx")
_FILTER = 1 << 22


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


@dataclass(frozen=True, slots=True)
class _Index:
    """Runs of one length: their hashes, sorted, and for each which questions have it."""

    words: bool
    length: int
    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]

    def owners_in(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The questions that own any of these runs, once for each run."""
        hashes = np.unique(hashes[self.seen.take((hashes % _FILTER).astype(np.int64))])
        if not len(hashes):
            return np.empty(0, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        places = places[self.hashes[places] == hashes]
        return np.concatenate(
            [self.owners[self.starts[place] : self.starts[place + 1]] for place in places]
            or [np.empty(0, dtype=np.int64)]
        )


class Questions:
    """The questions of all sets, ready to be looked for."""

    def __init__(self, asked: Sequence[Asked], settings: Decontaminate) -> None:
        self.asked, self.settings = asked, settings
        self.total = np.zeros(len(asked), dtype=np.int64)
        runs: dict[tuple[bool, int], list[tuple[npt.NDArray[np.uint64], int]]] = {}
        for place, question in enumerate(asked):
            found = self._runs(question)
            if found is not None:
                words, length, hashes = found
                runs.setdefault((words, length), []).append((np.unique(hashes), place))
        self._indices = [self._index(words, length, found) for (words, length), found in sorted(runs.items())]

    @classmethod
    def read(cls, settings: Decontaminate, inputs: Inputs, field: str = "decontaminate.against") -> Questions:
        """Read every set. Raises UserError for a file that holds no questions."""
        paths = inputs.many(field)
        names = _names(paths)
        return cls([asked for path, name in zip(paths, names, strict=True) for asked in read_set(path, name)], settings)

    def found(self, text: str) -> list[Asked]:
        """The questions that a text holds, in the order of the sets."""
        counts: Counter[int] = Counter()
        by_word: npt.NDArray[np.uint32] | None = None
        by_letter: npt.NDArray[np.uint32] | None = None
        for index in self._indices:
            if index.words:
                by_word = _words(text) if by_word is None else by_word
                hashes = rolling_hashes(by_word, index.length)
            else:
                by_letter = letters(text) if by_letter is None else by_letter
                hashes = rolling_hashes(by_letter, index.length)
            counts.update(index.owners_in(hashes).tolist())
        share = self.settings.share
        places = sorted(
            place for place, count in counts.items() if count >= max(1, math.ceil(share * int(self.total[place])))
        )
        return [self.asked[place] for place in places]

    def account(self, hits: Mapping[str, int]) -> dict[str, Any]:
        """What `contamination.json` says: for each set the ids that were found (with how many records hold them), those
        that were not, and those that are too short, or too common, to look for."""
        sets: dict[str, dict[str, Any]] = {}
        for place, question in enumerate(self.asked):
            row = sets.setdefault(question.set, {"contaminated": {}, "clean": [], "unsearched": []})
            if hits.get(question.key):
                row["contaminated"][question.id] = hits[question.key]
            elif self.total[place]:
                row["clean"].append(question.id)
            else:
                row["unsearched"].append(question.id)
        settings = self.settings.model_dump(mode="json", exclude={"against"})
        return {"settings": settings, "sets": [{"name": name, **row} for name, row in sets.items()]}

    def _runs(self, question: Asked) -> tuple[bool, int, npt.NDArray[np.uint64]] | None:
        """By words or not, how long, and the runs of a question. One that is shorter than a run is taken with its
        choices (下列说法正确的是 is on every exam); without any it is one run, or none where it is shorter still. So is
        one of a few different characters: 8+88+888+8888 is in every long decimal."""
        for text in (question.text, f"{question.text}\n{question.more}"):
            han, latin, *_ = profile(text)
            by_words = 4 * han < latin
            codes = _words(text) if by_words else letters(text)
            longest = self.settings.words if by_words else self.settings.characters
            if len(codes) >= longest or not question.more:
                break
        length = min(len(codes), longest)
        if length < min(_SHORTEST, longest) or len(np.unique(codes)) < min(_FEWEST_DIFFERENT, longest):
            return None
        return by_words, length, rolling_hashes(codes, length)

    def _index(self, words: bool, length: int, found: Sequence[tuple[npt.NDArray[np.uint64], int]]) -> _Index:
        hashes = np.concatenate([hashes for hashes, _ in found])
        owners = np.concatenate([np.full(len(hashes), place, dtype=np.int64) for hashes, place in found])
        order = np.argsort(hashes, kind="stable")
        unique, counts = np.unique(hashes[order], return_counts=True)
        common = np.repeat(counts > self.settings.common, counts)
        ordered, kept = owners[order][~common], counts <= self.settings.common
        np.add.at(self.total, ordered, 1)
        unique, counts = unique[kept], counts[kept]
        seen = np.zeros(_FILTER, dtype=np.bool_)
        seen[(unique % _FILTER).astype(np.int64)] = True
        return _Index(words, length, unique, np.append(0, np.cumsum(counts)), ordered, seen)


def _words(text: str) -> npt.NDArray[np.uint32]:
    """The words of a text as numbers, letter case aside."""
    found = _WORD.findall(text.casefold())
    return np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in found], dtype=np.uint32)


def _names(paths: Sequence[Path]) -> list[str]:
    """A short name for each set, with a number where two would have the same."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path.name] += 1
        names.append(path.name if seen[path.name] == 1 else f"{path.name}({seen[path.name]})")
    return names


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


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Which questions of an evaluation the training data holds, as the data stages found."""

    contaminated: frozenset[str]
    checked: frozenset[str]

    def split(self, ids: Sequence[str], where: Path | str) -> tuple[set[str], set[str]]:
        """The contaminated and the clean ones of these ids. Raises UserError when one was never looked for."""
        missing = [name for name in ids if name not in self.checked]
        if missing:
            hint = say(
                "name this set in `decontaminate.against` of the data stage",
                "请在数据阶段的 decontaminate.against 中写上该评测集",
            )
            what = say(f"question {missing[0]} was not looked for in the data", f"数据阶段没有查找过题目 {missing[0]}")
            raise UserError(what, where, hint)
        return {name for name in ids if name in self.contaminated}, {
            name for name in ids if name not in self.contaminated
        }


def verdicts_of(folders: Sequence[Path]) -> Verdicts:
    """What the data stages in these folders found, together. Raises UserError for a stage that looked for nothing."""
    contaminated: set[str] = set()
    checked: set[str] = set()
    for folder in folders:
        file = folder / FILE if folder.is_dir() else folder
        if not file.is_file():
            hint = say("set `decontaminate` in that stage", "请在该阶段设置 decontaminate")
            raise UserError(say("this data was not compared with questions", "这份数据没有与题目比对过"), folder, hint)
        for row in json.loads(file.read_text(encoding="utf-8"))["sets"]:
            contaminated |= set(row["contaminated"])
            checked |= {*row["contaminated"], *row["clean"], *row["unsearched"]}
    return Verdicts(frozenset(contaminated), frozenset(checked))
