"""The stage `export_checkpoint`: a model folder in Meta's original layout."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanlin.config.settings.surgery.export_checkpoint import ExportCheckpoint
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space, open_atomic, write_json
from hanlin.core.i18n import tr
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import CONFIG, EMBEDDINGS, ModelFiles, find_license_files
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.layouts import meta
from hanlin.models.layouts.meta_tokenizer import is_tiktoken
from hanlin.models.layouts.row_order import interleave
from hanlin.models.save import read_tensor, round_weight
from hanlin.models.sentencepiece_file import carry_model
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)


def run(settings: ExportCheckpoint, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write params.json and `consolidated.NN.pth` into `out`, read each file again and compare it with the model.

    One file is in memory at a time.

    Args:
        settings: How many files, and the dtype.
        inputs: `model`, the folder of the model.
        out: An empty folder.
        context: Reports progress.

    Returns:
        How many files and tensors were written, and whether a tokenizer came with the model.

    Raises:
        UserError: The model has something that Meta's layout does not, or cannot be divided so.
        RuntimeError: A file holds other values than the model.
    """
    files = check_model_folder(inputs.path("model"))
    params = meta.build_params(files.config, files.folder / CONFIG)
    _check_shards(settings.shards, params, files)
    names = list(llama_shapes({**files.config, "tie_word_embeddings": False}))  # Meta's code wants a head in any case
    dtype = None if settings.dtype == "model" else torch_dtype(settings.dtype)
    check_free_space(out, sum(entry.end - entry.start for entry in files.tensors.values()))
    with catch_full_disk(out):
        for index in range(settings.shards):
            context.progress.update(index, settings.shards, tr("files"), force=True)
            path = out / f"consolidated.{index:02d}.pth"
            shard = {meta.meta_name(name): _part(files, name, params, dtype, index, settings.shards) for name in names}
            with open_atomic(path, "wb") as file:
                torch.save(shard, file)
            _verify(path, shard)
        write_json(out / meta.PARAMS, params)
        _carry_tokenizer(files.folder, out)
        for license_file in filter(Path.is_file, find_license_files(files.folder)):
            shutil.copyfile(license_file, out / license_file.name)
    return {
        "files": settings.shards,
        "tensors": len(names),
        "dtype": files.dtype if dtype is None else settings.dtype,
        "tokenizer": (out / SENTENCEPIECE_FILE).is_file(),
        "verified": True,
    }


def _carry_tokenizer(folder: Path, out: Path) -> None:
    """Copy the `tokenizer.model` of a folder, if its pieces are the entries of `tokenizer.json`; ranks of tiktoken are
    copied as they are. A warning says if there is none afterwards.
    """
    file = folder / SENTENCEPIECE_FILE
    if file.is_file() and is_tiktoken(file.read_bytes()):
        shutil.copyfile(file, out / file.name)
    elif file.is_file():
        carry_model([folder], Tokenizer.load(folder), out)
    if not (out / SENTENCEPIECE_FILE).is_file():
        what = tr(
            "no {name} is written, the only tokenizer of Meta's layout: name this folder as `tokenizer` to import the "
            "checkpoint again",
            name=SENTENCEPIECE_FILE,
        )
        _LOG.warning("%s: %s", folder, what)


def _check_shards(shards: int, params: Mapping[str, Any], files: ModelFiles) -> None:
    sizes = {
        "num_key_value_heads": params["n_kv_heads"],
        "hidden_size": params["dim"],
        "intermediate_size": int(files.config["intermediate_size"]),
        "vocab_size": params["vocab_size"],
    }
    for name, size in sizes.items():
        if size % shards:
            what = tr("{name} ({size}) cannot be divided by {shards}", name=name, size=size, shards=shards)
            raise UserError(what, "shards", tr("choose a divisor of all sizes, such as 1"))


def _part(
    files: ModelFiles, name: str, params: Mapping[str, Any], dtype: torch.dtype | None, index: int, shards: int
) -> torch.Tensor:
    """The part of a tensor that shard `index` of `shards` holds, in Meta's order of rows."""
    weight = read_tensor(files, name if name in files.tensors else EMBEDDINGS)
    if name.endswith("self_attn.q_proj.weight"):
        weight = interleave(weight, params["n_heads"])
    elif name.endswith("self_attn.k_proj.weight"):
        weight = interleave(weight, params["n_kv_heads"])
    weight = round_weight(weight, dtype, name, files.folder)
    dimension = (
        None if weight.dim() < 2 or shards == 1 else 1 if meta.meta_name(name).endswith(meta.ROW_PARALLEL) else 0
    )
    return weight if dimension is None else weight.chunk(shards, dimension)[index].clone()


def _verify(path: Path, shard: Mapping[str, torch.Tensor]) -> None:
    written = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    for name, weight in shard.items():
        if written[name].dtype != weight.dtype or not torch.equal(written[name], weight):
            raise RuntimeError(f"{path.name}: {name} was written with other values than it has in memory")
