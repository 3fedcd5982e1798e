"""Uploads to Hugging Face and ModelScope: which files go up, what is refused, and in what order.

The hubs' own libraries do the transfer and find their access token (`HF_TOKEN`, `MODELSCOPE_API_TOKEN`, or a login);
it is read here only to be hidden in what a hub says.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hanlin.config.references import HubName
from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError
from hanlin.core.files import PARTIAL_SUFFIX
from hanlin.core.i18n import tr
from hanlin.models.folder.checks import check_safetensors, check_weights
from hanlin.models.folder.layout import CONFIG, INDEX
from hanlin.pipeline.artifacts import PARTIAL_FOLDER
from hanlin.pipeline.hubs.session import find_token
from hanlin.pipeline.manifest import MANIFEST, read_manifest, sha256_file

_SECRET_NAMES = re.compile(
    r"(^|/)(\.env(\..*)?|\.netrc|\.git-credentials|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?|"
    r"[^/]*\.(pem|p12|pfx|key)|\.(ssh|aws|git)/.*|token(\.txt)?)$",
    re.IGNORECASE,
)
_SECRET_TEXTS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bhf_[A-Za-z0-9]{30,}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bAKIA[0-9A-Z]{16}\b|"
    rb"\bms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\bsk-[A-Za-z0-9_-]{32,}\b"
)
_TEXT_LIMIT = 64 << 20  # larger files are weights
_WEIGHTS = (".safetensors", ".gguf", ".bin", INDEX)


class UploadFile(NamedTuple):
    """A file to upload: its path in the repository, its size and its SHA-256."""

    path: str
    bytes: int
    sha256: str


def list_upload_files(folder: Path) -> list[UploadFile]:
    """The files of a folder to upload, hashed. The manifest is left out: it names paths of this machine.

    Raises UserError if the folder is incomplete (files missing, changed or half-written) or holds a secret.
    """
    if not folder.is_dir():
        raise UserError(tr("there is no such folder"), folder, None, "not_found")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    unfinished = [name for name in files if name.endswith(PARTIAL_SUFFIX) or name.startswith(f"{SCRATCH_FOLDER}/")]
    if folder.resolve().name.endswith(PARTIAL_FOLDER) or unfinished:
        what = tr("the folder is not complete")
        raise UserError(what, folder / unfinished[0] if unfinished else folder, tr("run its stage again"))
    _refuse_secrets(folder, files)
    items = [
        UploadFile(name, path.stat().st_size, sha256_file(path)) for name, path in files.items() if name != MANIFEST
    ]
    if not items:
        raise UserError(tr("the folder is empty"), folder)
    _check_complete(folder, items)
    return items


def _check_complete(folder: Path, items: Sequence[UploadFile]) -> None:
    manifest = read_manifest(folder)
    by_path = {item.path: item for item in items}
    if manifest is not None:
        for entry in manifest.files:
            file = by_path.get(entry.path)
            if file is None:
                raise _incomplete(folder / entry.path, tr("this file is missing"))
            if (file.bytes, file.sha256) != (entry.bytes, entry.sha256):
                raise _incomplete(folder / entry.path, tr("this file has been changed"))
        return
    if not ({"config.json", "README.md", "Modelfile"} & by_path.keys()) and not any(
        name.endswith(".gguf") for name in by_path
    ):
        what = tr("this is neither a model nor a package")
        raise UserError(what, folder, tr("name a folder that `hanlin package` made"))
    for name in by_path:
        if name.endswith(".safetensors"):
            check_safetensors(folder / name)
    if INDEX in by_path:
        check_weights(folder)


def _incomplete(path: Path, what: str) -> UserError:
    return UserError(what, path, tr("make the folder again"))


def _refuse_secrets(folder: Path, files: dict[str, Path]) -> None:
    for name, path in files.items():
        if _SECRET_NAMES.search(name):
            what = tr("this may be a secret and is not uploaded")
            raise UserError(what, path, tr("remove it from the folder"))
        if path.is_symlink():
            what = tr("this is a symbolic link, which may lead anywhere")
            raise UserError(what, path, tr("replace it by the file itself"))
        if path.suffix not in (".safetensors", ".gguf") and path.stat().st_size <= _TEXT_LIMIT:
            secret = _SECRET_TEXTS.search(path.read_bytes())
            if secret is not None:
                shown = secret[0][:6].decode("ascii", "replace")
                what = tr("it seems to hold a secret ({shown}...)", shown=shown)
                raise UserError(what, path, tr("remove it"))


Log = Callable[[str], None]


def upload(folder: Path, items: Sequence[UploadFile], repository: HubName, *, private: bool, log: Log) -> str:
    """Upload files and check that they arrived.

    Args:
        folder: The folder that holds them.
        items: The files, from `list_upload_files`.
        repository: Where they go; it is created if it does not exist.
        private: Create it as a private one.
        log: Called with a sentence about what is done.

    Returns:
        The address of the repository.

    Raises:
        UserError: The hub refuses.
    """
    try:
        return (_to_hugging_face if repository.hub == "hf" else _to_modelscope)(
            folder, items, repository.name, private, log
        )
    except UserError:
        raise
    except Exception as error:  # errors of two libraries and of their HTTP clients, which have no class in common
        what = tr("the hub refused: {first_line}", first_line=_hide(find_token(repository.hub), _first_line(error)))
        hint = tr("check login, name and network, then run it again")
        status = getattr(getattr(error, "response", None), "status_code", None)
        code = _CODES.get(status, "unreachable") if isinstance(status, int) else "unreachable"
        raise UserError(what, str(repository), hint, code) from error


_CODES = {401: "gated", 403: "gated", 404: "not_found", 429: "rate_limited"}
"""The code of an error by the status with which a hub refused."""


def _hide(token: str, text: str) -> str:
    return text.replace(token, "***") if token else text


def _to_hugging_face(folder: Path, items: Sequence[UploadFile], name: str, private: bool, log: Log) -> str:
    """Large files are uploaded first, invisible; then one commit shows all files at once, and deletes weights in the
    repository that do not belong to this model.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    _bound_hugging_face()
    api = HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    old = [
        path for path in api.list_repo_files(name) if path.endswith(_WEIGHTS) and path not in {i.path for i in items}
    ]
    operations: list[Any] = [CommitOperationAdd(item.path, str(folder / item.path)) for item in items]
    operations += [CommitOperationDelete(path) for path in old]
    log(tr("{count} files, {old_count} old weight files to delete", count=len(items), old_count=len(old)))
    api.create_commit(name, operations, commit_message=f"{len(items)} files")
    _check_arrived(
        {path.path: path.size for path in api.list_repo_tree(name, recursive=True) if hasattr(path, "size")}, items
    )
    return f"{api.endpoint}/{name}"


