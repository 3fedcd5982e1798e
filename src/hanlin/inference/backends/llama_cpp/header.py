"""What llama.cpp reads in the metadata of a GGUF file, in a process that it may end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import BoundsExceededError, run_bounded
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What llama.cpp reads in the metadata of a GGUF file; 0 or an empty text if the file does not say."""

    context_length: int
    license: str


def read_gguf_header(path: Path) -> GgufHeader:
    """Load the vocabulary of a GGUF file in a child process, as a file of others may make llama.cpp abort.

    Raises:
        UserError: llama.cpp does not take the file, or ends on it.
    """
    try:
        reply = run_bounded(f"{__name__}:read_header_in_child", str(path), seconds=_SECONDS)
    except BoundsExceededError as error:
        reasons = {"time": tr("it takes too long"), "memory": tr("it takes too much memory")}
        reason = reasons.get(error.reason, tr("the library crashes"))
        what = tr("llama.cpp cannot load this file: {reason}", reason=reason)
        raise UserError(what, path, tr("copy it again from its source")) from error
    if "refused" in reply:
        raise UserError(*reply["refused"])
    return GgufHeader(**reply)


def read_header_in_child(path: str) -> dict[str, Any]:
    """What the child does: the fields of `GgufHeader`, or `refused` with what a `UserError` says."""
    try:
        model = LlamaCppModel(Path(path), vocabulary_only=True)
    except UserError as error:
        return {"refused": [error.what, error.where, error.hint]}
    context_length = int(model.meta("llama.context_length") or 0)
    return {"context_length": context_length, "license": model.meta("general.license") or ""}
