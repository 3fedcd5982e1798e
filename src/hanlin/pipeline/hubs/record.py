"""What is known of a repository that was fetched: its files as the hub listed them, and the states of verified ones.

It lies in the folder `.hanlin` of the repository's folder in the cache, which other programs pass over, and holds no
token and no address but the hub's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.files import FileState, file_state, read_json, write_json
from hanlin.pipeline.hubs.remote_file import RemoteFile, check_remote_path

FOLDER = ".hanlin"
_LIMIT = 256 << 20


@dataclass(slots=True)
class Record:
    """The record of one commit.

    Attributes:
        files: All files of the commit as the hub listed them, by path.
        states: The state in which a file was found to be what the hub listed, by path.
    """

    files: dict[str, RemoteFile]
    states: dict[str, FileState] = field(default_factory=dict)

    def is_verified(self, snapshot: Path, file: RemoteFile) -> bool:
        """Whether a file is there in the state in which it was verified."""
        try:
            return self.states.get(file.path) == file_state(os.stat(snapshot / file.path))
        except OSError:
            return False

    def has_all(self, snapshot: Path, files: Iterable[RemoteFile]) -> bool:
        """Whether all these files are there as they were verified."""
        return all(self.is_verified(snapshot, file) for file in files)


def record_path(folder: Path, commit: str) -> Path:
    """Where the record of a commit is kept in the folder of a repository."""
    return folder / FOLDER / f"{commit}.json"


def read_record(folder: Path, commit: str) -> Record | None:
    """The record of a commit; None if there is none, or if it cannot be read: then it is made again."""
    try:
        row = read_json(record_path(folder, commit), _LIMIT)
        files = [RemoteFile(*item) for item in row["files"]]
        for file in files:
            check_remote_path(file.path, "")
        states = {str(path): FileState(*state) for path, state in row["verified"].items()}
        return Record({file.path: file for file in files}, states)
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None


def write_record(folder: Path, commit: str, record: Record) -> None:
    """Write the record of a commit."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    row = {"files": [list(file) for file in record.files.values()], "verified": record.states}
    write_json(record_path(folder, commit), row, indent=None)
