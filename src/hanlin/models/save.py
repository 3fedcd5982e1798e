"""A model in memory becomes a folder that any Llama engine serves: weights, configuration, tokenizer, stop ids.

Owns writing. The bytes depend on weights and tokenizer alone: no times, no paths; what an earlier try left is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import named_ids, save_tokenizer, template_of
from hanlin.core.files import write_sorted_json
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import CONFIG, INDEX, WEIGHTS, ModelFiles
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.safetensors import save_safetensors
from hanlin.tokenizer.tokenizer import Tokenizer

SHARD_BYTES = 5_000_000_000
_KEPT = (
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
    """Write a whole, servable model folder and check it; return what then lies there.

    `dtype` is the number format on disk (none: the model's own). `state` stands in for the model's weights where they
    had to be gathered from several processes. `template` replaces the one that lies in the tokenizer's folder. The
    output head is written on its own unless it equals the embeddings of a model that says so.

    Raises RuntimeError when a weight is missing, of a wrong shape, or not finite: nothing is saved then.
    """
    weights = dict(model.state_dict() if state is None else state)
    config = _configuration(model, weights)
    number_format = torch_dtype(dtype or str(model.dtype).removeprefix("torch."))
    config["dtype"] = config["torch_dtype"] = str(number_format).removeprefix("torch.")
    _check(weights, llama_shapes(config))
    if template is None:
        template = template_of(tokenizer)

    folder.mkdir(parents=True, exist_ok=True)
    ids = named_ids(tokenizer, template)
    _write_weights(weights, llama_shapes(config), folder, number_format, shard_bytes)
    write_sorted_json(folder / CONFIG, {**config, **ids})
    save_tokenizer(tokenizer, template, folder)
    return check_model_folder(folder)


def _configuration(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """`config.json` as readers of any age take it: positions by transformers 5's name and by the older ones'."""
    known = model.config.to_dict()
    config = {name: known[name] for name in _KEPT if name in known}
    rope = dict(known["rope_parameters"])
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "use_cache": True}
    head, embeddings = weights.get("lm_head.weight"), weights["model.embed_tokens.weight"]
    config["tie_word_embeddings"] = bool(known["tie_word_embeddings"]) and (
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
    number_format: torch.dtype,
    shard_bytes: int,
) -> None:
    """Write the weights in the order of the layers, in files of at most `shard_bytes` (one tensor may be longer)."""
    shards = list(_shards(shapes, number_format.itemsize, shard_bytes))
    names = [WEIGHTS] if len(shards) == 1 else [_shard_name(place, len(shards)) for place in range(len(shards))]
    for stale in folder.glob("model*.safetensors*"):
        if stale.name not in names:
            stale.unlink()
    for file, inside in zip(names, shards, strict=True):
        tensors = {name: weights[name].detach().to("cpu", number_format).contiguous() for name in inside}
        save_safetensors(tensors, folder / file)
    if len(shards) > 1:
        places = {name: file for file, inside in zip(names, shards, strict=True) for name in inside}
        size = sum(torch.Size(shape).numel() for shape in shapes.values()) * number_format.itemsize
        write_sorted_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def _shards(shapes: Mapping[str, tuple[int, ...]], itemsize: int, limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        more = torch.Size(shape).numel() * itemsize
        if names and size + more > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _shard_name(place: int, count: int) -> str:
    return f"model-{place + 1:05d}-of-{count:05d}.safetensors"
