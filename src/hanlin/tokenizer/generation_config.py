"""Read and write `generation_config.json`: stop ids and sampling defaults. A GGUF file has them in its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_sorted_json
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_VOCABULARY
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.gguf_metadata import is_gguf_file, read_gguf_metadata
from hanlin.tokenizer.gguf_vocabulary import read_gguf_end_ids

GREEDY = {"temperature": 0.0}
"""The sampling defaults of a model that has none."""


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The end ids of a model's generation settings, or of its configuration if those name none.

    `folder` may be a GGUF file, see `read_gguf_end_ids`.
    """
    if is_gguf_file(folder):
        return read_gguf_end_ids(folder)
    for name in (GENERATION_FILE, "config.json"):
        if ends := _check_token_ids(read_json(folder / name).get("eos_token_id"), folder / name):
            return ends
    return ()


def _check_token_ids(value: Any, where: Path) -> tuple[int, ...]:
    """The ids of `eos_token_id`: one, a list of them, or none. Raises UserError for anything else."""
    token_ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int and -1 <= token_id <= MAX_VOCABULARY for token_id in token_ids):
        raise UserError(tr("'eos_token_id' is neither a token id nor a list of them"), where)
    return tuple(token_id for token_id in token_ids if token_id >= 0)


def read_sampling_params(folder: Path) -> dict[str, Any]:
    """The sampling defaults of the model's `generation_config.json`; without `do_sample` greedy, with its penalty.

    Keys are fields of `SamplingParams`. Of a GGUF file they are its `general.sampling` keys; without a temperature it
    is greedy too.
    """
    if is_gguf_file(folder):
        return _read_gguf_sampling(folder)
    config = read_json(folder / GENERATION_FILE)
    values = {name: config[name] for name in _LIMITS if config.get(name) is not None}
    for name, value in values.items():
        low, high = _LIMITS[name]
        is_number = type(value) is int or (type(value) is float and math.isfinite(value) and name != "top_k")
        if not is_number or not low <= value <= high:
            what = tr("'{name}' is no number from {low} to {high}", name=name, low=low, high=high)
            raise UserError(what, folder / GENERATION_FILE)
    return {"temperature": 1.0, **values} if config.get("do_sample") else _greedy(values)


def _greedy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**GREEDY, **{name: values[name] for name in ("repetition_penalty",) if name in values}}


def write_sampling_params(folder: Path, params: Mapping[str, Any]) -> None:
    """Make these the sampling defaults of a model's folder, instead of those in its `generation_config.json`.

    Args:
        folder: The folder; other entries of the file stay.
        params: Fields of `SamplingParams`, of those that the file has; without a temperature answers are greedy.
    """
    config = {name: value for name, value in read_json(folder / GENERATION_FILE).items() if name not in _LIMITS}
    sampled = bool(params.get("temperature"))
    kept = params if sampled else {name: value for name, value in _greedy(params).items() if name != "temperature"}
    write_sorted_json(folder / GENERATION_FILE, {**config, "do_sample": sampled, **kept})


_LIMITS = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, MAX_VOCABULARY),
    "min_p": (0, 1),
    "repetition_penalty": (0, 100),
}
"""Sampling settings and what each may be; what no answer can be drawn with is refused by `SamplingParams`."""


_GGUF_SAMPLING = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def _read_gguf_sampling(file: Path) -> dict[str, Any]:
    values = read_gguf_metadata(file).values
    found = {field: values.get(f"general.sampling.{key}") for field, key in _GGUF_SAMPLING.items()}
    numbers = {field: round(value, 6) for field, value in found.items() if isinstance(value, int | float)}
    return numbers if numbers.get("temperature") else _greedy(numbers)
