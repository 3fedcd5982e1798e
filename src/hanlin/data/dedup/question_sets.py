"""Read the questions of evaluation sets, to decontaminate against."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.discover import list_files
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.files import parse_json
from hanlin.core.i18n import join_list, tr

_TEXT_FIELDS = (
    "premise", "question", "problem", "prompt", "instruction", "query", "original_text", "input", "text", "题目",
    "问题", "goal", "ctx", "context",
)  # fmt: skip
"""The first that a row has. `premise` is before `question`, which in XCOPA says only whether cause or effect is asked;
`goal` is PIQA's, `ctx` and `context` what HellaSwag's endings continue."""
_SUFFIXES = (".csv", ".jsonl", ".json", ".jsonl.gz", ".json.gz")
_UNREAD_SUFFIXES = (
    ".parquet",
    ".arrow",
    ".feather",
    ".tsv",
    ".csv.gz",
    ".jsonl.zst",
    ".json.zst",
    ".jsonl.xz",
    ".jsonl.bz2",
)
_MAY_DESCRIBE = (".json", ".json.gz")
"""Files that may describe the others of a folder (a manifest, a list of subjects) and need not hold a question."""
_ID_FIELDS = ("id", "question_id", "qid", "idx")


@dataclass(frozen=True, slots=True)
class EvalQuestion:
    """A question of an evaluation set.

    Attributes:
        set: Name of the set.
        id: Id that the evaluation uses.
        text: The question; of several turns what the user says in all of them, one turn on each line.
        choices: Its choices, one on each line; may be empty.
        turns: What the user says in each turn, if there are several: in a chat, answers are between them.
    """

    set: str
    id: str
    text: str
    choices: str = ""
    turns: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Set and id."""
        return f"{self.set}\t{self.id}"


def read_questions(path: Path, name: str, unasked: Counter[Path] | None = None) -> Iterator[EvalQuestion]:
    """Read the questions of a JSON Lines, JSON (both perhaps in gzip) or CSV file, or of all below a folder.

    Ids are those of the stage `evaluate`: the record's own, or subject, split and row.

    Args:
        path: File or folder.
        name: Name of the set.
        unasked: Gets the number of rows without a question of each file that has any.

    Raises:
        UserError: The path does not exist, a file cannot be read, a folder holds tables of another kind or a file of
            rows of which none has a question, or there is no question in it.
    """
    if not path.exists():
        raise UserError(tr("no such file or folder"), path, suggest_path(path), "not_found")
    files = [path] if path.is_file() else _list_set(path)
    is_empty = True
    for file in files:
        try:
            rows = list(_read_csv(file, name) if file.suffix == ".csv" else _read_json(file, name))
        except UnicodeDecodeError as error:
            raise UserError(tr("not UTF-8"), file) from error
        except csv.Error as error:  # a cell of more than 131,072 characters
            raise UserError(tr("not a table: {error}", error=error), file) from error
        except OSError as error:
            message = error.strerror
            raise UserError(tr("it cannot be read: {value}", value=message), file) from error
        questions = [row for row in rows if row is not None]
        if rows and not questions and (path.is_file() or not file.name.endswith(_MAY_DESCRIBE)):
            raise _no_question(file, path.is_dir())
        if unasked is not None and questions and len(questions) < len(rows):
            unasked[file] += len(rows) - len(questions)
        is_empty = is_empty and not questions
        yield from questions
    if is_empty:
        raise _no_question(path, False)


def _no_question(path: Path, is_one_of_several: bool) -> UserError:
    fields = join_list(_TEXT_FIELDS)
    hint = tr("each row needs one of these fields: {fields}", fields=fields)
    if is_one_of_several:
        hint = tr("each row needs one of these fields: {fields}; else name the other files one by one", fields=fields)
    return UserError(tr("there is no question in it"), path, hint)


def _list_set(folder: Path) -> list[Path]:
    """The files of a set below a folder. Raises UserError for one that would be passed over and may hold questions."""
    files = [file for file in list_files(folder) if file.name != "manifest.json"]
    for file in files:
        if file.name.lower().endswith(_UNREAD_SUFFIXES):
            what = tr("the questions in it are not read")
            raise UserError(what, file, tr("convert it to JSON Lines or CSV, or name the other files one by one"))
    return [file for file in files if file.name.endswith(_SUFFIXES)]


