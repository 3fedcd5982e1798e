"""An adapter with pickled weights (`adapter_model.bin`), as PEFT saved it before 0.8, as an adapter in safetensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hanlin.chat.tokenizer_files import find_template, save_tokenizer
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, write_json
from hanlin.core.i18n import tr
from hanlin.models.folder.adapter import check_adapter_folder, rewrite_base_path
from hanlin.models.folder.checks import check_dtype, check_safetensors, read_json_object
from hanlin.models.folder.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TensorEntry, is_adapter
from hanlin.models.safetensors import read_rows, save_safetensors
from hanlin.models.save import round_weight
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

PICKLED_ADAPTER = "adapter_model.bin"

Convert = Callable[[Sequence[Path]], list[dict[str, TensorEntry]]]
"""Pickled files as safetensors, converted in a process without rights; the tensors of each by name."""


def import_adapter(
    folder: Path, out: Path, convert: Convert, dtype: torch.dtype | None, tokenizer_folder: Path | None
) -> dict[str, Any]:
    """Write the adapter of a folder into `out`, with the tokenizer that lies beside it, and compare every tensor.

    The base that its configuration names by a path is named from `out`; one of a hub stays.

    Args:
        folder: The adapter folder.
        out: An empty folder.
        convert: What reads the pickle.
        dtype: Number format of the tensors; None: their own.
        tokenizer_folder: The tokenizer to write; None: the one beside the adapter, if there is any.

    Returns:
        How many files and tensors it has.

    Raises:
        UserError: It is no adapter of LoRA with pickled weights, or a number is not finite.
        RuntimeError: A tensor was written with other values.
    """
    if not is_adapter(folder) or not (folder / PICKLED_ADAPTER).is_file():
        what = tr("there is no adapter with pickled weights here")
        raise UserError(what, folder, tr("name a folder with adapter_config.json and adapter_model.bin"))
    config = read_json_object(folder / ADAPTER_CONFIG)
    (entries,) = convert([folder / PICKLED_ADAPTER])
    for name, entry in entries.items():
        check_dtype(name, replace(entry, file=folder / PICKLED_ADAPTER))  # the user's file, not its copy
    tensors = {
        name: round_weight(read_rows(entry), dtype, name, folder / PICKLED_ADAPTER) for name, entry in entries.items()
    }
    with catch_full_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        save_safetensors(tensors, out / ADAPTER_WEIGHTS)
        write_json(out / ADAPTER_CONFIG, config, indent=2)
        base = folder / str(config.get("base_model_name_or_path") or "-")
        if base.is_dir():
            rewrite_base_path(out, base)
        source = tokenizer_folder or folder
        if any((source / name).is_file() for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE)):
            tokenizer = Tokenizer.load(source)
            save_tokenizer(tokenizer, find_template(tokenizer), out)
            if (source / SENTENCEPIECE_FILE).is_file():
                shutil.copyfile(source / SENTENCEPIECE_FILE, out / SENTENCEPIECE_FILE)
    check_adapter_folder(out)
    written = check_safetensors(out / ADAPTER_WEIGHTS)
    for name, tensor in tensors.items():
        if not torch.equal(read_rows(written[name]), tensor):
            raise RuntimeError(f"{name} was written with other values")
    return {
        "layout": "adapter",
        "files": 1,
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        "tensors_verified": len(written),
    }
