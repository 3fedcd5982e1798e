"""Fetch a repository of a hub: pinned to a commit, only what is needed, resumed, verified, and there when offline."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from hanlin.config.references import HubName
from hanlin.core.errors import UserError
from hanlin.core.files import check_free_space, file_state
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.pipeline.hubs import hugging_face, modelscope
from hanlin.pipeline.hubs.record import FOLDER, Record, read_record, write_record
from hanlin.pipeline.hubs.refusals import explain_break, explain_status, is_absent
from hanlin.pipeline.hubs.remote_file import RemoteFile, check_listing, fetch_file, holds
from hanlin.pipeline.hubs.selection import Selection, select_files
from hanlin.pipeline.hubs.session import (
    OFFLINE_VARIABLES,
    HubBreakError,
    HubSession,
    HubStatusError,
    Log,
    find_endpoint,
    is_offline,
)

HUBS: dict[str, ModuleType] = {"hf": hugging_face, "ms": modelscope}
WORKERS = 4
"""Files that are fetched at once."""
_PLAIN_HTTP_LIMIT = 50 << 30
"""Bytes beyond which Hugging Face sends a file by its Xet protocol alone."""
_SAVE_EVERY = 64


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What is to be fetched.

    Attributes:
        name: The repository, with a revision or without.
        kind: `model`, `dataset`, or empty to find out.
        patterns: Files that are asked for by name; none for what Hanlin needs.
        everything: Fetch every file, pickles too.
        endpoint: The address of the hub or mirror; empty for that of the environment.
        recipe_endpoint: The address that a recipe names, which gets no token.
    """

    name: HubName
    kind: str = ""
    patterns: tuple[str, ...] = ()
    everything: bool = False
    endpoint: str = ""
    recipe_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A repository that is here: its pinned name, its folder, what was selected, and the bytes that came now."""

    name: HubName
    kind: str
    folder: Path
    selection: Selection
    fetched_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of the selected files."""
        return sum(file.size for file in self.selection.files)


def pull(request: PullRequest, log: Log, progress: Progress, *, dry_run: bool = False) -> Pulled:
    """Fetch a repository, or find it as it was fetched before.

    Args:
        request: What is to be fetched.
        log: Called with a sentence about what is done.
        progress: Shows the bytes.
        dry_run: Only list what would be fetched.

    Returns:
        Where it is.

    Raises:
        UserError: It cannot be fetched; what has come is kept, and the next call goes on from there.
    """
    known = _find_here(request)
    if known is not None and request.name.is_pinned:
        return known
    if is_offline():
        if known is not None:
            log(tr("offline: {name} is taken as it was fetched", name=known.name))
            return known
        what = tr("it was not fetched before, and {variable} forbids to ask the hub", variable=OFFLINE_VARIABLES[0])
        hint = tr("unset {variable} or give a local path", variable=OFFLINE_VARIABLES[0])
        raise UserError(what, str(request.name), hint, "unreachable")
    endpoint = find_endpoint(request.name.hub, request.endpoint, request.recipe_endpoint)
    session = HubSession(endpoint, log)
    kind = request.kind or "model"
    try:
        kind, commit = _resolve(request, session)
        return _pull_commit(request, kind, commit, session, progress, dry_run)
    except (HubBreakError, HubStatusError) as error:
        is_passing = isinstance(error, HubBreakError) or error.status == 429 or error.status >= 500
        if known is not None and not dry_run and is_passing:
            what = tr(
                "{address} cannot be reached: {name} is taken as it was fetched", address=endpoint.url, name=known.name
            )
            log(what)
            return known
        if isinstance(error, HubBreakError):
            raise explain_break(error, request.name, endpoint) from error
        raise explain_status(error, request.name, kind, endpoint, session.has_token) from error
    finally:
        session.close()


def _find_here(request: PullRequest) -> Pulled | None:
    """The repository as it was fetched before, if all that is asked for is here as it was verified; no hub is asked."""
    hub = HUBS[request.name.hub]
    revision = request.name.revision or hub.DEFAULT_REVISION
    for kind in _kinds(request):
        folder = hub.repository_folder(request.name.name, kind)
        commit = revision if request.name.is_pinned else _read_revision(folder, revision)
        record = read_record(folder, commit) if commit else None
        if record is None:
            continue
        try:
            selection = _select(request, kind, record.files)
        except UserError:
            if request.name.is_pinned:
                raise
            continue  # the branch may hold other files by now
        snapshot = folder / "snapshots" / commit
        if selection.files and record.has_all(snapshot, selection.files):
            return Pulled(request.name._replace(revision=commit), kind, snapshot, selection, 0)
    return None


def _read_revision(folder: Path, revision: str) -> str:
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return commit if HubName("", "", commit).is_pinned else ""


def _kinds(request: PullRequest) -> tuple[str, ...]:
    return (request.kind,) if request.kind else ("model", "dataset")


def _select(request: PullRequest, kind: str, files: dict[str, RemoteFile]) -> Selection:
    return select_files(list(files.values()), kind, request.patterns, request.everything, str(request.name))


def _pull_commit(
    request: PullRequest, kind: str, commit: str, session: HubSession, progress: Progress, dry_run: bool
) -> Pulled:
    hub = HUBS[request.name.hub]
    name = request.name._replace(revision=commit)
    folder: Path = hub.repository_folder(name.name, kind)
    record = read_record(folder, commit)
    if record is None:
        record = Record(check_listing(hub.list_files(session, name.name, kind, commit), str(name)))
    selection = _select(request, kind, record.files)
    if not selection.files:
        raise UserError(tr("it holds no file that is needed"), str(name), tr("--all fetches every file"), "not_found")
    pulled = Pulled(name, kind, folder / "snapshots" / commit, selection, 0)
    if dry_run:
        return pulled
    with _lock(folder, session.log):
        record = read_record(folder, commit) or record  # another command may have fetched it meanwhile
        fetched = _Fetch(session, pulled, folder, record, progress).run()
        hub.note_revision(folder, request.name.revision or hub.DEFAULT_REVISION, commit)
    return replace(pulled, fetched_bytes=fetched)


