"""Data sets that lm-evaluation-harness's task files name by their place on the hub, found in a local folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hanlin.config.reasons import describe_reason
from hanlin.config.settings.sources import Source
from hanlin.config.yaml_text import load_yaml
from hanlin.core.discover import list_files
from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from hanlin.evaluate.harness.columns import CHOSEN_BY_TASK_FILE, find_local_task
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.items import read_items

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".gz")
FILE_BUILDERS = ("json", "csv", "parquet", "arrow", "text")
"""Names that stand for files in `dataset_kwargs.data_files`, not for a data set of the hub."""
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "val",
    "dev": "dev",
    "test": "test",
    "eval": "test",
}
_ALIASES = {"validation": ("val", "dev"), "val": ("validation", "dev"), "dev": ("validation", "val")}
"""Splits that are called otherwise in some copies of a data set."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class LocalData:
    """The rows of a data set.

    Attributes:
        splits: Rows by the name of their split.
        is_converted: Whether they are questions of a task of ours in the columns of the data set.
        is_processed: Whether the columns are what a task file's `process_docs` would make.
    """

    splits: Mapping[str, Rows]
    is_converted: bool = False
    is_processed: bool = False


def find_data_set(path: str, name: str, data: Path, *, data_files: Any = None) -> LocalData | None:
    """The rows of a data set in the data folder.

    It is looked for in this order: the files that the task file names; a folder `datasets--OWNER--NAME` (the hub's
    cache), `OWNER/NAME` or `OWNER--NAME`; the files of a task of ours, in its authors' layout; a folder `NAME`.

    Args:
        path: Its place on the hub, `owner/name`; or a kind of file of `FILE_BUILDERS`.
        name: Its configuration; empty: it has one only.
        data: The data folder.
        data_files: Of a task file with files of its own: their names below the data folder, by split.

    Returns:
        Its rows; None if it is not there.

    Raises:
        UserError: A file is damaged, or named outside the data folder.
    """
    if path in FILE_BUILDERS:
        return LocalData(_read_named_files(data_files, data)) if data_files else None
    owner, _, base = path.rpartition("/")
    found = _read_folders(_owned_folders(owner, base, data), name) if owner else None
    return found or _convert_local_task(path, name, data) or _read_folders([data / base], name)


def describe_places(path: str) -> str:
    """Where a data set is looked for, for a hint."""
    owner, _, name = path.rpartition("/")
    return join_list([f"{owner}/{name}/", f"{owner}--{name}/", f"{name}/"] if owner else [f"{name}/"])


def resolve_split(data: LocalData, split: str) -> Rows | None:
    """The rows of a split, or of what some copies call it; None if there are none."""
    for other in (split, *_ALIASES.get(split, ())):
        if other in data.splits:
            return data.splits[other]
    return None


# --- folders of a data set --------------------------------------------------------------------------------------------


def _owned_folders(owner: str, name: str, data: Path) -> list[Path]:
    own = f"datasets--{owner}--{name}"
    if data.parent.name == "snapshots" and data.parent.parent.name.lower() == own.lower():  # the data set itself
        return [data]
    cached = sorted((data / own / "snapshots").glob("*")) if (data / own / "snapshots").is_dir() else []
    return [*cached[-1:], data / owner / name, data / f"{owner}--{name}"]


def _read_folders(folders: Sequence[Path], name: str) -> LocalData | None:
    for folder in folders:
        files = _files_of(folder, name) if folder.is_dir() else {}
        if files:
            return LocalData({split: _read_files(paths) for split, paths in files.items()})
    return None


def _files_of(folder: Path, name: str) -> dict[str, list[Path]]:
    """The files of a configuration by split: as the data set's card says, else by the names of folders and files."""
    configurations = _read_card(folder)
    if configurations:
        if name and name not in configurations:
            what = tr("this data set has no configuration '{name}'", name=name)
            raise UserError(what, folder, tr("it has {names}", names=join_list(sorted(configurations)[:20])))
        patterns = configurations[name or next(iter(configurations))]
        files = {split: _glob(folder, globs) for split, globs in patterns.items()}
        return {split: some for split, some in files.items() if some}
    roots = [folder / name, folder / "data" / name] if name else [folder]
    root = next((root for root in roots if root.is_dir()), None)
    if root is None:
        found = _files_called(name, folder)
    else:
        found = _data_files(root)
    by_split: dict[str, list[Path]] = {}
    for path in found:
        by_split.setdefault(_split_of(path, folder), []).append(path)
    return by_split


