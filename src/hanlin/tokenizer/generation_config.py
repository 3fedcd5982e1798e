"""Read `generation_config.json`: stop ids and sampling defaults. A GGUF file has them in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.core.files import read_json
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.gguf_metadata import is_gguf_file, read_gguf_metadata
from hanlin.tokenizer.gguf_vocabulary import read_gguf_end_ids


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The end ids of a model's generation settings, or of its configuration if it has no such settings.

    `folder` may be a GGUF file, see `read_gguf_end_ids`.
    """
    if is_gguf_file(folder):
        return read_gguf_end_ids(folder)
    for name in (GENERATION_FILE, "config.json"):
        settings = read_json(folder / name)
        if settings:
            eos_ids = settings.get("eos_token_id")
            return tuple(eos_ids) if isinstance(eos_ids, list) else () if eos_ids is None else (eos_ids,)
    return ()


def read_sampling_params(folder: Path) -> dict[str, Any]:
    """The sampling defaults of the model's `generation_config.json`; greedy unless it says `do_sample`.

    Keys are fields of `SamplingParams`. Of a GGUF file they are its `general.sampling` keys, if it has a temperature.
    """
    if is_gguf_file(folder):
        return _read_gguf_sampling(folder)
    config = read_json(folder / GENERATION_FILE)
    if not config.get("do_sample"):
        return {"temperature": 0.0}
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    return {"temperature": 1.0, **{name: config[name] for name in names if config.get(name) is not None}}


_GGUF_SAMPLING = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "penalty_repeat"}


def _read_gguf_sampling(file: Path) -> dict[str, Any]:
    values = read_gguf_metadata(file).values
    found = {field: values.get(f"general.sampling.{key}") for field, key in _GGUF_SAMPLING.items()}
    if not found["temperature"]:
        return {"temperature": 0.0}
    return {field: round(value, 6) for field, value in found.items() if isinstance(value, int | float)}
