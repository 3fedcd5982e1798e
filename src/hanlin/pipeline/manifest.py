"""The manifest of an artifact: kind, settings, inputs, files, metrics and package versions; keys and digests."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from hanlin.core.errors import UserError
from hanlin.core.files import FileState, changed_while_read, file_state, open_regular, parse_json, write_text
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import check_relative_path, describe_name_problem, show_name
from hanlin.core.version import __version__

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 256 << 20
"""Largest manifest that is read; one that names a million source files has about 150 MB."""


_KEY_DIGITS = 16
_CHUNK_BYTES = 1 << 20
_CLOCK_TICK_NS = 20_000_000
"""Twice the coarsest clock that file systems on Linux stamp files with (100 Hz)."""


def canonical_json(data: Any) -> bytes:
    """The JSON text of data, equal for equal data, in UTF-8."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def compute_key(kind: str, version: int, settings: Mapping[str, Any], seed: int, inputs: list[tuple[str, str]]) -> str:
    """The key of a result, which is known before it is made.

    Args:
        kind: The stage kind.
        version: Its version.
        settings: The settings that affect the key.
        seed: The recipe's seed.
        inputs: For each reference its field and the key of what it leads to, in order.

    Returns:
        16 hexadecimal digits.
    """
    row = {"kind": kind, "version": version, "settings": settings, "seed": seed, "inputs": inputs}
    return hashlib.sha256(canonical_json(row)).hexdigest()[:_KEY_DIGITS]


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    return hash_file(path)[0]


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> tuple[str, FileState]:
    """Hash a file.

    Args:
        path: The file.
        on_bytes: Called with the number of bytes of each chunk.

    Returns:
        The SHA-256 of its bytes in hexadecimal, and the state that it had while it was read: any later change of the
        bytes gives another state.

    Raises:
        UserError: It was changed while it was read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        state = file_state(os.fstat(file.fileno()))
        # a change within the same tick of the file system's clock would leave the state as it is
        age = time.time_ns() - max(state.mtime_ns, state.ctime_ns)
        if 0 <= age < _CLOCK_TICK_NS:
            time.sleep((_CLOCK_TICK_NS - age) / 1e9)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
        if file_state(os.fstat(file.fileno())) != state or file_state(path.stat()) != state:
            raise changed_while_read(path)
    return digest.hexdigest(), state


def digest_files(files: list[FileEntry]) -> str:
    """One SHA-256 over the paths, sizes and contents of files, whatever their order."""
    rows = sorted([entry.path, entry.bytes, entry.sha256] for entry in files)
    return hashlib.sha256(canonical_json(rows)).hexdigest()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of an artifact, or one that a stage read; `path` is relative, with forward slashes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InputEntry:
    """What a stage read through one reference: an artifact (`artifact` is its folder's name) or local files.

    `reference` is the text in the recipe, kept for people; the key does not depend on it. `commit` is the commit of a
    hub's repository that was read: a reference may name a branch, which moves.
    """

    field: str
    reference: str
    key: str
    digest: str
    artifact: str = ""
    inside: str = ""
    files: tuple[FileEntry, ...] = ()
    license: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of an artifact. `settings` are all settings, `key_settings` those that affect the key."""

    kind: str
    type: str
    version: int
    key: str
    digest: str
    settings: Mapping[str, Any]
    seed: int
    inputs: tuple[InputEntry, ...]
    files: tuple[FileEntry, ...]
    metrics: Mapping[str, Any]
    made_by: Mapping[str, Any]
    started: str
    finished: str
    seconds: float
    key_settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: Any) -> Self:
        """The manifest of JSON data. Raises ManifestError if it is none, or one with fields that are not known."""
        values = _typed(cls, row, "")
        files = tuple(_read_file_entry(entry, f"files.{index}") for index, entry in enumerate(values["files"]))
        for entry in files:
            check_relative_path(entry.path, MANIFEST)
        inputs = tuple(_read_input_entry(entry, f"inputs.{index}") for index, entry in enumerate(values["inputs"]))
        problem = describe_name_problem(f"{values['kind']}-{values['key']}")
        if problem is not None:
            raise ManifestError(f"key: {problem}")
        return cls(**{**values, "files": files, "inputs": inputs})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def folder_name(self) -> str:
        return f"{self.kind}-{self.key}"


