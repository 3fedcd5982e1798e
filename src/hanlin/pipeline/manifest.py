"""The manifest of an artifact: settings, inputs, files, metrics; keys and digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hanlin.core.errors import UserError
from hanlin.core.i18n import say

MANIFEST = "manifest.json"


_KEY_DIGITS = 16


def canonical(data: Any) -> bytes:
    """JSON with one spelling for equal data."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def key_of(kind: str, version: int, settings: Mapping[str, Any], seed: int, inputs: list[tuple[str, str]]) -> str:
    """The name of a result before it is made: what kind, how set, with which seed, from what (`inputs`: field, key)."""
    row = {"kind": kind, "version": version, "settings": settings, "seed": seed, "inputs": inputs}
    return hashlib.sha256(canonical(row)).hexdigest()[:_KEY_DIGITS]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: list[FileEntry]) -> str:
    """One hash over names, sizes and contents; the order of the list does not count."""
    rows = sorted([entry.path, entry.bytes, entry.sha256] for entry in files)
    return hashlib.sha256(canonical(rows)).hexdigest()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file inside an artifact or among a stage's sources; `path` is relative, with forward slashes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InputEntry:
    """What a stage read through one reference: an artifact (`artifact` is its folder's name) or local files.

    `reference` is the text in the recipe, kept for people; it counts for nothing.
    """

    field: str
    reference: str
    key: str
    digest: str
    artifact: str = ""
    inside: str = ""
    files: tuple[FileEntry, ...] = ()
    license: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is known of an artifact. `settings` are all of them, also those that do not count in the key."""

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
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        files = tuple(FileEntry(**entry) for entry in row["files"])
        inputs = tuple(
            InputEntry(**{**entry, "files": tuple(FileEntry(**item) for item in entry["files"])})
            for entry in row["inputs"]
        )
        return cls(**{**row, "files": files, "inputs": inputs})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def folder_name(self) -> str:
        return f"{self.kind}-{self.key}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an artifact folder, or None where there is none."""
    try:
        return Manifest.from_json(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = say("delete this artifact's folder and run again", "请删除该产物文件夹后重新运行")
        raise UserError(say("the manifest cannot be read", "清单文件无法读取"), folder / MANIFEST, hint) from error


def refresh_manifest(folder: Path) -> None:
    """Hash the files of a copied artifact again, after a path in one of them was set to its new place."""
    manifest = read_manifest(folder)
    assert manifest is not None
    files = tuple(
        FileEntry(entry.path, (folder / entry.path).stat().st_size, sha256_of(folder / entry.path))
        for entry in manifest.files
    )
    renewed = replace(manifest, files=files, digest=digest_of(list(files)))
    text = json.dumps(renewed.to_json(), ensure_ascii=False, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
