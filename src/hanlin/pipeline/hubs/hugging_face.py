"""Hugging Face and its mirrors: what is asked, and the cache that transformers and other programs read too."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hanlin.core.files import write_text
from hanlin.core.i18n import tr
from hanlin.pipeline.hubs.remote_file import RemoteFile
from hanlin.pipeline.hubs.session import HubBreakError, HubSession

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = {"model": "", "dataset": "datasets/"}


def resolve_revision(session: HubSession, name: str, kind: str, revision: str) -> str:
    """The commit of a branch, a tag or a short commit; raises as `HubSession.fetch_json`."""
    data, _ = session.fetch_json(f"/api/{kind}s/{name}/revision/{quote(revision, safe='')}")
    commit = data.get("sha") if isinstance(data, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise HubBreakError(tr("the answer names no commit"))
    return commit


def list_files(session: HubSession, name: str, kind: str, commit: str) -> list[RemoteFile]:
    """The files of a commit, page by page; raises as `HubSession.fetch_json`."""
    files: list[RemoteFile] = []
    path = f"/api/{kind}s/{name}/tree/{commit}?recursive=true&expand=false"
    while path:
        rows, path = session.fetch_json(path)
        if not isinstance(rows, list):
            raise HubBreakError(tr("the answer is no list of files"))
        files += [_read_row(row) for row in rows if isinstance(row, dict) and row.get("type") == "file"]
    return files


def _read_row(row: dict[str, Any]) -> RemoteFile:
    large = row.get("lfs")
    try:
        if isinstance(large, dict):
            digest = str(large.get("oid") or large["sha256"]).removeprefix("sha256:")
            return RemoteFile(str(row["path"]), int(large["size"]), "sha256", digest)
        return RemoteFile(str(row["path"]), int(row["size"]), "git", str(row["oid"]))
    except (KeyError, TypeError, ValueError) as error:
        raise HubBreakError(tr("the answer is no list of files")) from error


def file_url(session: HubSession, name: str, kind: str, commit: str, path: str) -> str:
    """Where a file of a commit is."""
    return f"{session.endpoint.url}/{_PREFIX[kind]}{name}/resolve/{commit}/{quote(path)}"


def cache_folder() -> Path:
    """The cache of Hugging Face's library (`HF_HUB_CACHE`, `HF_HOME`)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def repository_folder(name: str, kind: str) -> Path:
    """Where the cache keeps a repository."""
    return cache_folder() / f"{kind}s--{name.replace('/', '--')}"


def partial_path(folder: Path, commit: str, file: RemoteFile) -> Path:
    """Where the bytes of a file are kept until they are whole; the library's own programs clean it up too."""
    return folder / "blobs" / f"{file.digest}.incomplete"


def whole_path(folder: Path, commit: str, file: RemoteFile) -> Path | None:
    """Where the cache has a file already, if it does."""
    candidates = (folder / "blobs" / file.digest, folder / "snapshots" / commit / file.path)
    return next((path for path in candidates if path.is_file()), None)


def place(source: Path, folder: Path, commit: str, file: RemoteFile) -> None:
    """Show a whole file under its name: a link to the blob, or the file itself on systems without links."""
    blob, target = folder / "blobs" / file.digest, folder / "snapshots" / commit / file.path
    if source == target:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if source != blob:
        os.replace(source, blob)
    try:
        target.symlink_to(os.path.relpath(blob, target.parent))
    except OSError:  # Windows without the right to make links
        os.replace(blob, target)


def note_revision(folder: Path, revision: str, commit: str) -> None:
    """Keep which commit a branch or tag is now, as other programs look it up."""
    if revision and revision != commit:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        write_text(folder / "refs" / revision, commit)
