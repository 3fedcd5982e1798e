"""Save a model as a folder that any Llama engine can serve: weights, configuration, tokenizer, stop ids.

The bytes depend on weights and tokenizer alone: no times, no paths. Files of an interrupted save are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template, save_tokenizer, special_token_ids
from hanlin.core.files import write_sorted_json
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import CONFIG, INDEX, WEIGHTS, ModelFiles
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.safetensors import save_safetensors
from hanlin.tokenizer.tokenizer import Tokenizer

SHARD_BYTES = 5_000_000_000
_CONFIG_KEYS = (
    "attention_bias", "attention_dropout", "head_dim", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "mlp_bias", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "pretraining_tp", "rms_norm_eps", "rope_parameters", "transformers_version", "vocab_size",
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

    Returns:
        The headers of the saved folder.

    Raises:
        RuntimeError: A weight is missing, has a wrong shape, or is not finite; nothing is saved then.
    """
    weights = dict(model.state_dict() if state is None else state)
    config = _build_config(model, weights)
    torch_type = torch_dtype(dtype or str(model.dtype).removeprefix("torch."))
    config["dtype"] = config["torch_dtype"] = str(torch_type).removeprefix("torch.")
    _check(weights, llama_shapes(config))
    if template is None:
        template = find_template(tokenizer)

    folder.mkdir(parents=True, exist_ok=True)
    ids = special_token_ids(tokenizer, template)
    _write_weights(weights, llama_shapes(config), folder, torch_type, shard_bytes)
    write_sorted_json(folder / CONFIG, {**config, **ids})
    save_tokenizer(tokenizer, template, folder)
    return check_model_folder(folder)


def _build_config(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Build a `config.json` for old and new readers: RoPE parameters as in transformers 4 and as in 5."""
    values = model.config.to_dict()
    config = {name: values[name] for name in _CONFIG_KEYS if name in values}
    rope = dict(values["rope_parameters"])
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "use_cache": True}
    head, embeddings = weights.get("lm_head.weight"), weights["model.embed_tokens.weight"]
    config["tie_word_embeddings"] = bool(values["tie_word_embeddings"]) and (
        head is None or head is embeddings or torch.equal(head, embeddings)
    )
    if config["tie_word_embeddings"]:
        weights.pop("lm_head.weight", None)
    return config


def _check(weights: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if weights.keys() != shapes.keys():
        raise RuntimeError(f"weights to save differ from the model's: {sorted(weights.keys() ^ shapes.keys())[:5]}")
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise RuntimeError(f"{name} has shape {tuple(weights[name].shape)} instead of {shape}")
        if not torch.isfinite(weights[name]).all():
            raise RuntimeError(f"{name} holds numbers that are not finite")


def _write_weights(
    weights: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    torch_type: torch.dtype,
    shard_bytes: int,
) -> None:
    """Write the weights in the order of the layers, in files of at most `shard_bytes` (one tensor may be larger)."""
    shards = list(_split_into_shards(shapes, torch_type.itemsize, shard_bytes))
    names = [WEIGHTS] if len(shards) == 1 else [_shard_name(index, len(shards)) for index in range(len(shards))]
    for stale in folder.glob("model*.safetensors*"):
        if stale.name not in names:
            stale.unlink()
    for file, shard in zip(names, shards, strict=True):
        tensors = {name: weights[name].detach().to("cpu", torch_type).contiguous() for name in shard}
        save_safetensors(tensors, folder / file)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        size = sum(torch.Size(shape).numel() for shape in shapes.values()) * torch_type.itemsize
        write_sorted_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


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
