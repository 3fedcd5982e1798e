"""The decoder blocks of a model that `expand_blocks` added, as its configuration lists them; where they come to lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.folder.layout import NEW_BLOCKS, ModelFiles, TensorEntry

ZERO_MODULES = ("self_attn.o_proj", "mlp.down_proj")
"""What writes into the hidden states; weight and bias of a new block are zero."""
_READ_BYTES = 1 << 20


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


def source_blocks(layers: int, new_blocks: Collection[int]) -> list[int]:
    """Which old block each block of the expanded model is made from.

    6 old and 3 new blocks: `[0, 1, 1, 2, 3, 3, 4, 5, 5]`, of which the third, sixth and ninth are new.
    """
    sources: list[int] = []
    for index in range(layers + len(new_blocks)):
        sources.append(sources[-1] if index in new_blocks else index - sum(new < index for new in new_blocks))
    return sources


def list_untrained_blocks(files: ModelFiles) -> list[int]:
    """The indices of the new blocks of a model that still add nothing: what writes into the hidden states is zero."""
    return [index for index in sorted(files.config.get(NEW_BLOCKS) or ()) if _adds_nothing(files, index)]


def _adds_nothing(files: ModelFiles, index: int) -> bool:
    entries = [files.tensors.get(f"model.layers.{index}.{module}.weight") for module in ZERO_MODULES]
    return all(entry is not None and _is_zero(entry) for entry in entries)


def _is_zero(entry: TensorEntry) -> bool:
    """Whether all numbers of a tensor are zero; the file is read up to the first that is not."""
    width = int(entry.dtype.lstrip("BF")) // 8
    with entry.file.open("rb") as file:
        file.seek(entry.start)
        for start in range(entry.start, entry.end, _READ_BYTES):
            piece = file.read(min(_READ_BYTES, entry.end - start))
            signs = piece[width - 1 :: width].count(0x80)  # minus zero, in files of little-endian numbers
            if piece.count(0) + signs != len(piece):
                return False
    return True
