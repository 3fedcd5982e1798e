"""The stage `import_checkpoint`: a model folder from Meta's original checkpoint or from pickled weights, or an adapter
from pickled ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.surgery.import_checkpoint import ImportCheckpoint
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space, load_json_object, partial_path
from hanlin.core.i18n import join_list, tr
from hanlin.core.limits import MAX_SHARDS
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.checks import (
    check_family,
    check_safetensors,
    check_vocabulary_size,
    get_quantization_method,
    read_config,
)
from hanlin.models.folder.layout import (
    CONFIG,
    EMBEDDINGS,
    HEAD,
    SUPPORTED_ARCHITECTURES,
    ModelFiles,
    TensorEntry,
    is_adapter,
)
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.layouts import meta
from hanlin.models.layouts.adapter_checkpoint import import_adapter
from hanlin.models.layouts.meta_tokenizer import load_meta_tokenizer
from hanlin.models.layouts.pickles import convert_pickles
from hanlin.models.layouts.row_order import undo_interleaving
from hanlin.models.save import (
    StoredWeights,
    describe_config,
    keep_generation_settings,
    read_tensor,
    round_weight,
    save_stored,
    verify_stored,
)
from hanlin.tokenizer.tokenizer import Tokenizer

PICKLES = "pytorch_model*.bin"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_SHARD = re.compile(r"consolidated\.(\d{2})\.pth")
_MAX_META_FILES = 100
_QUERIES = "layers.0.attention.wq.weight"
"""A matrix of which each file holds as many rows as any other."""
_FLOATS = ("F32", "F16", "BF16")

Shards = Sequence[Mapping[str, TensorEntry]]
"""The tensors of each file, by name."""


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What is to be written: the configuration, a reader of each weight, and where it was read."""

    config: dict[str, Any]
    readers: Mapping[str, Callable[[], torch.Tensor]]
    tokenizer: Tokenizer
    layout: str
    files: int


