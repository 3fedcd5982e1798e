"""The decoder blocks of a model that `expand_blocks` added, as its configuration lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.folder.layout import NEW_BLOCKS


def list_new_blocks(config: Mapping[str, Any]) -> list[int]:
    """The indices of the blocks that `expand_blocks` added, in order.

    Raises:
        UserError: There are none, or the configuration names blocks that the model does not have.
    """
    layers, blocks = int(config["num_hidden_layers"]), sorted(set(config.get(NEW_BLOCKS) or ()))
    hint = tr("make the model with `expand_blocks`")
    if not blocks:
        raise UserError(tr("the model has no new blocks"), "train_blocks", hint)
    if blocks[-1] >= layers:
        what = tr("the configuration lists block {index} as new, but the model has only {layers} blocks",
                  index=blocks[-1], layers=layers)  # fmt: skip
        raise UserError(what, "train_blocks", hint)
    return blocks
