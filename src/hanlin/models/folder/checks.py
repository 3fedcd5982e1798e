"""Check a model folder from its headers: whether it is complete and can be loaded.

It imports neither torch nor transformers, so that a recipe can be planned with it. `hanlin.models.load` loads weights.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import check_downloaded, load_json_object, open_regular, parse_json_object
from hanlin.core.i18n import join_list, tr
from hanlin.core.limits import (
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    MAX_SHARDS,
    MAX_TENSORS,
    MAX_TOKENIZER_BYTES,
    MAX_VOCABULARY,
)
from hanlin.models.folder.config import check_config, read_number
from hanlin.models.folder.layout import (
    CONFIG,
    DTYPE_NAMES,
    INDEX,
    MOE_ARCHITECTURES,
    SUPPORTED_ARCHITECTURES,
    WEIGHTS,
    ModelFiles,
    TensorEntry,
    is_adapter,
)
from hanlin.models.folder.shapes import PACKED_EXPERTS, llama_shapes

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
NUM_WINDOWS, WINDOW_BYTES = 32, 1024
"""Windows of a tensor that a fingerprint covers (see `hanlin.models.folder.adapter`)."""


def check_safetensors(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a safetensors file and check that the file is complete.

    Format (huggingface/safetensors, README "Format"): N as 8 bytes, little-endian; N bytes of JSON; the bytes of the
    tensors without gaps. So the header tells how large a complete file is.

    Returns:
        Every tensor by name.

    Raises:
        UserError: The file is cut off, too long, or no safetensors file.
    """
    file_size = path.stat().st_size
    with open_regular(path) as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        is_plausible = length <= max(MAX_HEADER_BYTES, file_size)
        if len(first) < 8 or (is_plausible and 8 + length > file_size):
            raise truncated_error(path, 8 + length, file_size)
        text = file.read(length) if length <= MAX_HEADER_BYTES else b""
    if not text.startswith(b"{") and (length <= MAX_HEADER_BYTES or not is_plausible):
        check_downloaded(path)
        raise not_safetensors_error(path)
    if not text:
        what = tr("the header has {size:,} bytes, but at most {limit:,} are read", size=length, limit=MAX_HEADER_BYTES)
        raise UserError(what, path)
    try:
        rows = {name: row for name, row in parse_json_object(text).items() if name != "__metadata__"}
        if len(rows) > MAX_TENSORS:
            raise too_many_tensors_error(len(rows), path)
        tensors = {name: _read_entry(row, path, 8 + length) for name, row in rows.items()}
    except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise not_safetensors_error(path) from error
    offset = 8 + length
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = _BITS.get(entry.dtype, 0) * math.prod(entry.shape)
        if entry.start != offset or bits != 8 * (entry.end - entry.start) or entry.dtype not in _BITS:
            what = tr("the header gives a wrong position for tensor '{name}'", name=name)
            raise UserError(what, path, copy_again_hint())
        offset = entry.end
    if offset > file_size:
        raise truncated_error(path, offset, file_size)
    if offset < file_size:
        extra_bytes = file_size - offset
        what = tr("the file has {extra_bytes:,} bytes after its last tensor", extra_bytes=extra_bytes)
        raise UserError(what, path, copy_again_hint())
    return tensors


def _read_entry(row: Mapping[str, Any], path: Path, start: int) -> TensorEntry:
    """One tensor of a header. Raises ValueError if its sizes are no sizes."""
    shape, offsets = list(row["shape"]), list(row["data_offsets"])
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise ValueError(shape)
    if not all(type(size) is int and 0 <= size < 1 << 63 for size in [*shape, *offsets]):
        raise ValueError(shape)
    return TensorEntry(str(row["dtype"]), tuple(shape), path, start + offsets[0], start + offsets[1])


