"""A finished folder on Hugging Face or ModelScope: what goes there, what must not, and how it never looks half done.

Owns the list of files and what is refused. The hubs' own libraries speak to the hubs; tokens are theirs to find
(`HF_TOKEN`, `MODELSCOPE_API_TOKEN`, or a login), and none is read or written here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.models.folder.checks import check_safetensors, check_weights
from hanlin.models.folder.layout import CONFIG, INDEX
from hanlin.pipeline.artifacts import PARTIAL
from hanlin.pipeline.manifest import MANIFEST, read_manifest, sha256_of

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


class Item(NamedTuple):
    """A file that goes up: its path there, its size and its hash."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Target:
    """`hf:owner/name` or `ms:owner/name`."""

    hub: str
    name: str


def target_of(text: str) -> Target:
    """Raises UserError for anything else."""
    match = re.fullmatch(r"(hf|ms):([\w.-]+/[\w.-]+)", text, re.ASCII)
    if match is None:
        hint = say("write hf:owner/name or ms:owner/name", "请写成 hf:用户/名称 或 ms:用户/名称")
        raise UserError(say(f"'{text}' names no repository", f"“{text}”不是仓库名"), "--to", hint)
    return Target(match[1], match[2])


def items_of(folder: Path) -> list[Item]:
    """Every file that would go up, hashed. The manifest stays at home: it names paths of this machine.

    Raises UserError when the folder is not whole (files missing, changed or half-written) or holds a secret.
    """
    if not folder.is_dir():
        raise UserError(say("there is no such folder", "没有这个目录"), folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    half = [name for name in files if name.endswith(".writing") or name.startswith(f"{SCRATCH_FOLDER}/")]
    if folder.resolve().name.endswith(PARTIAL) or half:
        what = say("it is not finished", "尚未完成")
        raise UserError(what, folder / half[0] if half else folder, say("run its stage again", "请重新运行该阶段"))
    _refuse_secrets(folder, files)
    items = [Item(name, path.stat().st_size, sha256_of(path)) for name, path in files.items() if name != MANIFEST]
    if not items:
        raise UserError(say("there is nothing in it", "其中没有文件"), folder)
    _check_whole(folder, items)
    return items


def _check_whole(folder: Path, items: Sequence[Item]) -> None:
    manifest = read_manifest(folder)
    there = {item.path: item for item in items}
    if manifest is not None:
        for entry in manifest.files:
            found = there.get(entry.path)
            if found is None:
                raise _not_whole(folder / entry.path, say("this file is missing", "缺少此文件"))
            if (found.bytes, found.sha256) != (entry.bytes, entry.sha256):
                raise _not_whole(
                    folder / entry.path, say("this file was changed since it was made", "此文件在制作后被改动")
                )
        return
    if not ({"config.json", "README.md", "Modelfile"} & there.keys()) and not any(
        name.endswith(".gguf") for name in there
    ):
        what = say("this is no model or package", "这不是模型或软件包")
        raise UserError(
            what, folder, say("name a folder that `hanlin package` made", "请指定 hanlin package 产生的目录")
        )
    for name in there:
        if name.endswith(".safetensors"):
            check_safetensors(folder / name)
    if INDEX in there:
        check_weights(folder)


def _not_whole(place: Path, what: str) -> UserError:
    return UserError(what, place, say("make the folder again", "请重新制作该目录"))


def _refuse_secrets(folder: Path, files: dict[str, Path]) -> None:
    for name, path in files.items():
        if _SECRET_NAMES.search(name):
            what = say("this may be a secret and does not go up", "此文件可能含密钥，不予上传")
            raise UserError(what, path, say("take it out of the folder", "请将其移出目录"))
        if path.is_symlink():
            what = say("this is a link, which may lead anywhere", "这是链接，可能指向任何地方")
            raise UserError(what, path, say("put the file itself there", "请放入文件本身"))
        if path.suffix not in (".safetensors", ".gguf") and path.stat().st_size <= _TEXT_LIMIT:
            found = _SECRET_TEXTS.search(path.read_bytes())
            if found is not None:
                shown = found[0][:6].decode("ascii", "replace")
                what = say(f"it holds what looks like a secret ({shown}...)", f"其中疑似含密钥（{shown}……）")
                raise UserError(what, path, say("take it out", "请将其删除"))


Say = Callable[[str], None]


def send(folder: Path, items: Sequence[Item], target: Target, *, private: bool, tell: Say) -> str:
    """Put the files there and look that they arrived; returns where they are. Raises UserError as the hub refuses."""
    try:
        return (_to_hugging_face if target.hub == "hf" else _to_modelscope)(folder, items, target.name, private, tell)
    except UserError:
        raise
    except Exception as error:  # errors of two libraries and of their HTTP clients, which have no class in common
        what = say(f"the hub refused: {_first_line(error)}", f"上传被拒：{_first_line(error)}")
        hint = say("look at login, name and network, then run it again", "请检查登录、名称与网络后重新运行")
        raise UserError(what, f"{target.hub}:{target.name}", hint) from error


def _to_hugging_face(folder: Path, items: Sequence[Item], name: str, private: bool, tell: Say) -> str:
    """Large files are stored first, unseen; then one commit shows all of them at once. Weights that lie there and are
    not of this model are deleted by the same commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    old = [
        path for path in api.list_repo_files(name) if path.endswith(_WEIGHTS) and path not in {i.path for i in items}
    ]
    operations: list[Any] = [CommitOperationAdd(item.path, str(folder / item.path)) for item in items]
    operations += [CommitOperationDelete(path) for path in old]
    tell(say(f"{len(items)} files, {len(old)} old weights to delete", f"{len(items)} 个文件，删除 {len(old)} 个旧权重"))
    api.create_commit(name, operations, commit_message=f"{len(items)} files")
    _check_arrived(
        {path.path: path.size for path in api.list_repo_tree(name, recursive=True) if hasattr(path, "size")}, items
    )
    return f"{api.endpoint}/{name}"


def _to_modelscope(folder: Path, items: Sequence[Item], name: str, private: bool, tell: Say) -> str:
    """Its library commits a large folder in parts, so the file without which nothing loads goes up last of all."""
    if importlib.util.find_spec("modelscope_hub") is None:
        hint = say("pip install 'hanlin[modelscope]'", "请安装：pip install 'hanlin[modelscope]'")
        raise UserError(say("modelscope-hub is not installed", "未安装 modelscope-hub"), f"ms:{name}", hint)
    from modelscope_hub.api import HubApi

    api = HubApi()
    if not api.repo_exists(name, "model"):
        api.create_repo(name, "model", visibility="private" if private else "public")
    last = next((item.path for item in items if item.path.endswith(CONFIG)), items[-1].path)
    tell(say(f"{len(items)} files, {last} last", f"{len(items)} 个文件，{last} 最后上传"))
    api.upload_folder(name, "model", folder, ignore_patterns=[last, MANIFEST], commit_message=f"{len(items) - 1} files")
    api.upload_file(name, "model", folder / last, path_in_repo=last, commit_message=last)
    _check_arrived({file.path: file.size for file in api.list_repo_files(name, "model")}, items)
    return f"ms:{name}"


def _check_arrived(there: dict[str, Any], items: Sequence[Item]) -> None:
    lost = [item.path for item in items if there.get(item.path) != item.bytes]
    if lost:
        raise RuntimeError(f"{len(lost)} files did not arrive whole: {', '.join(lost[:3])}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def download(entry: Mapping[str, Any]) -> tuple[Path, ...]:
    """Fetch a pinned hub repository (`hf:owner/name@revision`), of data where a source names it and of a model
    elsewhere; `HF_ENDPOINT` names a mirror."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = str(entry["key"]).removeprefix("hf:").partition("@")
    try:
        kind = "dataset" if str(entry["field"]).startswith("sources.") else "model"
        return (Path(snapshot_download(name, repo_type=kind, revision=revision)),)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        hint = say("set HF_ENDPOINT to a mirror, or give a local path", "可用 HF_ENDPOINT 指定镜像，或改用本地路径")
        raise UserError(
            say(f"cannot be fetched: {type(error).__name__}", f"无法下载：{type(error).__name__}"), entry["key"], hint
        ) from error
