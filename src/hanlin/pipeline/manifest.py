"""The manifest of an artifact: kind, settings, inputs, files, metrics and package versions; keys and digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hanlin.core.errors import UserError
from hanlin.core.files import write_text
from hanlin.core.i18n import tr

MANIFEST = "manifest.json"


_KEY_DIGITS = 16


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    `reference` is the text in the recipe, kept for people; the key does not depend on it.
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
    """The manifest of an artifact folder, or None if it has none. Raises UserError if it cannot be read."""
    try:
        return Manifest.from_json(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = tr("delete this artifact's folder and run again")
        raise UserError(tr("the manifest cannot be read"), folder / MANIFEST, hint) from error


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
