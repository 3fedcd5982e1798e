"""What the caches of the hubs hold on this machine: repositories by commit, their size, and which artifacts name them.

The cache of Hugging Face is read and emptied by its own library, which knows what other programs put there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from hanlin.config.references import HUB_PREFIXES, HubName
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.hubs import hugging_face, modelscope
from hanlin.pipeline.hubs.record import FOLDER, read_record, record_path
from hanlin.pipeline.manifest import read_manifest


@dataclass(frozen=True, slots=True)
class CachedRevision:
    """A commit of a repository in a cache.

    Attributes:
        name: The repository with its commit.
        kind: `model` or `dataset`.
        refs: The branches and tags that were this commit when they were fetched.
        folder: Where its files are.
        files: How many there are.
        bytes: Bytes of its files; files that commits share count in each.
        state: `verified` (each file was compared with the hub's hash), `changed` (one is not as it was verified) or
            `unknown` (another program fetched it).
        modified: When it was last written, in seconds since 1970.
        incomplete_bytes: Bytes of files that are not whole.
        used_by: The artifacts that were made from it.
    """

    name: HubName
    kind: str
    refs: tuple[str, ...]
    folder: Path
    files: int
    bytes: int
    state: str
    modified: float
    incomplete_bytes: int = 0
    used_by: tuple[str, ...] = ()


def list_cache(home: Path) -> list[CachedRevision]:
    """What both caches hold, by name.

    Args:
        home: The folder of artifacts, whose manifests say what was used.
    """
    uses = list(_uses(home / "artifacts"))
    found = [*_list_cache_of("hf"), *_list_cache_of("ms")]
    return sorted((_with_uses(item, uses) for item in found), key=lambda item: (str(item.name), item.kind))


def _uses(artifacts: Path) -> Iterator[tuple[HubName, str]]:
    """The repositories that the artifacts of a store were made from, with the artifacts."""
    for folder in sorted(artifacts.glob("*/")) if artifacts.is_dir() else ():
        try:
            manifest = read_manifest(folder)
        except UserError:
            continue
        for entry in manifest.inputs if manifest is not None else ():
            if entry.key.startswith(HUB_PREFIXES):
                hub, _, rest = entry.key.partition(":")
                name, _, revision = rest.partition("@")
                yield HubName(hub, name, entry.commit or revision), folder.name


def _with_uses(item: CachedRevision, uses: Iterable[tuple[HubName, str]]) -> CachedRevision:
    names = {
        artifact
        for used, artifact in uses
        if used[:2] == item.name[:2] and (item.name.revision.startswith(used.revision) or used.revision in item.refs)
    }
    return replace(item, used_by=tuple(sorted(names)))


def _list_cache_of(hub: str) -> Iterator[CachedRevision]:
    module = hugging_face if hub == "hf" else modelscope
    root = module.cache_folder()
    pattern = "*--*/snapshots/*" if hub == "hf" else "*/*--*/snapshots/*"
    for snapshot in sorted(root.glob(pattern)) if root.is_dir() else ():
        folder = snapshot.parent.parent
        kind_part, _, name = folder.name.partition("--") if hub == "hf" else (folder.parent.name, "", folder.name)
        kind = kind_part.removesuffix("s")
        if snapshot.is_dir() and kind in ("model", "dataset") and "--" in name:
            yield _read_snapshot(hub, kind, name.replace("--", "/", 1), folder, snapshot)


def _read_snapshot(hub: str, kind: str, name: str, folder: Path, snapshot: Path) -> CachedRevision:
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    whole = [path for path in files if not path.name.endswith(".incomplete")]
    record = read_record(folder, snapshot.name)
    if record is None:
        state = "unknown"
    else:
        fetched = [record.files[path] for path in record.states if path in record.files]
        state = "verified" if fetched and record.has_all(snapshot, fetched) else "changed"
    partial = [path for path in files if path not in whole] + list((folder / "blobs").glob("*.incomplete"))
    return CachedRevision(
        HubName(hub, name, snapshot.name),
        kind,
        tuple(_refs_of(folder / "refs", snapshot.name)),
        snapshot,
        len(whole),
        sum(path.stat().st_size for path in whole),
        state,
        max((path.stat().st_mtime for path in files), default=snapshot.stat().st_mtime),
        sum(path.stat().st_size for path in partial),
    )


def _refs_of(folder: Path, commit: str) -> Iterator[str]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace").strip() == commit:
            yield path.relative_to(folder).as_posix()


def select_revisions(cached: Sequence[CachedRevision], name: HubName) -> list[CachedRevision]:
    """The commits in the cache that a name means: those of its revision, or all. Raises UserError if there are none."""
    found = [
        item
        for item in cached
        if item.name[:2] == name[:2]
        and (not name.revision or item.name.revision.startswith(name.revision) or name.revision in item.refs)
    ]
    if not found:
        hint = tr("`hanlin cache ls` lists what there is")
        raise UserError(tr("the cache does not hold it"), str(name), hint, "not_found")
    return found


def remove_revisions(items: Sequence[CachedRevision]) -> int:
    """Delete commits from the caches, with what is not whole; files that other commits share stay.

    Returns:
        The bytes that were freed.

    Raises:
        UserError: One is being fetched, or its folder is not as a cache is: then nothing was deleted.
    """
    _check_removable(items)
    freed = 0
    for item in items:
        folder = item.folder.parent.parent
        incomplete = [*(folder / "blobs").glob("*.incomplete"), *item.folder.rglob("*.incomplete")]
        for path in incomplete:
            freed += path.stat().st_size
            path.unlink()
        record_path(folder, item.name.revision).unlink(missing_ok=True)
    of_library = [item.name.revision for item in items if item.name.hub == "hf"]
    if of_library:
        freed += _remove_by_library(of_library, {item.folder.parent.parent for item in items if item.name.hub == "hf"})
    for item in items:
        if item.name.hub == "ms":
            freed += item.bytes
            for ref in item.refs:
                (item.folder.parent.parent / "refs" / ref).unlink(missing_ok=True)
            shutil.rmtree(item.folder)
            _remove_if_empty(item.folder.parent.parent)
    return freed


def _check_removable(items: Sequence[CachedRevision]) -> None:
    known = _known_to_library() if any(item.name.hub == "hf" for item in items) else frozenset()
    for item in items:
        folder = item.folder.parent.parent
        if item.name.hub == "hf" and item.name.revision not in known:
            what = tr("its folder in the cache is damaged")
            raise UserError(what, folder, tr("delete this folder yourself; what it held is fetched again"))
        if (folder / FOLDER).is_dir():
            try:
                with FileLock(folder / FOLDER / "lock", timeout=0):
                    pass
            except Timeout:
                what = tr("another command is fetching it")
                raise UserError(what, str(item.name), tr("end that first")) from None


def _known_to_library() -> frozenset[str]:
    from huggingface_hub import scan_cache_dir

    scanned = scan_cache_dir(hugging_face.cache_folder())
    return frozenset(revision.commit_hash for repository in scanned.repos for revision in repository.revisions)


def _remove_by_library(commits: Sequence[str], folders: Iterable[Path]) -> int:
    from huggingface_hub import scan_cache_dir

    strategy = scan_cache_dir(hugging_face.cache_folder()).delete_revisions(*commits)
    freed = int(strategy.expected_freed_size)
    strategy.execute()
    for folder in folders:
        _remove_if_empty(folder)
    return freed


def _remove_if_empty(folder: Path) -> None:
    """Delete the folder of a repository that has no commit left."""
    snapshots = folder / "snapshots"
    if folder.is_dir() and not (snapshots.is_dir() and any(snapshots.iterdir())):
        shutil.rmtree(folder)