def _files_called(name: str, folder: Path) -> list[Path]:
    """The files of a configuration by the words of their names and folders: `ARC-Easy-Train.jsonl` is of `ARC-Easy`.

    Files called by nothing but the configuration and a split come before those with other words: of C-Eval, `logic` is
    `logic_test.csv`, and neither `ideological_and_moral_cultivation_test.csv` nor `formal_logic_test.csv`.
    """
    wanted = _words(name)
    if not wanted:
        return []
    exact: list[Path] = []
    others: list[Path] = []
    for path in _data_files(folder):
        parts = [_words(part) for part in (*path.parent.relative_to(folder).parts, path.name.partition(".")[0])]
        if wanted in ([word for word in words if word not in _SPLIT_WORDS and not word.isdigit()] for words in parts):
            exact.append(path)
        elif any(wanted == words[at : at + len(wanted)] for words in parts for at in range(len(words))):
            others.append(path)
    return exact or others


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in list_files(folder)
        if path.suffix in SUFFIXES and path.name not in ("dataset_infos.json", "dataset_info.json")
    )


def _split_of(path: Path, folder: Path) -> str:
    """The split that a file's name or one of its folders says; `train` if none does, as the hub's library takes it."""
    parts = path.relative_to(folder).parts
    for part in reversed(parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return "train"


def _read_card(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Patterns of files by configuration and split, from the head of `README.md`; empty if it says nothing."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    match = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        head, _ = load_yaml(match[1]) if match else ({}, None)
    except yaml.YAMLError:
        return {}
    rows = head.get("configs") if isinstance(head, Mapping) else None
    configurations: dict[str, dict[str, list[str]]] = {}
    for row in rows if isinstance(rows, list) else ():
        files = row.get("data_files") if isinstance(row, Mapping) else None
        if isinstance(files, str):
            files = [{"split": "train", "path": files}]
        splits: dict[str, list[str]] = {}
        for entry in files if isinstance(files, list) else ():
            if isinstance(entry, Mapping) and isinstance(entry.get("split"), str):
                paths = entry.get("path")
                splits[entry["split"]] = [paths] if isinstance(paths, str) else [str(path) for path in paths or ()]
        if splits:
            configurations[str(row.get("config_name", "default"))] = splits
    return configurations


def _glob(folder: Path, patterns: Sequence[str]) -> list[Path]:
    files = [path for pattern in patterns for path in _glob_one(folder, pattern.lstrip("/")) if path.is_file()]
    return [
        path for path in dict.fromkeys(files) if path.resolve().is_relative_to(folder.resolve()) or path.is_symlink()
    ]


def _glob_one(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError, OSError):  # of a card: an empty pattern, or one that is none
        return []


# --- rows -------------------------------------------------------------------------------------------------------------


def _read_named_files(data_files: Any, data: Path) -> dict[str, Rows]:
    """The files that a task file names, by split."""
    named = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    splits = {}
    for split, names in named.items():
        paths = []
        for name in [names] if isinstance(names, str) else list(names):
            path = data / name
            if not path.resolve().is_relative_to(data.resolve()):
                raise UserError(tr("a file of a task lies outside the data folder"), name)
            if not path.is_file():
                raise UserError(tr("there is no such file or folder"), path, code="not_found")
            paths.append(path)
        splits[str(split)] = _read_files(paths)
    return splits


def _read_files(paths: Sequence[Path]) -> Rows:
    rows: Rows = []
    for path in paths:
        source = SourceFile(path, path.name, 0, Source(path=str(path)))
        layout = detect_layout(source)
        own: Rows = []
        with InputFile(path) as file:
            for row in read_rows(source, layout, file):
                location = f"{path}:{row.line}"
                if isinstance(row.value, Drop):
                    raise UserError(f"{describe_reason(row.value.reason)} ({row.value.detail})", location)
                if not isinstance(row.value, Mapping):
                    raise UserError(tr("not a JSON object"), location)
                own.append(dict(row.value))
        rows += _with_numbers(own) if layout.container in ("csv", "tsv") else own
    return rows


def _with_numbers(rows: Rows) -> Rows:
    """Rows of a table of text whose columns of whole numbers are numbers, as every reader of tables takes them."""
    names = {name for row in rows for name in row}
    numbers = [
        name
        for name in names
        if all(isinstance(row.get(name), str) and re.fullmatch(r"-?\d{1,18}", row[name].strip()) for row in rows)
    ]
    return [{**row, **{name: int(row[name]) for name in numbers}} for row in rows]


def _convert_local_task(path: str, name: str, data: Path) -> LocalData | None:
    """The questions of a task of ours in the columns of a data set, as split `test`; worked examples as `train`."""
    local = find_local_task(path, name)
    if local is None:
        return None
    task, subject, convert = local
    try:
        items = read_items(task, packaged_tasks()[task], data, subjects=(subject,) if subject else ())
    except UserError as error:
        if Path(re.sub(r":\d+$", "", error.where or "")).suffix in SUFFIXES:  # a file is there, and damaged
            raise
        return None
    asked = {item.id for item in items.questions}  # a task of ours without worked examples lends its other questions
    examples = [item for item in items.examples.get(subject, items.examples.get("", ())) if item.id not in asked]
    splits = {"test": [convert(item) for item in items.questions]}
    if examples:
        splits["train"] = [convert(item) for item in examples]
    return LocalData(splits, is_converted=True, is_processed=path not in CHOSEN_BY_TASK_FILE)
