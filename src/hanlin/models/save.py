"""Save a model as a folder that any Llama engine can serve: weights, configuration, tokenizer, stop ids.

The bytes depend on weights and tokenizer alone: no times, no paths. Files of an interrupted save are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import LlamaConfig, MixtralConfig, PreTrainedConfig, PreTrainedModel

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template, save_tokenizer, special_token_ids
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space, read_json, write_sorted_json
from hanlin.core.i18n import tr
from hanlin.models.dtypes import torch_dtype
from hanlin.models.embedding_rows import RESIZED_TENSORS
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import (
    CONFIG,
    DTYPE_NAMES,
    EMBEDDINGS,
    HEAD,
    INDEX,
    MOE_ARCHITECTURES,
    NEW_BLOCKS,
    SUPPORTED_ARCHITECTURES,
    WEIGHTS,
    ModelFiles,
)
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.safetensors import save_safetensors, write_safetensors
from hanlin.models.sentencepiece_file import carry_model
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import Tokenizer

SHARD_BYTES = 5_000_000_000
_CONFIG_KEYS = (
    "attention_bias", "attention_dropout", "head_dim", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "mlp_bias", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "pretraining_tp", "rms_norm_eps", "rope_parameters", "transformers_version", "vocab_size",
    NEW_BLOCKS, "num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "router_jitter_noise",
    "sliding_window",
)  # fmt: skip


def save_model(
    model: PreTrainedModel,
    folder: Path,
    *,
    tokenizer: Tokenizer,
    template: ChatTemplate | None = None,
    dtype: str | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
    carry_tokenizer_model: bool = True,
    keeps_dtypes: bool = False,
) -> ModelFiles:
    """Save a complete, servable model folder and check it.

    The output head is saved as a tensor of its own unless the model is tied and it equals the embeddings.

    Args:
        model: A Llama model.
        folder: Where to write; it is made.
        tokenizer: Saved with the model.
        template: Chat template to save instead of the one in the tokenizer's folder.
        dtype: Dtype on disk; None: the model's own.
        state: Weights to save instead of the model's own, if they were gathered from several processes.
        shard_bytes: Largest size of a weights file, unless a single tensor is larger.
        carry_tokenizer_model: Whether to copy the `tokenizer.model` of the tokenizer's folder, see `carry_model`.
        keeps_dtypes: Whether each weight keeps its own dtype; `dtype` is then that of most of them.

    Returns:
        The headers of the saved folder.

    Raises:
        RuntimeError: A weight is missing, has a wrong shape, or is not finite; nothing is saved then.
    """
    weights = separate_experts(model.state_dict() if state is None else state)
    config = _build_config(model, weights)
    torch_type = torch_dtype(dtype or str(model.dtype).removeprefix("torch."))
    config["dtype"] = config["torch_dtype"] = str(torch_type).removeprefix("torch.")
    _check_names(weights, llama_shapes(config))
    for name, shape in llama_shapes(config).items():
        _check(name, weights[name], shape)
    if template is None:
        template = find_template(tokenizer)

    folder.mkdir(parents=True, exist_ok=True)
    ids = special_token_ids(tokenizer, template)
    rounded_to = None if keeps_dtypes else torch_type
    _write_weights(weights, llama_shapes(config), folder, torch_type.itemsize, shard_bytes, rounded_to)
    sources = [tokenizer.folder] if carry_tokenizer_model else []
    return _complete(folder, {**config, **ids}, tokenizer, template, sources)


def separate_experts(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a model with each expert's matrices apart, as Mixtral's own files and vLLM have them.

    transformers 5 holds all experts of a block in one tensor, in which an expert's gate rows come before its up rows.
    A model without experts stays as it is.
    """
    separate: dict[str, torch.Tensor] = {}
    for name, weight in state.items():
        block, is_sparse, part = name.partition(".mlp.")
        prefix = f"{block}.block_sparse_moe"
        if is_sparse and part == "gate.weight":
            separate[f"{prefix}.gate.weight"] = weight
        elif is_sparse and part == "experts.gate_up_proj":
            for expert, matrix in enumerate(weight):
                gate, up = matrix.chunk(2)
                separate[f"{prefix}.experts.{expert}.w1.weight"] = gate
                separate[f"{prefix}.experts.{expert}.w3.weight"] = up
        elif is_sparse and part == "experts.down_proj":
            separate |= {f"{prefix}.experts.{expert}.w2.weight": matrix for expert, matrix in enumerate(weight)}
        else:
            separate[name] = weight
    return separate