def _to_modelscope(folder: Path, items: Sequence[UploadFile], name: str, private: bool, log: Log) -> str:
    """Its library commits a large folder in parts, so the file without which nothing loads is uploaded last; then
    weights in the repository that do not belong to this model are deleted.
    """
    if importlib.util.find_spec("modelscope_hub") is None:
        hint = tr("pip install 'hanlin[modelscope]'")
        raise UserError(tr("modelscope-hub is not installed"), f"ms:{name}", hint, "missing_package")
    from modelscope_hub.api import HubApi

    _keep_cookies_home()
    api = HubApi()
    old: list[str] = []
    if api.repo_exists(name, "model"):
        there = [file.path for file in api.list_repo_files(name, "model")]
        old = [path for path in there if path.endswith(_WEIGHTS) and path not in {item.path for item in items}]
    else:
        api.create_repo(name, "model", visibility="private" if private else "public")
    last = next((item.path for item in items if item.path.endswith(CONFIG)), items[-1].path)
    log(tr("{count} files, {last} last", count=len(items), last=last))
    if old:
        log(tr("{count} files, {old_count} old weight files to delete", count=len(items), old_count=len(old)))
    api.upload_folder(name, "model", folder, ignore_patterns=[last, MANIFEST], commit_message=f"{len(items) - 1} files")
    api.upload_file(name, "model", folder / last, path_in_repo=last, commit_message=last)
    if old:  # a model in one file would be loaded in place of the shards that are new
        outcome = api.delete_files(name, "model", old, commit_message=f"{len(old)} old weight files")
        if failed := outcome.get("failed_files"):
            raise RuntimeError(f"{len(failed)} old weight files could not be deleted: {failed[0]}")
    _check_arrived({file.path: file.size for file in api.list_repo_files(name, "model")}, items)
    return f"ms:{name}"


def _check_arrived(sizes: dict[str, Any], items: Sequence[UploadFile]) -> None:
    missing = [item.path for item in items if sizes.get(item.path) != item.bytes]
    if missing:
        raise RuntimeError(f"{len(missing)} files are missing or truncated: {', '.join(missing[:3])}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _keep_cookies_home() -> None:
    """Let no cookie follow a redirect to another host.

    `requests`, through which ModelScope's library speaks, takes the header `Authorization` off there, but sends cookies
    that were given with the request to every host: ModelScope's hold the token.
    """
    import requests

    original = requests.Session.rebuild_auth

    def rebuild_auth(session: requests.Session, request: Any, response: Any) -> None:
        original(session, request, response)
        if session.should_strip_auth(response.request.url, request.url):
            request.headers.pop("Cookie", None)

    if original.__name__ != rebuild_auth.__name__ or original.__module__ != __name__:
        setattr(requests.Session, original.__name__, rebuild_auth)


def _bound_hugging_face() -> None:
    """Let the hub's library speak through connections that are bounded in time and take no proxy to this machine."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    from hanlin.core.http.client import hub_client

    set_client_factory(lambda: hub_client(_http.hf_request_event_hook))
