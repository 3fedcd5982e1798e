"""What `/api/tags`, `/api/ps` and `/api/show` say of a model, with the fields that Open WebUI and VS Code read."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.core.records import Message
from hanlin.models.folder.shapes import llama_shapes
from hanlin.serve.api.fill_in import find_fill_in_ids
from hanlin.serve.api.ollama.responses import format_time
from hanlin.serve.registry import ServedModel
from hanlin.tokenizer.generation_config import read_sampling_params
from hanlin.tokenizer.gguf_metadata import GgufMetadata, read_gguf_metadata

_CONFIG_FIELDS = {
    "llama.embedding_length": "hidden_size",
    "llama.block_count": "num_hidden_layers",
    "llama.feed_forward_length": "intermediate_size",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.rope.freq_base": "rope_theta",
}
"""Names in a GGUF file's header and in `config.json`."""
_PROBE_TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
_OLLAMA_SAMPLING = {"repetition_penalty": "repeat_penalty"}


def _read_metadata(model: ServedModel) -> GgufMetadata | None:
    """The metadata of a GGUF file, which say what it holds whatever it is called; None of a model folder."""
    location = model.opened.location
    return read_gguf_metadata(location.weights) if location.kind == "gguf" else None


def describe_model(model: ServedModel) -> dict[str, Any]:
    """An entry of `/api/tags`. `digest` is of the files' names, sizes and times: to read them all would take long."""
    weights = model.opened.location.weights
    files = sorted(file for file in weights.iterdir() if file.is_file()) if weights.is_dir() else [weights]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": format_time(max(mtime_ns for _, _, mtime_ns in stats) / 1e9),
        "size": sum(size for _, size, _ in stats),
        "digest": hashlib.sha256(repr(stats).encode()).hexdigest(),
        "details": _describe_format(model, _count_parameters(_read_config(model))),
    }


def describe_running(model: ServedModel) -> dict[str, Any]:
    """An entry of `/api/ps`."""
    loaded = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
    return {**describe_model(model), **loaded, "context_length": model.engine.context_length}


def describe_in_full(model: ServedModel) -> dict[str, Any]:
    """The response of `/api/show`."""
    config = _read_config(model)
    parameter_count = _count_parameters(config)
    metadata = _read_metadata(model)
    values = metadata.values if metadata is not None else {}
    sizes = {name: values.get(name, config.get(field)) for name, field in _CONFIG_FIELDS.items()}
    return {
        "modelfile": f"FROM {model.name}\n",
        "parameters": _describe_parameters(model),
        "template": model.template.source,
        "details": _describe_format(model, parameter_count),
        "model_info": {
            "general.architecture": "llama",
            "general.basename": model.name,
            **({"general.parameter_count": parameter_count} if parameter_count else {}),
            "llama.context_length": model.engine.context_length,
            "llama.vocab_size": len(model.tokenizer),
            **{name: value for name, value in sizes.items() if value is not None},
        },
        "capabilities": find_capabilities(model),
        "modified_at": describe_model(model)["modified_at"],
    }


def find_capabilities(model: ServedModel) -> list[str]:
    """What a model can do, in Ollama's words; of its template and tokenizer, since the weights do not say it."""
    template = model.template
    try:
        template.render([Message("user", "?")], [_PROBE_TOOL], prompt=True)
        has_tools = True
    except UserError:
        has_tools = False
    thinks = bool(template.thinking_switches) or template.opens_thinking
    optional = {"tools": has_tools, "thinking": thinks, "insert": find_fill_in_ids(model) is not None}
    return ["completion", "embedding", *(name for name, is_there in optional.items() if is_there)]


def _read_config(model: ServedModel) -> dict[str, Any]:
    return read_json(model.opened.location.folder / "config.json")


def _count_parameters(config: dict[str, Any]) -> int:
    """The number of weights that a configuration describes; 0 if it does not."""
    try:
        return sum(math.prod(shape) for shape in llama_shapes(config).values())
    except (KeyError, TypeError, ZeroDivisionError):
        return 0


def _describe_format(model: ServedModel, parameter_count: int) -> dict[str, Any]:
    metadata = _read_metadata(model)
    size, quantization = _format_count(parameter_count), ""
    if metadata is not None:
        size = size or metadata.get("general.size_label", str, "")
        quantization = metadata.file_type or "unknown"
    return {
        "parent_model": "",
        "format": "safetensors" if metadata is None else "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": size,
        "quantization_level": quantization,
    }


def _format_count(count: int) -> str:
    """A number of parameters as Ollama writes it: `8.0B`, `135.0M`; '' for 0."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count) if count else ""


def _describe_parameters(model: ServedModel) -> str:
    """The defaults of an answer, one in each line, as a Modelfile has them."""
    sampling = read_sampling_params(model.opened.location.settings_folder)
    lines = [f"{_OLLAMA_SAMPLING.get(name, name):<30} {value}" for name, value in sampling.items()]
    stops = (model.tokenizer.decode([token_id], skip_special=False) for token_id in model.stop_ids)
    return "\n".join([*lines, *(f"{'stop':<30} {json.dumps(stop, ensure_ascii=False)}" for stop in stops)])
