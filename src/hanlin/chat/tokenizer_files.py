"""The tokenizer, the chat template and the stop ids beside a model's weights: read and written together.

No weights and no torch are needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.chat.packaged import packaged_special_tokens
from hanlin.chat.template import ChatTemplate
from hanlin.core.files import read_json, write_sorted_json
from hanlin.tokenizer.file_names import GENERATION_FILE, TEMPLATE_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.train import train_byte_level_bpe


def save_tokenizer(tokenizer: Tokenizer, template: ChatTemplate | None, folder: Path) -> None:
    """Write tokenizer, chat template and `generation_config.json` with every stop id; its other entries are kept."""
    if template is not None:
        template.save(folder)
    else:
        tokenizer.save(folder)
        generation = read_json(tokenizer.folder / GENERATION_FILE)
        write_sorted_json(folder / GENERATION_FILE, {**generation, **special_token_ids(tokenizer, None)})


def find_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The portable chat template in the tokenizer's folder; None if there is none, as for a base model."""
    if (tokenizer.folder / TEMPLATE_FILE).is_file() or tokenizer.config.get("chat_template"):
        return ChatTemplate.load(tokenizer.folder, tokenizer).to_portable()
    return None


def template_without_model(name: str) -> ChatTemplate:
    """A packaged template, or a Jinja file, over bytes and the special tokens that it writes: for what it makes of
    turns, not for the ids of a model.

    Raises:
        UserError: There is no such template or file, or it is not Jinja.
    """
    special = packaged_special_tokens(name)
    return ChatTemplate.from_packaged(name, train_byte_level_bpe([], 512 + len(special), special, Path()))


def special_token_ids(tokenizer: Tokenizer, template: ChatTemplate | None) -> dict[str, Any]:
    """The token ids of a model's configuration: bos, eos (one or several) and pad.

    Without a template, the ids that the generation settings beside the tokenizer name end an answer as well as its own.
    """
    if template is not None:
        stops = list(template.stop_ids)
    else:
        end_ids = [token_id for token_id in read_eos_token_ids(tokenizer.folder) if token_id < len(tokenizer)]
        own_ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        stops = list(dict.fromkeys([*own_ids, *end_ids]))
    named = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        "pad_token_id": tokenizer.pad_id,
    }
    return {name: value for name, value in named.items() if value is not None}
