"""The stage `expand_blocks`: decoder blocks that are the identity until they are trained (LLaMA-Pro).

A block adds to the hidden states what `o_proj` and `down_proj` write. With both zero it adds zero, whatever its other
weights are, so the logits stay the same to the bit; the other weights are those of the block before it.
Source: Wu et al. 2024, arXiv:2401.02415, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.dtypes import exact_dtype
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.blocks import ZERO_MODULES, list_untrained_blocks, source_blocks
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import NEW_BLOCKS, ModelFiles
from hanlin.models.load import load_model
from hanlin.models.merge import compute_logits, render_prompts
from hanlin.models.save import StoredWeights, check_finite, read_tensor, save_stored, verify_stored
from hanlin.tokenizer.tokenizer import Tokenizer

_BLOCK = "model.layers."


def run(settings: ExpandBlocks, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the expanded model into `out`, in the dtypes of the old one, and verify it.

    Memory is that of one file of weights, and then of the model for the comparison of logits.

    Args:
        settings: How many blocks are added.
        inputs: `model`, the folder of the model.
        out: An empty folder.
        context: Reports progress.

    Returns:
        The number of blocks `before` and `after`, the indices of the new ones, parameters, and what was compared.

    Raises:
        UserError: There are to be more new blocks than old ones, the input is no model, or a weight is not finite.
        RuntimeError: A saved weight differs, or the saved model has other logits.
    """
    folder = inputs.path("model")
    refuse_adapter(folder)
    base = check_model_folder(folder)
    layers = int(base.config["num_hidden_layers"])
    if settings.new_blocks > layers:
        raise UserError(
            tr("{count} new blocks are more than the {layers} that the model has", count=settings.new_blocks,
               layers=layers),
            "new_blocks",
            tr("add {layers} at most; LLaMA-Pro adds 8 to 32 of them", layers=layers),
        )  # fmt: skip
    check_finite(base)
    new_blocks = settings.positions(layers)
    sources = source_blocks(layers, new_blocks)
    # Earlier new blocks that still add nothing stay listed as new, or no training of new blocks would ever reach them;
    # trained ones are old blocks now. A block's first descendant is itself, a new one follows it.
    listed = [*new_blocks, *(sources.index(index) for index in list_untrained_blocks(base))]
    tokenizer = Tokenizer.load(folder)
    template = find_template(tokenizer)
    prompts = render_prompts(tokenizer, template)

    context.progress.update(0, 3, tr("steps"), force=True)
    config = {**base.config, "num_hidden_layers": layers + len(new_blocks), NEW_BLOCKS: sorted(listed)}
    weights = expand_weights(base, new_blocks)
    expanded = save_stored(config, weights, out, dtype=base.dtype, tokenizer=tokenizer, template=template)
    context.progress.update(1, 3, tr("steps"), force=True)
    num_tensors = verify_stored(expanded, weights)
    context.progress.update(2, 3, tr("steps"), force=True)
    verify_logits(base, expanded, prompts)
    context.progress.update(3, 3, tr("steps"), force=True)
    sizes = {name: sum(torch.Size(entry.shape).numel() for entry in files.tensors.values())
             for name, files in (("before", base), ("after", expanded))}  # fmt: skip
    return {
        "blocks": {"before": layers, "after": layers + len(new_blocks)},
        "new_blocks": new_blocks,
        "parameters": sizes,
        "tensors_verified": num_tensors,
        "max_abs_difference": 0.0,
        "positions_compared": sum(map(len, prompts)),
    }


def expand_weights(base: ModelFiles, new_blocks: list[int]) -> StoredWeights:
    """Every weight of the expanded model by name; each is read when it is asked for."""
    layers = int(base.config["num_hidden_layers"])
    readers: dict[str, Callable[[], torch.Tensor]] = {
        name: partial(read_tensor, base, name) for name in base.tensors if not name.startswith(_BLOCK)
    }
    for index, source in enumerate(source_blocks(layers, new_blocks)):
        prefix = f"{_BLOCK}{source}."
        for name in (name for name in base.tensors if name.startswith(prefix)):
            module = name.removeprefix(prefix)
            read = partial(read_tensor, base, name)
            is_zero = index in new_blocks and module.rpartition(".")[0] in ZERO_MODULES
            readers[f"{_BLOCK}{index}.{module}"] = partial(_zeros_like, read) if is_zero else read
    return StoredWeights(readers)


def _zeros_like(read: Callable[[], torch.Tensor]) -> torch.Tensor:
    return torch.zeros_like(read())


def verify_logits(base: ModelFiles, expanded: ModelFiles, prompts: list[list[int]]) -> None:
    """Load both models and compare their logits, which must be equal to the bit.

    Raises:
        RuntimeError: They differ.
    """
    dtype = exact_dtype(base)
    expected = compute_logits(load_model(base.folder, dtype=dtype), prompts)
    actual = compute_logits(load_model(expanded.folder, dtype=dtype), prompts)
    if not all(map(torch.equal, expected, actual)):
        raise RuntimeError("the expanded model gives other logits than the model that it was made from")
