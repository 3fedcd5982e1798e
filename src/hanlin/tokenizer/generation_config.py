"""Read `generation_config.json`: stop ids and sampling defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.core.files import read_json
from hanlin.tokenizer.file_names import GENERATION_FILE


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The end ids of a model's generation settings, or of its configuration if it has no such settings."""
    for name in (GENERATION_FILE, "config.json"):
        settings = read_json(folder / name)
        if settings:
            eos_ids = settings.get("eos_token_id")
            return tuple(eos_ids) if isinstance(eos_ids, list) else () if eos_ids is None else (eos_ids,)
    return ()


def read_sampling_params(folder: Path) -> dict[str, Any]:
    """The sampling defaults of the model's `generation_config.json`; greedy unless it says `do_sample`.

    Keys are fields of `SamplingParams`.
    """
    config = read_json(folder / GENERATION_FILE)
    if not config.get("do_sample"):
        return {"temperature": 0.0}
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    return {"temperature": 1.0, **{name: config[name] for name in names if config.get(name) is not None}}
