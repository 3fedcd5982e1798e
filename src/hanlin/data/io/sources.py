"""Which files a stage reads, in a fixed order, and the short name of each in records and ledgers."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.discover import STORE_FOLDERS, VALIDATION_FILE, holds_store, record_files
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.files import show_file_name
from hanlin.core.i18n import tr

_ROW_SUFFIXES = frozenset((
    ".json", ".jsonl", ".ndjson", ".jl", ".jsonlines", ".csv", ".tsv", ".parquet", ".arrow", ".feather",
))  # fmt: skip
READABLE_SUFFIXES = _ROW_SUFFIXES | frozenset((".txt", ".text", ".md", ".markdown", ".html", ".htm"))
COMPRESSED_SUFFIXES = frozenset((".gz", ".bz2", ".xz", ".zst", ".zstd"))
_METADATA_FILES = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: Where it is.
        name: Short, unique in the stage, without the machine's folders, and with escapes for what is not UTF-8.
        source_index: Index of the entry of `sources` that names it.
        settings: That entry.
    """

    path: Path
    name: str
    source_index: int
    settings: Source

    @property
    def suffix(self) -> str:
        """The suffix without that of the compression, in lower case: `.jsonl` of `a.jsonl.gz`."""
        endings = [ending.lower() for ending in self.path.suffixes]
        while endings and endings[-1] in COMPRESSED_SUFFIXES:
            endings.pop()
        return endings[-1] if endings else ""


@dataclass(frozen=True, slots=True)
class FileListing:
    """`files` in the order of the sources; `skipped` are names of files in folders that are not read."""

    files: tuple[SourceFile, ...]
    skipped: tuple[str, ...]


def list_files(sources: Sequence[Source], inputs: Inputs) -> FileListing:
    """List every file of the sources; folders are walked in sorted order.

    In an artifact's folder only the training records are taken, not the validation split or the dropped rows. In a
    folder of `datasets` or of a hub, files that only describe the rows are skipped. Linked folders are not walked, so
    that no folder is walked twice or forever; they are listed as skipped.

    Args:
        sources: Entries of the setting `sources`.
        inputs: Their paths, under `sources.<index>.path`.

    Raises:
        UserError: A path does not exist, or a source has no file.
    """
    indexed_paths: list[tuple[int, Path]] = []
    skipped: list[str] = []
    for index, source in enumerate(sources):
        count_before = len(indexed_paths)
        for path in inputs.paths(f"sources.{index}.path"):
            if path.is_dir():
                for file, readable in _classify_files(_walk_folder(path)):
                    if readable:
                        indexed_paths.append((index, file))
                    else:
                        skipped.append(show_file_name(file.relative_to(path).as_posix()))
            elif path.exists():
                indexed_paths.append((index, path))
            else:
                raise UserError(tr("no such file or folder"), path, suggest_path(path), "not_found")
        if len(indexed_paths) == count_before:
            suffixes = " ".join(sorted(READABLE_SUFFIXES))
            hint = tr("readable files: {suffixes}", suffixes=suffixes)
            raise UserError(tr("there is no file to read"), source.path, hint)
    names = _make_unique_names([path for _, path in indexed_paths])
    files = tuple(
        SourceFile(path, name, index, sources[index]) for (index, path), name in zip(indexed_paths, names, strict=True)
    )
    return FileListing(files, tuple(skipped))


def list_reference_files(inputs: Inputs, file_name: str) -> list[SourceFile]:
    """List the record files of the artifacts in `dedup_against`, training and validation split, or files of records.

    Raises:
        UserError: An artifact has no file of the kind `file_name`.
    """
    paths: list[Path] = []
    for path in inputs.paths("dedup_against"):
        matches = record_files(path, Path(file_name).stem)
        if path.is_dir():
            matches += path.glob(VALIDATION_FILE)
        if not matches:
            raise UserError(tr("there is no {file_name} in this folder", file_name=file_name), path)
        paths += matches
    return [SourceFile(path, f"known-{index:05d}", 0, _ANY_SOURCE) for index, path in enumerate(paths)]


def _walk_folder(folder: Path) -> list[Path]:
    """List the files below a folder, sorted by their path as text, without hidden files and `manifest.json`."""
    records = sorted(record_files(folder))
    if records and (folder / "ledger.json").is_file():
        return records
    files = []
    for base, folders, names in os.walk(folder, onerror=_refuse_folder):
        left_out = STORE_FOLDERS if holds_store(Path(base)) else ()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in left_out)
        files += [Path(base) / name for name in names if not name.startswith(".")]
        files += [Path(base) / name for name in folders if (Path(base) / name).is_symlink()]
    files = [path for path in files if path != folder / "manifest.json"]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _refuse_folder(error: OSError) -> None:
    """Raise UserError for a folder that cannot be listed, which a walk would pass over with all its files."""
    raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), error.filename) from error


def _classify_files(files: list[Path]) -> list[tuple[Path, bool]]:
    """List each file of a folder with whether it is read: by its suffix, and unless it describes rows beside it."""
    with_rows = {file.parent for file in files if _suffix(file) in _ROW_SUFFIXES and file.name not in _METADATA_FILES}
    classified = []
    for file in files:
        is_card = file.name == "README.md" and any(file.parent in (folder, *folder.parents) for folder in with_rows)
        describes = is_card or (file.name in _METADATA_FILES and file.parent in with_rows)
        classified.append((file, _is_readable(file) and not describes and not file.is_dir()))
    return classified


def _suffix(path: Path) -> str:
    return SourceFile(path, "", 0, _ANY_SOURCE).suffix


def _is_readable(path: Path) -> bool:
    return _suffix(path) in READABLE_SUFFIXES


_ANY_SOURCE = Source(path=".")


def _make_unique_names(paths: list[Path]) -> list[str]:
    """Name each path by its shortest unique ending, with a number if a file is read twice.

    Example:
        a/x.txt, b/x.txt, b/y.txt become a/x.txt, b/x.txt, y.txt.
    """
    depth = [1] * len(paths)
    while True:
        names = [show_file_name("/".join(path.parts[-deep:])) for path, deep in zip(paths, depth, strict=True)]
        indices: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            indices.setdefault(name, []).append(index)
        clashing = [
            index
            for shared in indices.values()
            if len({paths[index] for index in shared}) > 1
            for index in shared
            if depth[index] < len(paths[index].parts)
        ]
        if not clashing:
            break
        for index in clashing:
            depth[index] += 1
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[index] = f"{name}({seen[name]})"
    return names


def find_files(paths: Sequence[str], settings: Mapping[str, Any] | None = None) -> FileListing:
    """List the files at paths, folders and globs.

    Args:
        paths: Paths, folders and globs.
        settings: Settings of a source for all of them: format, encoding, fields, limit.

    Raises:
        UserError: A path does not exist, or a glob matches nothing.
    """
    sources: list[Source] = []
    indices: dict[str, tuple[Path, ...]] = {}
    for path in paths:
        matches = (
            sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) and not Path(path).exists() else [path]
        )
        if not matches:
            raise UserError(tr("nothing matches"), path)
        for match in matches:
            indices[f"sources.{len(sources)}.path"] = (Path(match),)
            sources.append(Source(path=match, **(settings or {})))
    return list_files(sources, Inputs(indices))