def run(settings: ImportCheckpoint, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model folder into `out`, reload it, and compare every tensor with the checkpoint.

    Args:
        settings: The dtype, and what the checkpoint does not say.
        inputs: `checkpoint`, its folder; `tokenizer`, a tokenizer's folder, or none.
        out: An empty folder.
        context: Reports progress.

    Returns:
        The layout, and how many files and tensors it has.

    Raises:
        UserError: The folder is no checkpoint of a Llama model or adapter of one, or a file holds anything but weights.
        RuntimeError: A tensor was written with other values.
    """
    scratch = context.scratch_folder(out)
    try:
        return _import(settings, inputs, out, scratch, context)
    except UserError:
        for copy in scratch.glob("*.safetensors*"):  # as large as the checkpoint, and no later run would take it
            copy.unlink()
        raise


def _import(
    settings: ImportCheckpoint, inputs: Inputs, out: Path, scratch: Path, context: StageContext
) -> dict[str, Any]:
    folder = inputs.path("checkpoint")
    if not folder.is_dir():
        raise UserError(tr("there is no such folder"), folder, code="not_found")
    is_meta = settings.holds == "model" and (folder / meta.PARAMS).is_file() and any(folder.glob("consolidated.*pth"))
    for name in () if is_meta else ("context_length", "rope_factor"):
        if getattr(settings, name) is not None:
            what = tr("{name} is for Meta's checkpoints, whose params.json does not say it", name=name)
            raise UserError(what, name, tr("leave it out: the config.json of the folder counts"))
    if settings.holds == "adapter":
        dtype = None if settings.dtype == "checkpoint" else torch_dtype(settings.dtype)
        convert = partial(_convert, scratch=scratch, context=context)
        return import_adapter(folder, out, convert, dtype, inputs.optional_path("tokenizer"))
    if is_meta:
        checkpoint = _open_meta(settings, folder, inputs.optional_path("tokenizer"), scratch, context)
    elif (folder / CONFIG).is_file() and any(folder.glob(PICKLES)):
        checkpoint = _open_pickled(folder, inputs.optional_path("tokenizer"), scratch, context)
    elif is_adapter(folder):
        raise UserError(tr("this is an adapter"), folder, tr("set `holds: adapter`"))
    else:
        what = tr("there is no checkpoint here")
        hint = tr("name a folder with params.json and consolidated.*.pth, or with config.json and pytorch_model*.bin")
        raise UserError(what, folder, hint)
    dtype = None if settings.dtype == "checkpoint" else torch_dtype(settings.dtype)
    weights = StoredWeights(
        {name: partial(_read_rounded, read, dtype, name, folder) for name, read in checkpoint.readers.items()}
    )
    dtype_name = str(dtype or checkpoint.readers[EMBEDDINGS]().dtype).removeprefix("torch.")
    with catch_full_disk(out):
        files = save_stored(
            {**checkpoint.config, "dtype": dtype_name, "torch_dtype": dtype_name},
            weights,
            out,
            dtype=dtype_name,
            tokenizer=checkpoint.tokenizer,
            template=find_template(checkpoint.tokenizer),
        )
        if checkpoint.tokenizer.folder != folder:
            keep_generation_settings(folder, out, checkpoint.tokenizer)
    num_tensors = verify_stored(files, weights)
    return {
        "layout": checkpoint.layout,
        "files": checkpoint.files,
        "dtype": files.dtype,
        "tensors_verified": num_tensors,
        "vocabulary_rows": files.vocabulary_rows,
        "tokenizer_entries": len(checkpoint.tokenizer),
        "tied_embeddings": bool(checkpoint.config["tie_word_embeddings"]),
    }


def _read_rounded(read: Callable[[], torch.Tensor], dtype: torch.dtype | None, name: str, folder: Path) -> torch.Tensor:
    return round_weight(read(), dtype, name, folder)


def _convert(files: Sequence[Path], scratch: Path, context: StageContext) -> list[dict[str, TensorEntry]]:
    """Each pickled file as safetensors in the scratch folder; those that an interrupted run has made are kept."""
    check_free_space(scratch, 2 * sum(file.stat().st_size for file in files))
    context.progress.update(0, len(files), tr("files"), force=True)
    outs = [scratch / f"{index:05d}.safetensors" for index in range(len(files))]
    left = [(file, out) for file, out in zip(files, outs, strict=True) if not out.is_file()]
    with catch_full_disk(scratch):
        convert_pickles([file for file, _ in left], [partial_path(out) for _, out in left])
    for _, out in left:
        os.replace(partial_path(out), out)
    context.progress.update(len(files), len(files), tr("files"), force=True)
    return [check_safetensors(out) for out in outs]


def _read(entry: TensorEntry, name: str) -> torch.Tensor:
    return read_tensor(ModelFiles(entry.file.parent, {}, {name: entry}), name)


# ------------------------------------------------------------------------------------------------ Meta's layout


def _open_meta(
    settings: ImportCheckpoint, folder: Path, tokenizer_folder: Path | None, scratch: Path, context: StageContext
) -> _Checkpoint:
    params = meta.read_params(folder)
    files = _meta_files(folder)
    if tokenizer_folder is None:  # before the weights: a missing tokenizer should not cost minutes
        tokenizer = load_meta_tokenizer(folder, scratch / "tokenizer", later=bool(params.get("use_scaled_rope")))
    else:
        tokenizer = Tokenizer.load(tokenizer_folder)
    shards = _convert(files, scratch, context)
    _check_floats(files, shards)
    names = set(shards[0]) - {meta.COMPUTED}
    for file, shard in zip(files, shards, strict=True):
        if set(shard) - {meta.COMPUTED} != names:
            what = tr("it holds other tensors than {file}", file=files[0].name)
            raise UserError(what, file, tr("copy or download it again"))
    _check_file_count(params, files, shards)
    shapes = {name: _merged_shape(name, params, shards, folder) for name in names}
    config = meta.build_meta_config(
        params,
        shapes,
        folder / meta.PARAMS,
        context_length=settings.context_length,
        rope_factor=settings.rope_factor,
    )
    is_tied = "output.weight" not in names or torch.equal(
        _merge("output.weight", params, shards, folder), _merge("tok_embeddings.weight", params, shards, folder)
    )
    if is_tied:
        shapes.pop("output.weight", None)
    description = describe_config(config, tied=is_tied)
    expected = llama_shapes(description)
    _check_names({meta.meta_name(name): shape for name, shape in expected.items()}, shapes, folder)
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": description["num_key_value_heads"]}
    readers = {
        name: partial(_read_meta, meta.meta_name(name), params, shards, folder, _heads_of(name, heads))
        for name in expected
    }
    check_vocabulary_size(len(tokenizer), description["vocab_size"], tokenizer.folder)
    return _Checkpoint(description, readers, tokenizer, "meta", len(files))


def _meta_files(folder: Path) -> list[Path]:
    single = folder / "consolidated.pth"
    files = sorted(file for file in folder.glob("consolidated.*.pth") if _SHARD.fullmatch(file.name))
    if not files and single.is_file():
        return [single]
    missing = [f"consolidated.{index:02d}.pth" for index in range(len(files))]
    missing = [name for name in missing if name not in {file.name for file in files}]
    if missing or not files:
        what = tr("there is no {name} here", name=join_list(missing[:3]) or "consolidated.00.pth")
        raise UserError(what, folder, tr("copy or download it again"))
    return files


def _check_file_count(params: Mapping[str, Any], files: Sequence[Path], shards: Shards) -> None:
    """Raise UserError if files are missing behind the last one: each holds fewer of the queries' rows than one of so
    many files does.
    """
    dim, entry = params.get("dim"), shards[0].get(_QUERIES)
    if not isinstance(dim, int) or entry is None or len(entry.shape) != 2 or entry.shape[1] != dim:
        return
    total, rest = divmod(dim, max(1, entry.shape[0]))
    if rest == 0 and len(files) < total <= _MAX_META_FILES:
        missing = [f"consolidated.{index:02d}.pth" for index in range(len(files), total)]
        raise _missing_files(missing, total, files[0].parent)


def _missing_files(missing: Sequence[str], total: int, folder: Path) -> UserError:
    what = tr(
        "{count} of {total} weight files are missing: {names}",
        count=len(missing),
        total=total,
        names=join_list(missing[:3]),
    )
    return UserError(what, folder, tr("copy or download them again"))


def _heads_of(name: str, heads: Mapping[str, int]) -> int:
    return next((count for ending, count in heads.items() if name.endswith(ending)), 0)


def _merged_shape(name: str, params: Mapping[str, Any], shards: Shards, folder: Path) -> tuple[int, ...]:
    shape = list(shards[0][name].shape)
    if any(list(shard[name].shape) != shape for shard in shards):
        what = tr("'{name}' has other sizes in other files", name=name)
        raise UserError(what, folder, tr("copy or download it again"))
    dimension = meta.split_dimension(name, shape, params, len(shards))
    if dimension is not None:
        shape[dimension] *= len(shards)
    return tuple(shape)


def _merge(name: str, params: Mapping[str, Any], shards: Shards, folder: Path) -> torch.Tensor:
    """A tensor of all shards together."""
    parts = [_read(shard[name], name) for shard in shards]
    dimension = meta.split_dimension(name, parts[0].shape, params, len(shards))
    if dimension is not None:
        return torch.cat(parts, dimension)
    if any(not torch.equal(part, parts[0]) for part in parts[1:]):
        what = tr("'{name}' has other values in other files", name=name)
        raise UserError(what, folder, tr("copy or download it again"))
    return parts[0]


def _read_meta(name: str, params: Mapping[str, Any], shards: Shards, folder: Path, heads: int) -> torch.Tensor:
    merged = _merge(name, params, shards, folder)
    return undo_interleaving(merged, heads) if heads else merged


# ---------------------------------------------------------------------------------------------- pickled weights


def _open_pickled(folder: Path, tokenizer_folder: Path | None, scratch: Path, context: StageContext) -> _Checkpoint:
    config = read_config(folder)
    check_family(config, folder / CONFIG, SUPPORTED_ARCHITECTURES)
    if get_quantization_method(config):
        hint = tr("name the checkpoint that it was quantized from")
        raise UserError(tr("the weights are already quantized"), folder / CONFIG, hint)
    files = _pickled_files(folder)
    shards = _convert(files, scratch, context)
    tensors: dict[str, TensorEntry] = {}
    for file, shard in zip(files, shards, strict=True):
        weights = {name: entry for name, entry in shard.items() if not name.endswith("rotary_emb.inv_freq")}
        repeated = sorted(tensors.keys() & weights.keys())
        if repeated:
            what = tr("'{name}' is in another file of the folder too", name=repeated[0])
            raise UserError(what, file, tr("leave the files of one model alone in the folder"))
        tensors |= weights
    _check_floats([folder], [tensors])
    is_repeated = config.get("tie_word_embeddings") and {HEAD, EMBEDDINGS} <= tensors.keys()
    if is_repeated and torch.equal(_read(tensors[HEAD], HEAD), _read(tensors[EMBEDDINGS], EMBEDDINGS)):
        del tensors[HEAD]
    try:
        expected = llama_shapes(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = tr("the configuration lacks or has a wrong value for {error}", error=error)
        raise UserError(what, folder / CONFIG, tr("copy or download it again")) from error
    _check_names(expected, {name: entry.shape for name, entry in tensors.items()}, folder)
    config = {**config, "tie_word_embeddings": bool(config.get("tie_word_embeddings"))}
    readers = {name: partial(_read, tensors[name], name) for name in expected}
    tokenizer = Tokenizer.load(tokenizer_folder or folder)
    check_vocabulary_size(len(tokenizer), config["vocab_size"], tokenizer.folder)
    return _Checkpoint(config, readers, tokenizer, "pickled", len(files))


def _pickled_files(folder: Path) -> list[Path]:
    index = folder / _PICKLE_INDEX
    if not index.is_file():
        return [folder / _PICKLE] if (folder / _PICKLE).is_file() else sorted(folder.glob(PICKLES))
    weight_map = load_json_object(index, hint=tr("copy or download it again")).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not names or len(names) > MAX_SHARDS:
        raise UserError(tr("the index names no weights"), index, tr("copy or download it again"))
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise _missing_files(missing, len(names), folder)
    return [folder / name for name in names]


# ----------------------------------------------------------------------------------------------------- both


def _check_floats(files: Sequence[Path], shards: Shards) -> None:
    """Raise UserError for a weight of whole numbers, as some quantized checkpoints have."""
    for file, shard in zip(files, shards, strict=True):
        for name, entry in shard.items():
            if entry.dtype not in _FLOATS:
                what = tr("'{name}' holds whole numbers ({dtype})", name=name, dtype=entry.dtype)
                raise UserError(what, file, tr("name the checkpoint that it was quantized from"))


def _check_names(expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise UserError unless the checkpoint holds the tensors that its configuration asks for and no others."""
    missing, extra = sorted(set(expected) - set(actual)), sorted(set(actual) - set(expected))
    if missing:
        what = tr("{count} weights are missing: {names}", count=len(missing), names=join_list(missing[:3]))
        raise UserError(what, folder, tr("copy or download it again"))
    if extra:
        what = tr(
            "{count} weights do not belong to a Llama model: {names}", count=len(extra), names=join_list(extra[:3])
        )
        raise UserError(what, folder, tr("name a model without additional parts"))
    for name, shape in expected.items():
        if tuple(actual[name]) != tuple(shape):
            what = tr(
                "'{name}' has shape {shape}, but {config} requires {expected_shape}",
                name=name,
                shape=list(actual[name]),
                config=meta.PARAMS if (folder / meta.PARAMS).is_file() else CONFIG,
                expected_shape=list(shape),
            )
            raise UserError(what, folder, tr("copy or download it again"))