def _resolve(request: PullRequest, session: HubSession) -> tuple[str, str]:
    """The kind of a repository and the commit of its revision: the hub is asked for a model, then for a data set."""
    hub = HUBS[request.name.hub]
    revision = request.name.revision or hub.DEFAULT_REVISION
    *others, last = _kinds(request)
    without_revision: HubStatusError | None = None
    for kind in others:
        try:
            return kind, hub.resolve_revision(session, request.name.name, kind, revision)
        except HubStatusError as error:
            if not is_absent(error) and error.status not in (401, 404):
                raise
            without_revision = error if error.code == "RevisionNotFound" else None
    if request.name.is_pinned and not others:
        return last, revision
    try:
        return last, hub.resolve_revision(session, request.name.name, last, revision)
    except HubStatusError as error:
        if without_revision is not None and is_absent(error):  # there is a model of this name, without the revision
            raise without_revision from error
        raise


@contextmanager
def _lock(folder: Path, log: Log) -> Iterator[None]:
    """One command at a time fetches a repository; the others wait, and then find it here."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / FOLDER / "lock")
    try:
        lock.acquire(timeout=0.05)
    except Timeout:
        log(tr("another command is fetching it: waiting"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Fetch:
    """The fetching of the files of one commit, several at once."""

    def __init__(self, session: HubSession, pulled: Pulled, folder: Path, record: Record, progress: Progress) -> None:
        self._session, self._pulled, self._folder = session, pulled, folder
        self._record, self._progress = record, progress
        self._hub = HUBS[pulled.name.hub]
        self._commit = pulled.name.revision
        self._guard = threading.Lock()
        self._done = self._resumed = self._unsaved = 0

    def run(self) -> int:
        """Fetch and verify what is not here; returns the bytes that came."""
        snapshot = self._pulled.folder
        snapshot.mkdir(parents=True, exist_ok=True)
        missing = [file for file in self._pulled.selection.files if not self._record.is_verified(snapshot, file)]
        self._done = self._pulled.bytes - sum(file.size for file in missing)
        missing = [file for file in missing if not self._take_from_cache(file)]
        before = self._done
        for file in missing:
            if file.size > _PLAIN_HTTP_LIMIT and self._pulled.name.hub == "hf":
                what = tr(
                    "{path} has {size:,} bytes, more than Hugging Face sends over HTTP", path=file.path, size=file.size
                )
                raise UserError(what, str(self._pulled.name), tr("fetch it with its own program: `hf download`"))
        needed = sum(max(0, file.size - _size_of(self._partial(file))) for file in missing)
        check_free_space(snapshot, needed)
        try:
            self._fetch_all(missing)
        finally:
            self._progress.close()
            write_record(self._folder, self._commit, self._record)
        return self._done - before - self._resumed

    def _fetch_all(self, missing: Sequence[RemoteFile]) -> None:
        # large files first, so that none is left alone at the end
        tasks: dict[Path, list[RemoteFile]] = {}
        for file in sorted(missing, key=lambda file: -file.size):
            tasks.setdefault(self._partial(file), []).append(file)  # files with the same bytes are fetched once
        pool = ThreadPoolExecutor(WORKERS, "pull")
        try:
            futures = [pool.submit(self._fetch_equal, files) for files in tasks.values()]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()) is not None:
                    raise error
        finally:
            self._session.stopped.set()
            pool.shutdown(cancel_futures=True)

    def _fetch_equal(self, files: Sequence[RemoteFile]) -> None:
        for file in files:
            if not self._take_from_cache(file):
                self._fetch(file)

    def _fetch(self, file: RemoteFile) -> None:
        partial_file = self._partial(file)
        partial_file.parent.mkdir(parents=True, exist_ok=True)
        with self._guard:
            self._resumed += min(_size_of(partial_file), file.size)
        url = self._hub.file_url(self._session, self._pulled.name.name, self._pulled.kind, self._commit, file.path)
        fetch_file(self._session, url, file, partial_file, str(self._pulled.name), self._count)
        self._place(partial_file, file)

    def _take_from_cache(self, file: RemoteFile) -> bool:
        """Whether the cache has a file already, of another commit or from another program; its hash is compared."""
        path: Path | None = self._hub.whole_path(self._folder, self._commit, file)
        if path is None or not file.algorithm:
            return False
        if not holds(path, file):
            self._session.log(tr("{path} in the cache is not what the hub lists: it is fetched again", path=file.path))
            path.unlink()
            return False
        self._place(path, file)
        self._count(file.size)
        return True

    def _place(self, source: Path, file: RemoteFile) -> None:
        with self._guard:
            self._hub.place(source, self._folder, self._commit, file)
            self._record.states[file.path] = file_state((self._pulled.folder / file.path).stat())
            self._unsaved += 1
            if self._unsaved >= _SAVE_EVERY:
                write_record(self._folder, self._commit, self._record)
                self._unsaved = 0

    def _partial(self, file: RemoteFile) -> Path:
        path: Path = self._hub.partial_path(self._folder, self._commit, file)
        return path

    def _count(self, count: int) -> None:
        with self._guard:
            self._done += count
            total = self._pulled.bytes
            scale, unit = (1_000_000, "MB") if total >= 10_000_000 else (1_000, "KB")
            self._progress.update(self._done / scale, total / scale, unit)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