class ManifestError(ValueError):
    """Data that is not a manifest; `newer` if it has fields that only a later version can have written."""

    def __init__(self, what: str, newer: bool = False) -> None:
        super().__init__(what)
        self.newer = newer


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "Mapping[str, Any]": (dict,),
    "tuple[InputEntry, ...]": (list,),
    "tuple[FileEntry, ...]": (list,),
}
"""What JSON has for each type of a field."""


def _typed(cls: type[Any], row: Any, where: str) -> dict[str, Any]:
    """The values of a dataclass in JSON data, each of the type that its field has."""
    prefix = f"{where}." if where else ""
    if not isinstance(row, dict):
        raise ManifestError(f"{where or MANIFEST}: {tr('not a JSON object')}")
    known = {item.name: item for item in fields(cls)}
    unknown = [show_name(name) for name in row if name not in known]
    if unknown:
        raise ManifestError(prefix + join_list(unknown[:3]), newer=True)
    for name, item in known.items():
        if name not in row:
            if item.default is MISSING and item.default_factory is MISSING:
                raise ManifestError(tr("{name} is missing", name=prefix + name))
        elif not isinstance(row[name], _TYPES[str(item.type)]) or isinstance(row[name], bool):
            raise ManifestError(tr("{name} is of another type", name=prefix + name))
    return dict(row)


def _read_file_entry(row: Any, where: str) -> FileEntry:
    return FileEntry(**_typed(FileEntry, row, where))


def _read_input_entry(row: Any, where: str) -> InputEntry:
    values = _typed(InputEntry, row, where)
    if values.get("artifact") and describe_name_problem(values["artifact"]):
        raise ManifestError(f"{where}.artifact: {describe_name_problem(values['artifact'])}")
    entries = values.get("files", [])
    files = tuple(_read_file_entry(item, f"{where}.files.{index}") for index, item in enumerate(entries))
    return InputEntry(**{**values, "files": files})


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an artifact folder, or None if it has none.

    Raises:
        UserError: It cannot be read: damaged, of odd types, or written by a newer version.
    """
    file = folder / MANIFEST
    try:
        with open_regular(file) as opened:
            data = opened.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):  # the second: the store is below a file, told when it is made
        return None
    except OSError as error:
        raise UserError(tr("the manifest cannot be read"), file, error.strerror) from error
    except UserError as error:  # a FIFO or a folder
        raise UserError(tr("the manifest cannot be read"), file, error.what) from error
    row: Any = None
    try:
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(tr("larger than {limit} MB", limit=MAX_MANIFEST_BYTES >> 20))
        row = parse_json(data.decode("utf-8"))
        return Manifest.from_json(row)
    except ManifestError as error:
        version = _newer_version(row)
        if error.newer or version:
            names = {"version": version, "own": __version__, "fields": error}
            what = (
                tr("made by a newer Hanlin ({version}); {own} does not know: {fields}", **names)
                if version
                else tr("made by another version of Hanlin; {own} does not know: {fields}", **names)
            )
            hint = tr("update Hanlin, or make it again with this version in another home")
            raise UserError(what, file, hint) from error
        raise _damaged(file, str(error)) from error
    except UserError as error:
        raise _damaged(file, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)[:200]) from error


def _newer_version(row: Any) -> str:
    """The version of Hanlin that made an artifact, if it is newer than this one."""
    made_by = row.get("made_by") if isinstance(row, dict) else None
    version = made_by.get("hanlin") if isinstance(made_by, dict) else None
    if not isinstance(version, str):
        return ""
    numbers = [int(part) for part in version.split(".")[:3] if part.isdecimal() and len(part) < 9]
    own = [int(part) for part in __version__.split(".")[:3] if part.isdecimal()]
    return show_name(version, 20)[1:-1] if numbers > own else ""


def _damaged(file: Path, problem: str) -> UserError:
    hint = tr("move this artifact's folder away and run again")
    return UserError(tr("the manifest cannot be read: {problem}", problem=problem), file, hint)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into an artifact folder; it survives a crash of the machine."""
    text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=1)
    write_text(folder / MANIFEST, text, fsync=True)


def refresh_manifest(folder: Path) -> None:
    """Hash the files of a copied artifact again, after a path in one of them was changed."""
    manifest = read_manifest(folder)
    assert manifest is not None
    files = tuple(
        FileEntry(entry.path, (folder / entry.path).stat().st_size, sha256_file(folder / entry.path))
        for entry in manifest.files
    )
    renewed = replace(manifest, files=files, digest=digest_files(list(files)))
    write_manifest(folder, renewed)
