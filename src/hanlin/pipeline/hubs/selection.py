"""Which files of a repository are needed: of a model one form of its weights, of a data set its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, mark, tr
from hanlin.pipeline.hubs.remote_file import RemoteFile

_OTHER_FORMS = ("original", "onnx", "openvino", "coreml", "tflite", "metal", "runs", ".cache")
"""Folders with the same model for other programs (`original/` holds Meta's layout), and with logs."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OTHER_WEIGHTS = (".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite", ".mlmodel", ".engine", ".npz")
_MEDIA = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4", ".webm", ".pdf", ".mov")
_NOT_NEEDED = (".gitattributes", ".gitignore", ".DS_Store")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")

PICKLE = mark("a pickle, which may run code; there are safetensors")
OTHER_FORM = mark("the same model for other programs")
MEDIA = mark("a picture, film or document")
NOT_ASKED = mark("not asked for")
CODE = mark("code, which Hanlin does not run")
SETTINGS_OF_GIT = mark("settings of Git")


class Selection(NamedTuple):
    """The files to fetch, and those left out with why (a message to translate)."""

    files: tuple[RemoteFile, ...]
    left_out: tuple[tuple[RemoteFile, str], ...]


def select_files(
    files: Sequence[RemoteFile], kind: str, patterns: Sequence[str], everything: bool, where: str
) -> Selection:
    """Select what is needed.

    Args:
        files: All files of the repository.
        kind: `model` or `dataset`.
        patterns: What is asked for by name (`*Q4_K_M*`, `original/*`); none for what Hanlin needs.
        everything: Leave nothing out.
        where: The repository, for messages.

    Raises:
        UserError: No file matches a pattern, or it holds several models as GGUF and none is named.
    """
    if everything:
        return Selection(tuple(files), ())
    if patterns:
        return _select_named(files, patterns, where)
    reason = _reason_of_model(files, where) if kind == "model" else _reason_of_dataset
    reasons = [(file, reason(file)) for file in files]
    return Selection(
        tuple(file for file, why in reasons if not why), tuple((file, why) for file, why in reasons if why)
    )


def _select_named(files: Sequence[RemoteFile], patterns: Sequence[str], where: str) -> Selection:
    for pattern in patterns:
        if not any(fnmatchcase(file.path, pattern) for file in files):
            names = join_list([file.path for file in files[:8]])
            hint = tr("it holds {names}", names=names)
            raise UserError(tr("no file matches {path}", path=pattern), where, hint, "not_found")
    named = [any(fnmatchcase(file.path, pattern) for pattern in patterns) for file in files]
    return Selection(
        tuple(file for file, is_named in zip(files, named, strict=True) if is_named),
        tuple((file, NOT_ASKED) for file, is_named in zip(files, named, strict=True) if not is_named),
    )


def _reason_of_dataset(file: RemoteFile) -> str:
    name = file.path.rpartition("/")[2]
    if name in _NOT_NEEDED:
        return SETTINGS_OF_GIT
    return CODE if name.endswith(".py") else ""


def _reason_of_model(files: Sequence[RemoteFile], where: str) -> Callable[[RemoteFile], str]:
    """What tells why a file of this model is left out."""
    at_home = [file for file in files if file.path.partition("/")[0] not in _OTHER_FORMS]
    safe = [file.path for file in at_home if file.path.endswith(".safetensors")]
    has_weights = any(path.rpartition("/")[2].startswith(("model", "adapter")) for path in safe)
    pickles = [file for file in at_home if file.path.endswith(_PICKLES)]
    if not safe and not pickles:
        _check_one_gguf([file.path for file in at_home if file.path.endswith(".gguf")], where)

    def reason(file: RemoteFile) -> str:
        folder, _, _ = file.path.partition("/")
        name = file.path.rpartition("/")[2].lower()
        if name in _NOT_NEEDED or name == ".ds_store":
            return SETTINGS_OF_GIT
        if "/" in file.path and folder in _OTHER_FORMS:
            return OTHER_FORM
        if name.endswith(_OTHER_WEIGHTS) or (safe and name.endswith(".gguf")):
            return OTHER_FORM
        if has_weights and name.startswith("consolidated") and name.endswith(".safetensors"):
            return OTHER_FORM
        if safe and name.endswith((*_PICKLES, ".bin.index.json")):
            return PICKLE
        if name.endswith(_MEDIA):
            return MEDIA
        return CODE if name.endswith((".py", ".ipynb")) else ""

    return reason


def _check_one_gguf(paths: Sequence[str], where: str) -> None:
    """A repository of GGUF files holds one model in up to thirty precisions, of which one is wanted."""
    models = sorted({_SHARD.sub("", path) for path in paths})
    if len(models) > 1:
        what = tr("it holds {count} GGUF models: {names}", count=len(models), names=join_list(models))
        raise UserError(what, where, tr("name one of them with --files, for instance --files '*Q4_K_M*'"))
