"""Pickled weights (`pytorch_model.bin`, `consolidated.00.pth`) as safetensors, converted in a process without rights.

A pickle is a program. `torch.load(weights_only=True)` runs only what builds tensors; that it does so is not relied on:
the child that reads one can start no program and no process, open no socket and no file for writing besides those that
it writes, and has limits on memory, time, bytes and open files (`rights`).
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import torch

from hanlin.core.errors import UserError
from hanlin.core.files import check_downloaded
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_TENSORS
from hanlin.core.process import BoundsExceededError, run_bounded
from hanlin.models.folder.checks import check_safetensors
from hanlin.models.layouts.rights import give_up_rights

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}
_MAX_NAME_CHARACTERS = 1_024
_MEMORY, _SECONDS, _BYTES_PER_SECOND = 8 << 30, 120, 10_000_000
"""What a child gets: address space besides three times the file, and time for a slow disk."""
_MAX_GROWTH = 2
"""How many bytes of tensors a byte of a file may give: a tied matrix is stored once and named twice."""
_HEADER_BYTES = 64 << 20
_FILES_OF_A_CHILD = 32
"""How many files a child reads, one after another: to start one costs two seconds."""


def convert_pickles(paths: Sequence[Path], outs: Sequence[Path]) -> None:
    """Write the tensors of pickled files as safetensors.

    Args:
        paths: Files that `torch.save` wrote: each an object of tensors by name.
        outs: The file to write for each.

    Raises:
        UserError: A file holds anything but tensors, is damaged, or reading it took too much; none of those that its
            child was to write is left.
    """
    for first in range(0, len(paths), _FILES_OF_A_CHILD):
        last = first + _FILES_OF_A_CHILD
        _convert(paths[first:last], outs[first:last])


def _convert(paths: Sequence[Path], outs: Sequence[Path]) -> None:
    sizes = [path.stat().st_size for path in paths]
    for path in paths:
        check_downloaded(path)
    files = [[str(path.absolute()), str(out.absolute())] for path, out in zip(paths, outs, strict=True)]
    index, problem = 0, ""
    try:
        reply = run_bounded(
            "hanlin.models.layouts.pickles:convert_in_child",
            {"files": files, "largest": max(sizes)},
            seconds=_SECONDS + sum(sizes) // _BYTES_PER_SECOND,
            memory=_MEMORY + 3 * max(sizes),
        )
        index, problem = reply["file"], reply["problem"]
    except BoundsExceededError as error:
        index = next((index for index, out in enumerate(outs) if not _is_complete(out)), 0)
        problem = {
            "time": tr("it took too long to read"),
            "memory": tr("it needs too much memory"),
            "crash": tr("the process that read it crashed"),
        }[error.reason]
    except RuntimeError as error:
        problem = str(error).strip().partition("\n")[0][:200] or "?"
    if problem:
        for out in outs:
            out.unlink(missing_ok=True)
        hint = tr("a pickle can hold a program, which is never run; copy it again, or use a model in safetensors")
        raise UserError(tr("not a file of weights alone: {problem}", problem=problem), paths[index], hint)


def _is_complete(out: Path) -> bool:
    try:
        return bool(check_safetensors(out))
    except (UserError, OSError):
        return False


def convert_in_child(request: dict[str, Any]) -> dict[str, Any]:
    """The child's half of `convert_pickles`: gives up its rights, reads the files and writes their tensors.

    Args:
        request: `files`, pairs of a file and the one to write, and the `largest` size of a file in bytes.

    Returns:
        `problem`, why a file is refused, or an empty text; and `file`, which.
    """
    with ExitStack() as stack:
        outs = [stack.enter_context(open(out, "wb")) for _, out in request["files"]]
        torch.zeros(1).clone()  # whatever torch opens at its first use
        give_up_rights(_MAX_GROWTH * request["largest"] + _HEADER_BYTES)
        for index, ((file, _), out) in enumerate(zip(request["files"], outs, strict=True)):
            problem = convert(file, out)
            if problem:
                return {"file": index, "problem": problem}
            out.flush()
    return {"file": 0, "problem": ""}


def convert(file: str, out: IO[bytes]) -> str:
    """Write the tensors of one file; returns why it is refused, or an empty text."""
    try:
        tensors = _load(file)
        problem = _find_problem(tensors, Path(file).stat().st_size)
    except Exception as error:  # of the unpickler: of many kinds, and of what the file makes of it
        return _shorten(error)
    if not problem:
        _write(cast(Mapping[str, torch.Tensor], tensors), out)
    return problem


def _load(file: str) -> Any:
    """Newer files are zip archives, which are mapped instead of read."""
    if zipfile.is_zipfile(file):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(file, map_location="cpu", weights_only=True)


def _shorten(error: Exception) -> str:
    """What the unpickler did not take; torch's own sentence advises to run the file."""
    text = str(error)
    if isinstance(error, (EOFError, OSError)) or "PytorchStreamReader" in text:
        return "the file ends too early or is damaged"
    if "Unsupported operand" in text:
        return "no pickle of tensors"
    if "Weights only load failed" in text:
        text = text.partition("WeightsUnpickler error:")[2] or "no pickle of tensors"
    return text.strip().partition("\n")[0].partition(". ")[0][:200] or type(error).__name__


def _find_problem(tensors: Any, size: int) -> str:
    if not isinstance(tensors, dict) or not tensors:
        return "no tensors by name"
    if len(tensors) > MAX_TENSORS:
        return f"{len(tensors):,} tensors"
    total = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or len(name) > _MAX_NAME_CHARACTERS:
            return "a name is no text"
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            return f"{name[:80]!r} is no tensor"
        if tensor.dtype not in _DTYPES:
            return f"{name[:80]!r} holds {tensor.dtype}"
        total += tensor.numel() * tensor.element_size()
        if total > _MAX_GROWTH * size:  # a shape that its bytes do not fill
            return f"{name[:80]!r} is larger than the file"
    return ""


def _write(tensors: Mapping[str, torch.Tensor], out: IO[bytes]) -> None:
    """Write safetensors, one tensor after another; the library would copy all of them first."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors.values():
        out.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
