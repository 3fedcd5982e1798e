"""Which files a stage reads, in a fixed order, and what each is called in records and ledgers.

Owns the walk through folders. Does not own what is in the files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.discover import VALIDATION_FILE, record_files
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.text.lexicons import words

READABLE_SUFFIXES = words(
    ".txt .text .md .markdown .html .htm .json .jsonl .ndjson .jl .jsonlines .csv .tsv .parquet .arrow .feather"
)
_ROW_SUFFIXES = words(".json .jsonl .ndjson .jl .jsonlines .csv .tsv .parquet .arrow .feather")
_METADATA_FILES = words("dataset_info.json dataset_infos.json dataset_dict.json state.json")
COMPRESSED_SUFFIXES = words(".gz .bz2 .xz .zst .zstd")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read. `name` is short, without the machine's folders, and no two files of a stage share one."""

    path: Path
    name: str
    source_index: int
    settings: Source

    @property
    def suffix(self) -> str:
        """The ending that tells what is inside, in lower case: `.jsonl` of `a.jsonl.gz`."""
        endings = [ending.lower() for ending in self.path.suffixes]
        while endings and endings[-1] in COMPRESSED_SUFFIXES:
            endings.pop()
        return endings[-1] if endings else ""


@dataclass(frozen=True, slots=True)
class FileListing:
    """`files` in the order of the sources; `skipped` are names found in folders that no reader is made for."""

    files: tuple[SourceFile, ...]
    skipped: tuple[str, ...]


def list_files(sources: Sequence[Source], inputs: Inputs) -> FileListing:
    """Every file that the sources name: folders are walked in sorted order, packed files count by what is inside.

    In an artifact's folder only the records to learn from are taken, not the held-out or dropped ones. In a folder of
    `datasets` or of a hub, what only describes the rows is skipped. Linked folders are not walked, so that no folder
    is walked twice or forever; they are told among the skipped.
    Raises UserError for a path that is not there and for a source without a file.
    """
    found: list[tuple[int, Path]] = []
    skipped: list[str] = []
    for place, source in enumerate(sources):
        before = len(found)
        for path in inputs.paths(f"sources.{place}.path"):
            if path.is_dir():
                for file, readable in _classify_files(_walk_folder(path)):
                    if readable:
                        found.append((place, file))
                    else:
                        skipped.append(file.relative_to(path).as_posix())
            elif path.exists():
                found.append((place, path))
            else:
                raise UserError(say("no such file or folder", "文件或文件夹不存在"), path)
        if len(found) == before:
            hint = say(
                f"readable are {' '.join(sorted(READABLE_SUFFIXES))}", f"可读取：{' '.join(sorted(READABLE_SUFFIXES))}"
            )
            raise UserError(say("there is no file to read", "没有可读取的文件"), source.path, hint)
    names = _make_unique_names([path for _, path in found])
    files = tuple(
        SourceFile(path, name, place, sources[place]) for (place, path), name in zip(found, names, strict=True)
    )
    return FileListing(files, tuple(skipped))


def list_reference_files(inputs: Inputs, file_name: str) -> list[SourceFile]:
    """The records of the artifacts in `dedup_against`, those to learn from and the held-out ones; or a file of them."""
    paths: list[Path] = []
    for path in inputs.paths("dedup_against"):
        found = record_files(path, Path(file_name).stem)
        if path.is_dir():
            found += path.glob(VALIDATION_FILE)
        if not found:
            raise UserError(say(f"there is no {file_name} in it", f"其中没有 {file_name}"), path)
        paths += found
    return [SourceFile(path, f"known-{number:05d}", 0, _ANY_SOURCE) for number, path in enumerate(paths)]


def _walk_folder(folder: Path) -> list[Path]:
    """Files below a folder, sorted by their path as text; hidden ones and those that only describe are left out."""
    records = sorted(record_files(folder))
    if records and (folder / "ledger.json").is_file():
        return records
    files = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(base) / name for name in names if not name.startswith(".")]
        files += [Path(base) / name for name in folders if (Path(base) / name).is_symlink()]
    files = [path for path in files if path != folder / "manifest.json"]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _classify_files(files: list[Path]) -> list[tuple[Path, bool]]:
    """Each file of a folder, and whether it is to be read: by its name, and not beside the rows that it describes."""
    with_rows = {file.parent for file in files if _suffix(file) in _ROW_SUFFIXES and file.name not in _METADATA_FILES}
    sorted_out = []
    for file in files:
        card = file.name == "README.md" and any(file.parent in (folder, *folder.parents) for folder in with_rows)
        describes = card or (file.name in _METADATA_FILES and file.parent / "state.json" in files)
        sorted_out.append((file, _is_readable(file) and not describes and not file.is_dir()))
    return sorted_out


def _suffix(path: Path) -> str:
    return SourceFile(path, "", 0, _ANY_SOURCE).suffix


def _is_readable(path: Path) -> bool:
    return _suffix(path) in READABLE_SUFFIXES


_ANY_SOURCE = Source(path=".")


def _make_unique_names(paths: list[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart, with a number where a file is read twice."""
    depth = [1] * len(paths)
    while True:
        names = ["/".join(path.parts[-deep:]) for path, deep in zip(paths, depth, strict=True)]
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place)
        clashing = [
            place
            for shared in places.values()
            if len({paths[place] for place in shared}) > 1
            for place in shared
            if depth[place] < len(paths[place].parts)
        ]
        if not clashing:
            break
        for place in clashing:
            depth[place] += 1
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[place] = f"{name}({seen[name]})"
    return names


def find_files(paths: Sequence[str], settings: Mapping[str, Any] | None = None) -> FileListing:
    """The files at these paths, folders and globs; `settings` are those of a source (format, encoding, fields, limit).

    Raises UserError where there is none.
    """
    sources: list[Source] = []
    places: dict[str, tuple[Path, ...]] = {}
    for path in paths:
        found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) and not Path(path).exists() else [path]
        if not found:
            raise UserError(say("nothing matches", "没有匹配的文件"), path)
        for one in found:
            places[f"sources.{len(sources)}.path"] = (Path(one),)
            sources.append(Source(path=one, **(settings or {})))
    return list_files(sources, Inputs(places))