def _build_config(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The configuration of the weights, which lose the output head if it equals tied embeddings."""
    head, embeddings = weights.get(HEAD), weights[EMBEDDINGS]
    is_tied = bool(model.config.tie_word_embeddings) and (
        head is None or head is embeddings or torch.equal(head, embeddings)
    )
    if is_tied:
        weights.pop(HEAD, None)
    return describe_config(model.config, tied=is_tied)


def describe_config(settings: PreTrainedConfig, *, tied: bool) -> dict[str, Any]:
    """Build a `config.json` for old and new readers: RoPE parameters as in transformers 4 and as in 5.

    Args:
        settings: The configuration of a Llama model.
        tied: Whether embeddings and output head are one matrix.
    """
    values = settings.to_dict()
    config = {name: values[name] for name in _CONFIG_KEYS if name in values}
    rope = dict(values["rope_parameters"])
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    model_type = "mixtral" if values.get("num_local_experts") else "llama"
    architecture = {**SUPPORTED_ARCHITECTURES, **MOE_ARCHITECTURES}[model_type]
    config |= {"architectures": [architecture], "model_type": model_type, "use_cache": True}
    return {**config, "tie_word_embeddings": tied}


@contextmanager
def remove_files_on_failure(folder: Path) -> Iterator[None]:
    """Remove the files of a folder if an error or an interruption leaves the block: they must not be used."""
    try:
        yield
    except BaseException:
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        raise


class StoredWeights(Mapping[str, torch.Tensor]):
    """Weights that are read or computed when they are asked for, so that a model larger than memory can be written."""

    def __init__(self, readers: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def read_tensor(files: ModelFiles, name: str) -> torch.Tensor:
    """Read one tensor of a model folder, in its dtype."""
    with safe_open(str(files.tensors[name].file), framework="pt") as file:
        return cast(torch.Tensor, file.get_tensor(name))


def restore_dtypes(
    model: PreTrainedModel, files: ModelFiles, resized: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """The weights of a dense model as its folder stores them, if it has several dtypes; else None.

    To load a model rounds every weight to the dtype of most of them: the norms of some models are float32, and the rest
    is bfloat16.

    Args:
        model: The model with other rows of embeddings and output head than its folder has.
        files: The folder.
        resized: Gives the new matrix for the stored one, by its name, in the dtype of the stored one.
    """
    if len({entry.dtype for entry in files.tensors.values()}) == 1 or files.config.get("num_local_experts"):
        return None
    parts: Any = model
    tied = parts.lm_head.weight is parts.model.embed_tokens.weight
    stored = {name: read_tensor(files, name) for name in model.state_dict() if not (tied and name == HEAD)}
    return {name: resized(name, weight) if name in RESIZED_TENSORS else weight for name, weight in stored.items()}


def cast_as_stored(state: Mapping[str, torch.Tensor], files: ModelFiles) -> dict[str, torch.Tensor] | None:
    """The trained weights of a dense model in the dtypes that its folder stores each in, if it has several; else None.

    Args:
        state: The weights by name; the output head of a tied model is stored as the embeddings.
        files: The folder that the model was read from.
    """
    if len({entry.dtype for entry in files.tensors.values()}) == 1 or files.config.get("num_local_experts"):
        return None
    return {name: weight.to(stored_dtype(files, name)) for name, weight in state.items()}


def stored_dtype(files: ModelFiles, name: str) -> torch.dtype:
    """The dtype that a folder stores a weight in; the output head of a tied model is its embedding matrix."""
    return torch_dtype(DTYPE_NAMES[(files.tensors.get(name) or files.tensors[EMBEDDINGS]).dtype])


def verify_stored(files: ModelFiles, weights: Mapping[str, torch.Tensor]) -> int:
    """Verify that every tensor of a saved folder has dtype and bits of the weight that it was written from.

    Args:
        files: The saved folder.
        weights: What `save_stored` was given; each weight is read or computed again.

    Returns:
        The number of tensors.

    Raises:
        RuntimeError: Names the first tensor that differs.
    """
    for name in files.tensors:
        saved, source = read_tensor(files, name), weights[name]
        if saved.dtype != source.dtype or not torch.equal(saved, source):
            raise RuntimeError(f"{name} was saved with other values")
    return len(files.tensors)


def save_stored(
    config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    dtype: str,
    tokenizer: Tokenizer,
    template: ChatTemplate | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ModelFiles:
    """Save a complete model folder from weights that are read one file at a time, each in its own dtype, and check it.

    Args:
        config: The `config.json`; the ids of special tokens are added. With `num_local_experts` it is a Mixtral model,
            whose experts are separate matrices.
        weights: Every weight that the configuration asks for.
        folder: Where to write; it is made.
        dtype: Dtype of most of the weights.
        tokenizer: Saved with the model.
        template: Chat template to save instead of the one in the tokenizer's folder.
        shard_bytes: Largest size of a weights file, unless a single tensor is larger.

    Returns:
        The headers of the saved folder.

    Raises:
        RuntimeError: A weight is missing, has a wrong shape, or is not finite.
    """
    shapes = llama_shapes(config)
    _check_names({name: None for name in weights if name in shapes}, shapes)  # not a head that a tied model repeats
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(weights, shapes, folder, torch_dtype(dtype).itemsize, shard_bytes)
    config = {**config, **special_token_ids(tokenizer, template)}
    return _complete(folder, config, tokenizer, template, [tokenizer.folder])


def save_streamed(
    source: ModelFiles,
    folder: Path,
    make: Callable[[str], Iterable[torch.Tensor]],
    *,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    dtype: str,
    dtypes: Mapping[str, torch.dtype] | None = None,
    tied: bool | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int = 1,
    is_checked: bool = False,
) -> ModelFiles:
    """Save a complete model folder whose weights are made while they are written, piece by piece, and check it.

    Args:
        source: A model folder with the configuration of the new one.
        folder: Where to write; it is made.
        make: Gives the weights of a name in pieces of whole rows that follow each other.
        tokenizer: Saved with the model.
        template: Chat template to save.
        dtype: Dtype of all weights but those in `dtypes`.
        dtypes: Dtypes of weights by name.
        tied: Whether the output head is the embedding matrix; None: as in `source`.
        shard_bytes: Largest size of a weights file, unless a single tensor is larger.
        threads: How many weights are made and written at the same time.
        is_checked: Whether `make` itself has rounded the pieces and found them finite.

    Returns:
        The headers of the saved folder.

    Raises:
        UserError: The weights do not fit on the disk, or a number is NaN, infinite or too large for `dtype`.
    """
    family = MixtralConfig if source.config.get("model_type") in MOE_ARCHITECTURES else LlamaConfig  # their defaults
    loaded = family.from_dict(dict(source.config))
    config = describe_config(loaded, tied=bool(loaded.tie_word_embeddings) if tied is None else tied)
    torch_type = torch_dtype(dtype)
    config["dtype"] = config["torch_dtype"] = dtype
    shapes = llama_shapes(config)
    types = dict.fromkeys(shapes, torch_type) | dict(dtypes or {})
    sizes = {name: torch.Size(shape).numel() * types[name].itemsize for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    check_free_space(folder, sum(sizes.values()))

    def make_finite(name: str) -> Iterator[torch.Tensor]:
        where = source.tensors[name].file if name in source.tensors else source.folder
        for piece in make(name):
            yield piece if is_checked else round_weight(piece, types[name], name, where)

    def write(path: Path, names: list[str]) -> int:
        shard = {name: shapes[name] for name in names}
        write_safetensors(path, shard, types, make_finite, threads=threads)
        return sum(sizes[name] for name in names)

    with catch_full_disk(folder):
        _write_shards(shapes, torch_type.itemsize, folder, shard_bytes, write)
        config |= special_token_ids(tokenizer, template)
        return _complete(folder, config, tokenizer, template, [tokenizer.folder, source.folder])


def _complete(
    folder: Path,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    tokenizer_models: Sequence[Path],
) -> ModelFiles:
    """Write what a model folder holds beside its weights, and check the folder.

    `tokenizer_models` are the folders that may hold the SentencePiece model of this tokenizer.
    """
    write_sorted_json(folder / CONFIG, config)
    save_tokenizer(tokenizer, template, folder)
    carry_model(tokenizer_models, tokenizer, folder)
    return check_model_folder(folder, experts=True)


def keep_generation_settings(source: Path, folder: Path, tokenizer: Tokenizer) -> None:
    """Give a saved model the generation settings of a folder that its tokenizer did not come from.

    Ends of answers are those of both. If `source` has no generation settings, the others stay as they were saved.

    Args:
        source: The folder whose sampling defaults and ends of answers count.
        folder: The saved model.
        tokenizer: Its tokenizer; ids that it has no entry for are left out.
    """
    saved, config = read_json(folder / GENERATION_FILE), read_json(folder / CONFIG)
    ids = {name: value for name, value in saved.items() if name.endswith("_token_id")}
    named = saved.get("eos_token_id", [])
    more = [token_id for token_id in read_eos_token_ids(source) if token_id < len(tokenizer)]
    ends = list(dict.fromkeys([*(named if isinstance(named, list) else [named]), *more]))
    eos = {"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}
    write_sorted_json(folder / GENERATION_FILE, {**(read_json(source / GENERATION_FILE) or saved), **ids, **eos})
    write_sorted_json(folder / CONFIG, {**config, **eos})


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; the sum, taken first, has one then too and takes a moment."""
    total = tensor.sum(dtype=torch.float32 if tensor.dtype == torch.float16 else None)  # float16 ends at 65,504
    return math.isfinite(float(total)) or bool(torch.isfinite(tensor).all())


def round_weight(exact: torch.Tensor, dtype: torch.dtype | None, name: str, where: Path) -> torch.Tensor:
    """Round rows of a weight that come from a user's file to a dtype; None: they keep theirs.

    Args:
        exact: The rows as they were read.
        dtype: The dtype to round to.
        name: Name of the weight in that file.
        where: The file or the folder, for messages.

    Raises:
        UserError: A number is NaN or infinite, or too large for the dtype.
    """
    rounded = exact if dtype is None else exact.to(dtype)
    if is_finite(rounded):
        return rounded
    if not is_finite(exact):
        what = tr("'{name}' holds NaN or infinite values", name=name)
        raise UserError(what, where, tr("copy or download it again"))
    what = tr("'{name}' holds values too large for {dtype}", name=name, dtype=str(dtype).removeprefix("torch."))
    raise UserError(what, where, tr("set dtype: bfloat16 or float32"))


def check_finite(files: ModelFiles) -> None:
    """Read every tensor of a model folder once, one at a time; raise UserError if one holds NaN or infinite values."""
    for name in files.tensors:
        round_weight(read_tensor(files, name), None, name, files.folder)


def _check_names(weights: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if weights.keys() != shapes.keys():
        raise RuntimeError(f"weights to save differ from the model's: {sorted(weights.keys() ^ shapes.keys())[:5]}")


def _check(name: str, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(weight.shape) != shape:
        raise RuntimeError(f"{name} has shape {tuple(weight.shape)} instead of {shape}")
    if not torch.isfinite(weight).all():
        raise RuntimeError(f"{name} holds numbers that are not finite")


def _write_weights(
    weights: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    itemsize: int,
    shard_bytes: int,
    torch_type: torch.dtype | None = None,
) -> None:
    """Write the weights in the order of the layers, in files of at most `shard_bytes` (one tensor may be larger).

    `itemsize` is that of most weights, in bytes. Without `torch_type` each keeps its dtype, and is checked.
    """

    def write(path: Path, names: list[str]) -> int:
        tensors = {name: weights[name].detach().to("cpu", torch_type).contiguous() for name in names}
        for name, tensor in tensors.items() if torch_type is None else ():
            _check(name, tensor, shapes[name])
        save_safetensors(tensors, path)
        return sum(tensor.nbytes for tensor in tensors.values())

    _write_shards(shapes, itemsize, folder, shard_bytes, write)


def _write_shards(
    shapes: Mapping[str, tuple[int, ...]],
    itemsize: int,
    folder: Path,
    shard_bytes: int,
    write: Callable[[Path, list[str]], int],
) -> None:
    """Divide the weights into files, write each, and the index if there are several; `write` returns a file's bytes."""
    shards = list(_split_into_shards(shapes, itemsize, shard_bytes))
    names = [WEIGHTS] if len(shards) == 1 else [_shard_name(index, len(shards)) for index in range(len(shards))]
    for stale in folder.glob("model*.safetensors*"):
        if stale.name not in names:
            stale.unlink()
    total_bytes = 0
    for file, shard in zip(names, shards, strict=True):
        total_bytes += write(folder / file, shard)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        write_sorted_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _split_into_shards(shapes: Mapping[str, tuple[int, ...]], itemsize: int, limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        tensor_bytes = torch.Size(shape).numel() * itemsize
        if names and size + tensor_bytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor_bytes
    yield names


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"