def _read_csv(path: Path, name: str) -> Iterator[EvalQuestion | None]:
    """Read an exam's file: with a header (CMMLU, C-Eval), or six columns without one (MMLU); None for other rows."""
    split = path.parent.name if path.parent.name in ("dev", "val", "test") else path.stem.rpartition("_")[2]
    subject = path.stem.removesuffix(f"_{split}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    question_column = (
        next((index for index, column in enumerate(rows[0]) if column.lower() == "question"), None) if rows else None
    )
    first, rows, head = (0, rows, []) if question_column is None else (question_column, rows[1:], rows[0])
    has_choices = not head or [column.upper() for column in head[first + 1 : first + 5]] == ["A", "B", "C", "D"]
    for index, row in enumerate(rows):
        choices = "\n".join(row[first + 1 : first + 5]) if has_choices else ""
        cells = first + 5 if has_choices else first + 1
        is_asked = len(row) >= cells and bool(row[first].strip())
        yield EvalQuestion(name, f"{subject}/{split}/{index}", row[first], choices) if is_asked else None


def _read_json(path: Path, name: str) -> Iterator[EvalQuestion | None]:
    """Read the rows of JSON Lines or of the lists in a JSON file; None for a row without a question."""
    raw, suffix = path.read_bytes(), path.suffix
    if suffix == ".gz":
        try:
            raw, suffix = gzip.decompress(raw), path.with_suffix("").suffix
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(tr("not a gzip file: {error}", error=error), path) from error
    text = raw.decode("utf-8-sig")
    try:
        if suffix == ".jsonl":
            rows = [parse_json(line) for line in text.split("\n") if line.strip()]
        else:
            rows = parse_json(text)
    except ValueError as error:
        raise UserError(tr("not JSON"), path) from error
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        of_rows = [value for value in lists if value and isinstance(value[0], dict)]  # splits are several
        rows = [row for value in (of_rows or lists[:1]) for row in value]
    for row_number, row in enumerate(_flatten_rows(rows if isinstance(rows, list) else []), start=1):
        turns = _get_turns(row)
        question = "\n".join(turns) if turns else _get_question_text(row)
        if question:
            default_id = f"{path.stem}#{row_number}"
            own_id = next((str(row[key]) for key in _ID_FIELDS if row.get(key) is not None), default_id)
            yield EvalQuestion(name, own_id, question, _get_choices(row), turns if len(turns) > 1 else ())
        else:
            yield None


def _flatten_rows(rows: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows that may hold a question, also those inside the paragraphs of articles (SQuAD, CMRC)."""
    for row in rows:
        if not isinstance(row, dict):
            yield {}
            continue
        nested = next((row[key] for key in ("paragraphs", "qas") if isinstance(row.get(key), list)), None)
        if nested is None:
            yield row
        else:
            yield from _flatten_rows(nested)


def _get_choices(row: Mapping[str, Any]) -> str:
    """Return the choices of a question, one on each line."""
    choices: Any = next((row[key] for key in ("options", "choices") if isinstance(row.get(key), list | dict)), [])
    texts = choices.values() if isinstance(choices, dict) else choices
    return "\n".join(text for text in texts if isinstance(text, str))


_TURN_LISTS = ("messages", "conversations", "conversation", "prompt", "turns")
_USERS = ("user", "human")
_CONTENT_FIELDS = ("text", "content", "value")


def _get_turns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the user says in the turns of a row: in a list of turns or of pairs, or in texts (MT-Bench)."""
    turns: list[Any] = next((row[name] for name in _TURN_LISTS if isinstance(row.get(name), list) and row[name]), [])
    texts = []
    for turn in turns:
        if isinstance(turn, dict) and turn.get("role", turn.get("from")) in _USERS:
            texts.append(next((turn[name] for name in _CONTENT_FIELDS if isinstance(turn.get(name), str)), ""))
        elif isinstance(turn, dict) and "human" in turn:
            texts.append(str(turn["human"]))
        elif isinstance(turn, str) and turns is row.get("turns"):
            texts.append(turn)
    return tuple(text for text in texts if text.strip())


def _get_question_text(row: Mapping[str, Any]) -> str | None:
    """Return the question in a text field of a row, after a passage that it is about (AGIEval)."""
    question = next((row[key] for key in _TEXT_FIELDS if isinstance(row.get(key), str) and row[key].strip()), None)
    passage = row.get("passage")
    return f"{passage}\n{question}" if question and isinstance(passage, str) and passage.strip() else question
