"""The token ids that generation settings name, and new ones for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.core.i18n import tr
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids

_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
_UNREADABLE_IDS = ("forced_decoder_ids", "sequence_bias", "constraints")
"""Generation settings in which token ids stand beside other numbers."""


def renumber_generation(config: Mapping[str, Any], renumber: Callable[[int], int], where: Path) -> dict[str, Any]:
    """Generation settings with every token id given to `renumber`; negative ids, which mean none, stay.

    Raises:
        UserError: A setting names token ids beside other numbers.
    """
    unreadable = [name for name in _UNREADABLE_IDS if config.get(name)]
    if unreadable:
        what = tr("'{name}' names token ids in a form that is not renumbered here", name=unreadable[0])
        raise UserError(what, where, tr("take it out of a copy of the model"))

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        return renumber(value) if type(value) is int and value >= 0 else value

    names = [name for name in config if name.endswith("_token_id") or name in _ID_LISTS]
    return {**config, **{name: walk(config[name]) for name in names}}


def read_generation(folder: Path) -> dict[str, Any]:
    """The generation settings of a model folder, with the end ids of its configuration if they name none."""
    config = read_json(folder / GENERATION_FILE)
    ends = list(read_eos_token_ids(folder))
    named = config.get("eos_token_id")
    return {**config, "eos_token_id": ends} if ends and named in (None, [], -1) else config


def named_token_ids(folder: Path) -> set[int]:
    """The token ids that the generation settings of a model folder name."""
    ids: set[int] = set()

    def note(token_id: int) -> int:
        ids.add(token_id)
        return token_id

    renumber_generation(read_generation(folder), note, folder / GENERATION_FILE)
    return ids