def check_model_folder(folder: Path, *, experts: bool = False) -> ModelFiles:
    """Read the headers of a Llama model folder and check that it can be loaded as it is.

    Args:
        folder: The model folder.
        experts: Accept a Mixtral model too, whose experts are separate matrices or packed into one tensor.

    Raises:
        UserError: There is no `config.json`; another architecture; code in the folder; quantized weights; only pickled
            weights; weight files cut off or missing; tensors missing or of another shape than the configuration says; a
            tied model with a different output head; a tokenizer with more entries than there are embedding rows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        hint = gguf_hint() if folder.suffix == ".gguf" else None
        raise UserError(tr("there is no such folder"), folder, hint, "not_found")
    if not (folder / CONFIG).is_file():
        raise UserError(
            tr("there is no {config} here", config=CONFIG),
            folder,
            missing_config_hint(folder, is_adapter(folder)),
        )
    config = read_config(folder)
    check_family(config, folder / CONFIG, {**SUPPORTED_ARCHITECTURES, **(MOE_ARCHITECTURES if experts else {})})
    if get_quantization_method(config):
        hint = tr("name the checkpoint that it was quantized from")
        raise UserError(tr("the weights are already quantized"), folder / CONFIG, hint)
    tensors = check_weights(folder)
    _check_tensors(config, tensors, folder)
    files = ModelFiles(folder, config, tensors)
    _check_vocabulary(files)
    return files


def get_quantization_method(config: Mapping[str, Any]) -> str:
    """Return by which method the weights are quantized (`compressed-tensors`, `bitsandbytes`), or an empty string."""
    row = config.get("quantization_config")
    return str(row.get("quant_method", "?")) if isinstance(row, dict) else ""


def is_quantized(folder: Path) -> bool:
    """Whether the weights of a model folder are quantized in a way that transformers loads itself."""
    return (Path(folder) / CONFIG).is_file() and bool(get_quantization_method(read_config(Path(folder))))


def check_quantized_folder(folder: Path) -> dict[str, Any]:
    """Check a quantized Llama folder and return its configuration; which tensors its method stores is not checked.

    Raises:
        UserError: Another architecture, or a weight file is missing or incomplete.
    """
    config = read_config(folder)
    check_family(config, folder / CONFIG, SUPPORTED_ARCHITECTURES)
    check_weights(folder)
    return config


def check_weights(folder: Path) -> dict[str, TensorEntry]:
    """Read the headers of all weights of a folder: of one file, or of every shard in the index.

    Raises:
        UserError: A file is missing or incomplete.
    """
    if (folder / WEIGHTS).is_file():
        return check_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise missing_weights_error(folder, WEIGHTS, INDEX)
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(tr("the index names no weights"), folder / INDEX, copy_again_hint())
    shards = sorted({str(name) for name in weight_map.values()})
    if len(shards) > MAX_SHARDS or len(weight_map) > MAX_TENSORS:
        raise too_many_tensors_error(len(weight_map), folder / INDEX)
    missing = [name for name in shards if not _is_shard(folder, name)]
    if missing:
        what = tr(
            "{count} of {total} weight files are missing: {names}",
            count=len(missing),
            total=len(shards),
            names=shorten(missing),
        )
        raise UserError(what, folder, tr("copy or download them again"))
    tensors: dict[str, TensorEntry] = {}
    for name in shards:
        found = check_safetensors(folder / name)
        repeated = [key for key in found if key in tensors and not same_bytes(found[key], tensors[key])]
        if repeated:
            what = tr("'{name}' is in another file of the folder too", name=repeated[0])
            raise UserError(what, folder / name, tr("leave the files of one model alone in the folder"))
        tensors.update(found)
        if len(tensors) > MAX_TENSORS:
            raise too_many_tensors_error(len(tensors), folder / INDEX)
    absent = [name for name in weight_map if name not in tensors]
    if absent:
        what = tr("no weight file contains {names}", names=shorten(absent))
        raise UserError(what, folder / INDEX, copy_again_hint())
    return tensors


def _is_shard(folder: Path, name: str) -> bool:
    """Whether an index may name this file: one of the folder itself, which is there."""
    try:
        return Path(name).name == name and (folder / name).is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def check_family(config: Mapping[str, Any], where: Path, families: Mapping[str, str]) -> None:
    """Raise UserError unless a configuration is of one of these families (family to architecture), without own code."""
    supported = join_list(families.values())
    hint = tr("supported: {supported}", supported=supported)
    names = [str(name) for name in config.get("architectures") or ()]
    architecture = names[0] if names else str(config.get("model_type"))
    family = str(config.get("model_type"))
    if family not in families or (names and names[0] != families[family]):
        if family in MOE_ARCHITECTURES:
            what = tr(
                "the architecture {architecture} is not supported here: it can be trained, merged, exported and run",
                architecture=architecture,
            )
        else:
            what = tr("the architecture {architecture} is not supported", architecture=architecture)
        raise UserError(what, where, hint)
    if config.get("auto_map"):
        what = tr("the model comes with code of its own, which is never run")
        raise UserError(what, where, hint)


def _check_tensors(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry], folder: Path) -> None:
    layers, experts = (int(config.get(name) or 0) for name in ("num_hidden_layers", "num_local_experts"))
    if max(layers, experts) > len(tensors):
        what = tr(
            "the configuration says {layers:,} layers and {experts:,} experts, but there are {count:,} weights",
            layers=layers,
            experts=experts,
            count=len(tensors),
        )
        hint = tr("weights and {config} must belong together", config=CONFIG)
        raise UserError(what, folder / CONFIG, hint)
    try:
        expected = llama_shapes(config, packed_experts=PACKED_EXPERTS.format(0) in tensors)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = tr("the configuration lacks or has a wrong value for {error}", error=error)
        raise UserError(what, folder / CONFIG, copy_again_hint()) from error
    missing = [name for name in expected if name not in tensors]
    if missing:
        what = tr("{count} weights are missing: {names}", count=len(missing), names=shorten(missing))
        raise UserError(what, folder, copy_again_hint())
    for name, shape in expected.items():
        entry = tensors[name]
        if entry.shape != shape:
            what = tr(
                "'{name}' has shape {shape}, but {config} requires {expected_shape}",
                name=name,
                shape=list(entry.shape),
                config=CONFIG,
                expected_shape=list(shape),
            )
            raise UserError(
                what,
                entry.file,
                tr("weights and {config} must belong together", config=CONFIG),
            )
        check_dtype(name, entry)
    extra = [name for name in tensors if name not in expected and not name.endswith("rotary_emb.inv_freq")]
    if extra == ["lm_head.weight"]:
        if not same_bytes(tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]):
            what = tr("the configuration says that the embeddings are tied, but the output head is another matrix")
            hint = tr('set "tie_word_embeddings": false in {config}', config=CONFIG)
            raise UserError(what, folder / CONFIG, hint)
    elif extra:
        names = shorten(extra)
        what = tr("{count} weights do not belong to a Llama model: {names}", count=len(extra), names=names)
        raise UserError(what, folder, tr("name a model without additional parts"))


def check_dtype(name: str, entry: TensorEntry) -> None:
    """Raise UserError for a tensor of numbers that weights are not stored in here."""
    if entry.dtype not in DTYPE_NAMES:
        what = tr("'{name}' is stored as {dtype}", name=name, dtype=entry.dtype)
        raise UserError(what, entry.file, tr("supported: F32, BF16, F16"))


def _check_vocabulary(files: ModelFiles) -> None:
    tokenizer = files.folder / "tokenizer.json"
    if not tokenizer.is_file():
        return
    status = tokenizer.stat()
    size = _count_tokens(tokenizer, status.st_size, status.st_mtime_ns)
    check_vocabulary_size(size, files.vocabulary_rows, tokenizer)


def check_vocabulary_size(size: int, vocabulary_rows: int, tokenizer: Path) -> None:
    """Raise UserError if a tokenizer of `size` entries has more than the model has rows of embeddings."""
    if size > vocabulary_rows:
        what = tr(
            "the tokenizer has {size} entries, the model only {vocabulary_rows} embedding rows",
            size=size,
            vocabulary_rows=vocabulary_rows,
        )
        raise UserError(what, tokenizer, tr("use the tokenizer that the model was saved with"))


@functools.lru_cache(maxsize=16)
def _count_tokens(tokenizer: Path, size: int, mtime_ns: int) -> int:
    """Return the highest id + 1; cached while the file is unchanged, since a large one takes half a second to read."""
    data = load_json_object(tokenizer, MAX_TOKENIZER_BYTES, copy_again_hint())
    try:
        entries = data["model"].get("vocab") or {}
        token_ids: Iterable[int] = entries.values() if isinstance(entries, dict) else range(len(entries))
        added = (row["id"] for row in data.get("added_tokens") or ())
        highest: int = max([*token_ids, *added], default=-1)
        if type(highest) is not int or highest >= MAX_VOCABULARY:
            raise ValueError(highest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = tr("the vocabulary is broken, or has more than {limit:,} entries", limit=MAX_VOCABULARY)
        raise UserError(what, tokenizer, copy_again_hint()) from error
    return highest + 1


def same_bytes(entry: TensorEntry, other: TensorEntry) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if (entry.dtype, entry.shape) != (other.dtype, other.shape):
        return False
    with entry.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(entry.start)
        second.seek(other.start)
        remaining = entry.end - entry.start
        while remaining:
            step = min(remaining, 1 << 24)
            if first.read(step) != second.read(step):
                return False
            remaining -= step
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a folder, see `check_config`.

    The first Llama models do not say their context length; transformers takes 2,048 for it, and so does Hanlin, and
    131,072 for that of a Mixtral.
    """
    config = read_json_object(folder / CONFIG)
    check_config(config, folder / CONFIG)
    return {**config, "max_position_embeddings": read_number(config, "max_position_embeddings")}


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder; unlike `core.files.read_json`, the file must exist.

    Raises:
        UserError: It is not JSON, not an object or beyond a limit; the hint is to copy it again.
    """
    return load_json_object(path, hint=copy_again_hint())


def shorten(names: list[str]) -> str:
    """Join at most three names for a message, with `...` if there are more."""
    return join_list([*names[:3], "..."] if len(names) > 3 else names)


def copy_again_hint() -> str:
    """Return the hint for a damaged file."""
    return tr("copy or download it again")


def truncated_error(path: Path, expected: int, actual: int) -> UserError:
    """Build the error for a file with fewer bytes than its header says."""
    what = tr("the file is cut off: {expected:,} bytes expected, {actual:,} found", expected=expected, actual=actual)
    return UserError(what, path, copy_again_hint())


def not_safetensors_error(path: Path) -> UserError:
    """Build the error for a file of another format."""
    return UserError(tr("this is not a safetensors file"), path, copy_again_hint())


def too_many_tensors_error(count: int, path: Path) -> UserError:
    """Build the error for more tensors than any model has."""
    what = tr("{count:,} tensors, but at most {limit:,} are read", count=count, limit=MAX_TENSORS)
    return UserError(what, path)


def _find_pickles(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))


def missing_weights_error(folder: Path, name: str, index: str) -> UserError:
    """Build the error for a folder without readable weights: only pickles, shards without an index, or nothing."""
    pickles = [file for file in _find_pickles(folder) if file not in ("training_args.bin", "optimizer.bin")]
    if pickles:
        what = tr(
            "the weights are pickled ({names}); a pickle can run any code, so it is not opened",
            names=shorten(pickles),
        )
        hint = tr(
            "convert pytorch_model*.bin, consolidated.*.pth and adapter_model.bin (holds: adapter) with "
            "`import_checkpoint`, in a process that can run nothing"
        )
        return UserError(what, folder, hint)
    if sorted(folder.glob("model-*-of-*.safetensors")):
        return UserError(tr("the index of the weights, {index}, is missing", index=index), folder, copy_again_hint())
    return UserError(tr("there are no weights ({name}) here", name=name), folder, copy_again_hint())


def gguf_hint() -> str:
    """Return what to do with a GGUF file where a model folder is needed."""
    return tr("make a model folder of the GGUF file with `import_gguf`, or name the model it was made from")


def missing_config_hint(folder: Path, is_adapter: bool) -> str:
    """Return what to do with a folder that has no `config.json`."""
    if is_adapter:
        return tr("this is an adapter: `merge` it first")
    if any(folder.glob("*.gguf")):
        return gguf_hint()
    if (folder / "params.json").is_file():
        return tr("this is Meta's own format: make a model folder with `import_checkpoint`")
    return tr("name a folder with config.json and *.safetensors")
