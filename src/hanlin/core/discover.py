"""Which files of a folder hold records, and of which kind.

One table for all that reads artifacts: an artifact of a record kind holds `<kind>.jsonl`, or several files
`<kind>-*.jsonl` in the order of their names, and perhaps a validation split in `validation.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import open_regular, parse_json
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference, read_jsonl

RECORD_KINDS = ("documents", "conversations", "preferences", "unpaired_preferences")
"""The kinds of training records, in the order in which a folder is looked through for them."""

VALIDATION_FILE = "validation.jsonl"
"""The validation split of a data artifact, which no training reads."""


STORE_FOLDERS = ("artifacts", "runs")
"""What a command makes in its working folder (`--home`)."""
STORE_LOCKS = ".locks"
"""The folder inside `artifacts/` by which a store is known."""


def list_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files below a folder, sorted, without those of a store of artifacts in it.

    What a command makes is none of its input, so that a folder can be read and hold the results.

    Args:
        folder: The folder.
        pattern: What the ends of their paths have to match: `*.csv`, `mmlu_pro/*test*`.
    """
    paths = sorted(folder.rglob("*"))
    homes = {path.parent for path in paths if path.name == STORE_FOLDERS[0] and holds_store(path.parent)}
    left_out = {home / name for home in homes for name in STORE_FOLDERS}
    return [
        path
        for path in paths
        if path.relative_to(folder).match(pattern)
        and path.is_file()
        and (not left_out or left_out.isdisjoint(path.parents))
    ]


def holds_store(folder: Path) -> bool:
    """Whether a command keeps its artifacts in this folder."""
    return (folder / STORE_FOLDERS[0] / STORE_LOCKS).is_dir()


def record_pattern(kind: str) -> str:
    """The glob pattern of the files of a record kind inside an artifact."""
    return f"{kind}*.jsonl"


def record_files(path: Path, *kinds: str) -> list[Path]:
    """The record files of an artifact without its validation split; a file is itself.

    Args:
        path: An artifact's folder, or a file of records.
        kinds: The record kinds that are wanted, in this order; all of them if none is named.

    Returns:
        The files of each kind in the order of their names; empty if the folder holds none.
    """
    if path.is_file():
        return [path]
    return [file for kind in kinds or RECORD_KINDS for file in sorted(path.glob(record_pattern(kind)))]


def require_record_files(path: Path, *kinds: str) -> list[Path]:
    """As `record_files`. Raises UserError if the folder holds none."""
    files = record_files(path, *kinds)
    if not files:
        expected = " / ".join(f"{kind}.jsonl" for kind in kinds or RECORD_KINDS)
        raise UserError(tr("there is no {expected} here", expected=expected), path)
    return files


def record_kind(folder: Path) -> str | None:
    """The kind of the records in an artifact's folder, or None if it holds none."""
    return next((kind for kind in RECORD_KINDS if record_files(folder, kind)), None)


def validation_file(path: Path) -> Path:
    """The validation split of a data artifact, or the file itself. Raises UserError if there is none."""
    file = path / VALIDATION_FILE if path.is_dir() else path
    if not file.is_file():
        hint = tr("set `validation_fraction` in the stage that makes it")
        raise UserError(tr("this data has no validation split"), path, hint)
    return file


def record_class(file: Path) -> type[Conversation] | type[Document]:
    """Whether a file holds conversations or documents, by its first line; its reader refuses anything else."""
    row = _first_row(file)
    return Conversation if isinstance(row, dict) and "messages" in row else Document


def holds_pairs(file: Path) -> bool:
    """Whether the records of a file are preference pairs, by its first line; its reader refuses anything else."""
    row = _first_row(file)
    return isinstance(row, dict) and "chosen" in row


def _first_row(file: Path) -> Any:
    with open_regular(file) as lines:
        first = next((line for line in lines if line.strip()), b"{}")
    try:
        return parse_json(first)
    except ValueError:
        return None


def count_records(file: Path) -> int:
    """The lines of a JSONL file that are not blank."""
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def read_unpaired_preferences(file: Path, paired: bool) -> Iterator[UnpairedPreference]:
    """The unpaired preferences of a file; if it is `paired`, the two that each preference pair amounts to."""
    if not paired:
        yield from read_jsonl(file, UnpairedPreference)
        return
    for pair in read_jsonl(file, Preference):
        yield from UnpairedPreference.of_pair(pair)


def refuse_repeated(paths: Sequence[Path], hint: str) -> None:
    """Raise UserError if a source is there twice, also by a link: what it holds would count twice, unsaid."""
    known: set[Path] = set()
    for path in paths:
        if path.resolve() in known:
            raise UserError(tr("this is named twice"), path, hint)
        known.add(path.resolve())


def read_texts(paths: Iterable[Path], validation: bool = False) -> Iterator[str]:
    """The texts of `documents` artifacts and of plain .txt and .jsonl files, in a fixed order.

    Args:
        paths: Artifacts, folders and files.
        validation: Read the validation splits of the artifacts instead of their documents; other files have none.

    Yields:
        Each line of a .txt file, the `text` of each row of a .jsonl file; other files of a folder are passed over.

    Raises:
        UserError: A file cannot be read, is not UTF-8, or a row has no `text`.
    """
    for path in paths:
        if path.is_dir():
            shards = record_files(path, "documents")
            if shards or (path / VALIDATION_FILE).is_file():
                files = [file for file in [path / VALIDATION_FILE] if file.is_file()] if validation else shards
            else:
                files = [] if validation else list_files(path)
        else:
            files = [] if validation else [path]
        for file in files:
            yield from _texts_of_file(file)


def read_word_list(path: Path) -> list[str]:
    """Read the words of a UTF-8 file: one on each line; blank lines and lines that begin with # are skipped.

    Raises:
        UserError: It cannot be read or is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(tr("not UTF-8"), path, tr("save it as UTF-8")) from error
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _texts_of_file(file: Path) -> Iterator[str]:
    if file.suffix not in (".txt", ".jsonl"):
        return
    line_number = 0
    try:
        with open_regular(file) as lines:
            for line in lines:
                line_number += 1
                text = line.decode("utf-8-sig" if line_number == 1 else "utf-8")
                if file.suffix == ".txt":
                    yield text
                elif text.strip():
                    yield _text_of_row(parse_json(text))
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), file) from error
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        hint = tr("convert other files to documents with a `corpus` stage first")
        what = tr("neither UTF-8 text nor JSON Lines with a `text` field")
        raise UserError(what, f"{file}:{line_number}", hint) from error


def _text_of_row(row: Any) -> str:
    text = row["text"]
    if not isinstance(text, str):
        raise TypeError
    return text
