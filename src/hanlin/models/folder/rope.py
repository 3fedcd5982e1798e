"""The rotary position embeddings of a model, as its configuration describes them in either of two forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.models.folder.config import read_number


def read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings in one form, with `rope_type` and `rope_theta`.

    transformers 5 writes `rope_parameters`, 4 `rope_scaling` (with `type` before 4.45) and `rope_theta`. What is
    null counts as left out. If a file has both, `rope_scaling` counts, as in transformers: people add it by hand. The
    base that is left out is transformers' default: 10,000, and 1,000,000 of a Mixtral.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope = {name: value for name, value in given.items() if value is not None}
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", read_number(config, "rope_theta"))
    return rope


def write_rope(config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with other rotary settings, in both forms: vLLM, llama.cpp's converter and older versions of
    transformers read the old one.
    """
    parameters = dict(rope)
    theta = parameters.pop("rope_theta")
    scaling = None if parameters["rope_type"] == "default" else parameters
    return {**config, "rope_parameters": dict(rope), "rope_scaling": scaling, "rope_theta": theta}


def context_length(config: Mapping[str, Any]) -> int:
    """How many tokens a model can read. With dynamic scaling `max_position_embeddings` is the length of its training,
    which the scaling starts from, and the context is `factor` times that.
    """
    length, rope = int(config["max_position_embeddings"]), read_rope(config)
    return round(length * float(rope.get("factor") or 1.0)) if rope["rope_type"] == "dynamic" else length


def original_context_length(config: Mapping[str, Any]) -> int:
    """How many positions a model had before its rotary embeddings were scaled."""
    rope = read_rope(config)
    if rope.get("original_max_position_embeddings"):
        return int(rope["original_max_position_embeddings"])
    length = int(config["max_position_embeddings"])
    return round(length / float(rope.get("factor") or 1.0)) if rope["rope_type"] == "linear" else length
