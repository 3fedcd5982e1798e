"""ModelScope: what is asked, and the cache that its own library reads too.

Source: `modelscope-hub` 0.5.1 (`_legacy_api.py`, `_download.py`) and `modelscope` 1.30 (`list_repo_commits`), whose
addresses and answers these are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hanlin.core.files import write_text
from hanlin.core.i18n import tr
from hanlin.pipeline.hubs.remote_file import RemoteFile
from hanlin.pipeline.hubs.session import HubBreakError, HubSession, HubStatusError

DEFAULT_REVISION = "master"
LISTING_LIMIT = 3000
"""Entries after which the hub cuts off a listing of a model's files, without saying so."""
_PAGE_SIZE = 200
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_revision(session: HubSession, name: str, kind: str, revision: str) -> str:
    """The commit of a branch, a tag or a short commit; raises as `HubSession.fetch_json`."""
    query = {"Ref": revision, "PageNumber": 1, "PageSize": 1}
    rows = _data(session, f"/api/v1/{kind}s/{name}/commits", query, "Commit")
    if not rows:  # it answers so, and not with 404
        raise HubStatusError(404, "RevisionNotFound")
    commit = str(rows[0].get("Id", ""))
    if not _COMMIT.fullmatch(commit):
        raise HubBreakError(tr("the answer names no commit"))
    return commit


def list_files(session: HubSession, name: str, kind: str, commit: str) -> list[RemoteFile]:
    """The files of a commit; raises as `HubSession.fetch_json`."""
    rows = (_list_pages if kind == "dataset" else _list_folders)(session, name, commit)
    return [_read_row(row) for row in rows if row.get("Type", "blob") == "blob"]


def _list_pages(session: HubSession, name: str, commit: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    page = 1
    while True:
        query = {"Revision": commit, "Recursive": "True", "PageNumber": page, "PageSize": _PAGE_SIZE}
        more = _data(session, f"/api/v1/datasets/{name}/repo/tree", query, "Files")
        if more and rows and more[-1] == rows[-1]:  # a mirror that gives the first page for every one
            raise HubBreakError(tr("the answer is no list of files"))
        rows += more
        if len(more) < _PAGE_SIZE:
            return rows
        page += 1


def _list_folders(session: HubSession, name: str, commit: str, root: str = "") -> list[Mapping[str, Any]]:
    """The listing of a folder with all below it; of one that is cut off, folder by folder."""
    query = {"Revision": commit, "Recursive": "True", **({"Root": root} if root else {})}
    address = f"/api/v1/models/{name}/repo/files"
    rows = _data(session, address, query, "Files")
    if len(rows) < LISTING_LIMIT:
        return rows
    shallow = _data(session, address, {**query, "Recursive": "False"}, "Files")
    if len(shallow) >= LISTING_LIMIT:
        raise HubBreakError(tr("the hub lists no more than {limit} files of a folder", limit=LISTING_LIMIT))
    below = [row for row in shallow if row.get("Type") == "tree"]
    files = [row for row in shallow if row.get("Type") != "tree"]
    return files + [row for folder in below for row in _list_folders(session, name, commit, str(folder["Path"]))]


def _data(session: HubSession, path: str, query: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    answer, _ = session.fetch_json(path, **query)
    if isinstance(answer, dict) and answer.get("Success") is False:  # an error that came with status 200
        code = answer.get("Code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 400
        raise HubStatusError(status, message=session.hide_token(str(answer.get("Message", "")))[:200])
    data = answer.get("Data") if isinstance(answer, dict) else None
    rows = data.get(field) if isinstance(data, dict) else data
    if rows is None and isinstance(data, dict):
        return []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise HubBreakError(tr("the answer is no list of files"))
    return rows


def _read_row(row: Mapping[str, Any]) -> RemoteFile:
    try:
        digest = str(row.get("Sha256") or "").lower()
        return RemoteFile(str(row["Path"]), int(row["Size"]), "sha256" if digest else "", digest)
    except (KeyError, TypeError, ValueError) as error:
        raise HubBreakError(tr("the answer is no list of files")) from error


def file_url(session: HubSession, name: str, kind: str, commit: str, path: str) -> str:
    """Where a file of a commit is."""
    query = urlencode({"Revision": commit, "FilePath": path})
    return f"{session.endpoint.url}/api/v1/{kind}s/{name}/repo?{query}"


def cache_folder() -> Path:
    """The cache of ModelScope's library (`MODELSCOPE_CACHE`)."""
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()


def repository_folder(name: str, kind: str) -> Path:
    """Where the cache keeps a repository."""
    return cache_folder() / f"{kind}s" / name.replace("/", "--")


def partial_path(folder: Path, commit: str, file: RemoteFile) -> Path:
    """Where the bytes of a file are kept until they are whole, named as by ModelScope's library."""
    target = folder / "snapshots" / commit / file.path
    return target.with_name(f"{target.name}.incomplete")


def whole_path(folder: Path, commit: str, file: RemoteFile) -> Path | None:
    """Where the cache has a file already, if it does."""
    target = folder / "snapshots" / commit / file.path
    return target if target.is_file() else None


def place(source: Path, folder: Path, commit: str, file: RemoteFile) -> None:
    """Show a whole file under its name."""
    target = folder / "snapshots" / commit / file.path
    if source != target:
        os.replace(source, target)


def note_revision(folder: Path, revision: str, commit: str) -> None:
    """Keep which commit a branch or tag is now."""
    if revision and revision != commit:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        write_text(folder / "refs" / revision, commit)
