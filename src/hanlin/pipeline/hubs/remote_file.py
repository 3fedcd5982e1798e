"""A file of a repository as its hub lists it, and how it is fetched: resumed where it broke off, its hash compared."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from hanlin.core.errors import UserError
from hanlin.core.files import open_regular, remove_link
from hanlin.core.i18n import tr
from hanlin.pipeline.hubs.session import HubBreakError, HubSession, HubStatusError, Patience

_CHUNK = 1 << 20
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class RemoteFile(NamedTuple):
    """A file of a repository.

    Attributes:
        path: Its path in the repository.
        size: Its bytes.
        algorithm: `sha256` (large files), `git` (SHA-1 of the Git blob: small files), or empty if the hub lists none.
        digest: Its hash, in hexadecimal digits.
    """

    path: str
    size: int
    algorithm: str
    digest: str


def check_remote_path(path: str, where: str) -> str:
    """The path of a file of a repository, if it leads nowhere else. Raises UserError if it does."""
    parts = path.split("/")
    is_bad = any(part in ("", ".", "..", ".git") or part.endswith((".", " ")) for part in parts)
    if is_bad or _UNSAFE.search(path) or len(path) > 1000 or any(_WINDOWS_DEVICES.fullmatch(part) for part in parts):
        raise UserError(tr("the hub lists a file whose name is no path: {path!r}", path=path[:100]), where)
    return path


class FileHash:
    """The hash of a file while its bytes come, in the algorithm of the hub."""

    def __init__(self, file: RemoteFile) -> None:
        self._hash: Any = None
        if file.algorithm == "sha256":
            self._hash = hashlib.sha256()
        elif file.algorithm == "git":
            self._hash = hashlib.sha1(b"blob %d\x00" % file.size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        if self._hash is not None:
            self._hash.update(data)

    def hexdigest(self) -> str:
        """The hash so far; empty if the hub lists none."""
        return "" if self._hash is None else str(self._hash.hexdigest())


def holds(path: Path, file: RemoteFile) -> bool:
    """Whether a file on the disk has the size and the hash of one of a repository; it is read whole."""
    try:
        if path.stat().st_size != file.size:
            return False
        digest = FileHash(file)
        with open_regular(path) as opened:
            while data := opened.read(_CHUNK):
                digest.update(data)
    except OSError:
        return False
    return digest.hexdigest() == file.digest


def fetch_file(
    session: HubSession, url: str, file: RemoteFile, partial: Path, where: str, on_bytes: Callable[[int], None]
) -> None:
    """Fetch a file, from where an earlier run broke off.

    Args:
        session: The hub.
        url: Where the file is.
        file: What it must be.
        partial: Where its bytes are kept; whole and verified when this returns.
        where: The repository, for messages.
        on_bytes: Called with the number of bytes that came; below zero for those that were thrown away.

    Raises:
        UserError: What comes has another hash or size, twice: nothing of it is kept.
        HubStatusError: The hub refuses.
        HubBreakError: It breaks off again and again: what came is kept.
    """
    for attempt in (1, 2):
        came = _fetch_bytes(session, url, file, partial, on_bytes)
        if came == file.digest:
            return
        partial.unlink()
        on_bytes(-file.size)
        if attempt == 1:
            session.log(tr("{path} came with another hash than the hub lists; once more", path=file.path))
    what = tr("{path} does not have the hash that the hub lists; nothing of it was kept", path=file.path)
    hint = tr("its copy on this server or mirror is damaged: try another endpoint, or later")
    raise UserError(what, where, hint)


def _fetch_bytes(
    session: HubSession, url: str, file: RemoteFile, partial: Path, on_bytes: Callable[[int], None]
) -> str:
    """Fetch until all bytes are there; returns their hash. More bytes than the hub lists have none."""
    patience = Patience(session)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(remove_link(partial), flags, 0o666), "r+b") as out:
        digest, offset = _read_prefix(out, file)
        on_bytes(offset)
        while offset < file.size:
            try:
                with session.open_file(url, offset) as answer:
                    if answer.start != offset:
                        on_bytes(-offset)
                        digest, offset = _start_over(out, file)
                        if answer.start != 0:
                            raise HubBreakError(tr("it sends another part than was asked for"))
                    for data in answer.chunks:
                        offset += len(data)
                        if offset > file.size:
                            on_bytes(file.size - offset + len(data))
                            return "longer"
                        out.write(data)
                        digest.update(data)
                        on_bytes(len(data))
                        patience.begin_anew()
                        if session.stopped.is_set():
                            raise HubBreakError(tr("stopped"))
                if offset < file.size:
                    raise HubBreakError(tr("it ended early"))
            except HubStatusError as error:
                if error.status == 416 and offset:  # the file has no such part: what is here is of another
                    on_bytes(-offset)
                    digest, offset = _start_over(out, file)
                    continue
                patience.wait(error)
            except HubBreakError as error:
                patience.wait(error)
    return digest.hexdigest()


def _read_prefix(out: IO[bytes], file: RemoteFile) -> tuple[FileHash, int]:
    """Hash what an earlier run has fetched; more than the file has is thrown away."""
    digest, offset = FileHash(file), 0
    while data := out.read(_CHUNK):
        digest.update(data)
        offset += len(data)
    return (digest, offset) if offset <= file.size else _start_over(out, file)


def _start_over(out: IO[bytes], file: RemoteFile) -> tuple[FileHash, int]:
    out.seek(0)
    out.truncate()
    return FileHash(file), 0


_DIGESTS = {"sha256": re.compile(r"[0-9a-f]{64}"), "git": re.compile(r"[0-9a-f]{40}"), "": re.compile("")}


def check_listing(files: list[RemoteFile], where: str) -> dict[str, RemoteFile]:
    """The files of a repository by path. Raises UserError if a name, a size or a hash is none, or one comes twice."""
    for file in files:
        check_remote_path(file.path, where)
        if file.size < 0 or not _DIGESTS[file.algorithm].fullmatch(file.digest):
            raise UserError(tr("the hub lists no usable hash or size of {path}", path=file.path), where)
    by_path = {file.path: file for file in files}
    if len(by_path) != len(files):
        raise UserError(tr("the hub lists a file twice"), where)
    return by_path
