"""Which part of a model is trained, and whether that part includes the special tokens that the data needs.

How an adapter is made is in `models.adapters`, what a row is in `models.embedding_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.adapters import (
    attach_lora,
    attach_trainable_tokens,
    get_trainable_tokens_layer,
    read_trained_rows,
    set_adapter_weights,
)
from hanlin.models.embedding_rows import UntrainedIds, find_untrained_rows, mean_trained_row
from hanlin.models.folder.blocks import list_new_blocks
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.mask_checks import BLOCK_TOKENS

MAX_LISTED = 8
"""Tokens that a message lists."""


@dataclass(frozen=True, slots=True)
class NeededTokens:
    """The special tokens of the data.

    Attributes:
        read: Those that the model reads, text by id.
        written: Those that it learns to write, text by id.
    """

    read: Mapping[int, str]
    written: Mapping[int, str]

    @classmethod
    def of(cls, encoded: EncodedRecords, template: ChatTemplate) -> Self:
        """Those in the encoded data, and the tokens that end the template's turns: a model writes these in use."""
        special = np.asarray(sorted(template.tokenizer.special_ids), dtype=np.int64)
        read_ids, written = set(template.turn_end_ids), set(template.turn_end_ids)
        for start in range(0, int(encoded.starts[-1]), BLOCK_TOKENS):
            ids, loss_mask = encoded.ids[start : start + BLOCK_TOKENS], encoded.loss_mask[start : start + BLOCK_TOKENS]
            read_ids.update(np.intersect1d(ids, special).tolist())
            written.update(np.intersect1d(ids[loss_mask], special).tolist())

        def with_text(ids: set[int]) -> dict[int, str]:
            return {
                token_id: template.tokenizer.backend.id_to_token(token_id) or str(token_id) for token_id in sorted(ids)
            }

        return cls(with_text(read_ids), with_text(written))


def select_trainable(
    model: LlamaForCausalLM, settings: Training, seed: int, needed: NeededTokens, init_from: Path | None = None
) -> tuple[PreTrainedModel | PeftModel, tuple[str, ...]]:
    """Freeze all but the part of the model that the settings train, and attach adapters.

    Args:
        model: The model as it was loaded.
        settings: `lora`, `train_last_layers`, `train_blocks` and `trainable_tokens`.
        seed: An adapter's first values follow from it.
        needed: The special tokens of the data.
        init_from: Folder of the adapter whose weights the adapter begins with; None: a new adapter.

    Returns:
        The model, wrapped by PEFT if it has an adapter or trained rows, and the needed tokens that nobody had trained.

    Raises:
        UserError: A needed token's row was never trained and would not be now, or nothing would be trained.
    """
    untrained = find_untrained_rows(model, needed.read, needed.written)
    untrained_ids = sorted({*untrained.embeddings, *untrained.lm_head})
    rows = _trained_rows(model, settings, untrained_ids)
    if init_from is not None:
        rows = sorted({*rows, *read_trained_rows(init_from)})
    texts = {**needed.read, **needed.written}
    _check_none_left(model, settings, [texts[row] for row in _rows_left_untrained(model, settings, untrained, rows)])
    result: PreTrainedModel | PeftModel = model
    layers = _trained_layers(model, settings)
    if settings.lora is not None:
        result = attach_lora(model, settings.lora, seed, rows, layers)
    elif rows:
        result = attach_trainable_tokens(model, rows)
    if settings.lora is None and layers is not None:
        if not rows:
            model.requires_grad_(False)
        for layer in layers:
            model.model.layers[layer].requires_grad_(True)
    if settings.trainable_tokens == "untrained":
        _init_rows_to_mean(model, untrained, rows)
    if init_from is not None:
        set_adapter_weights(cast(PeftModel, result), init_from)
    return result, tuple(texts[token_id] for token_id in untrained_ids)


def _trained_rows(model: LlamaForCausalLM, settings: Training, untrained_ids: Sequence[int]) -> list[int]:
    """The rows of the vocabulary that are trained on their own."""
    if settings.trainable_tokens is None:
        return []
    vocab_size = model.config.vocab_size
    if settings.trainable_tokens == "untrained":
        rows = list(untrained_ids)
        hint = tr("every special token of the data has a trained row: leave trainable_tokens out")
        nothing_else = settings.lora is None and not settings.trains_some_blocks
    else:
        rows = list(range(settings.trainable_tokens, vocab_size))
        hint = tr("the model has {vocab_size} rows", vocab_size=vocab_size)
        nothing_else = True
    if not rows and nothing_else:
        what = tr("trainable_tokens selects no row to train")
        raise UserError(what, "trainable_tokens", hint)
    return rows


def _trained_layers(model: LlamaForCausalLM, settings: Training) -> Sequence[int] | None:
    """The decoder blocks that are trained; None for all."""
    if settings.train_blocks is not None:
        return list_new_blocks(model.config.to_dict())
    if settings.train_last_layers is None:
        return None
    layers = model.config.num_hidden_layers
    if settings.train_last_layers > layers:
        what = tr("the model has only {layers} layers", layers=layers)
        hint = tr("leave it out to train all layers")
        raise UserError(what, "train_last_layers", hint)
    return range(layers - settings.train_last_layers, layers)


def trains_subset(settings: Training) -> bool:
    """Whether some of the model's own weights are trained and the others stay as they are, without an adapter."""
    return settings.lora is None and (settings.trainable_tokens is not None or settings.trains_some_blocks)


def _rows_left_untrained(
    model: LlamaForCausalLM, settings: Training, untrained: UntrainedIds, rows: Sequence[int]
) -> list[int]:
    """The untrained rows that stay as they are; `rows` are trained on their own."""
    if settings.lora is None and not trains_subset(settings):
        return []
    full_modules = set(settings.lora.modules_to_save) if settings.lora is not None else set()
    if model.config.tie_word_embeddings and full_modules & {"embed_tokens", "lm_head"}:
        return []
    left = set() if "embed_tokens" in full_modules else set(untrained.embeddings)
    left |= set() if "lm_head" in full_modules else set(untrained.lm_head)
    return sorted(left - set(rows))


def _check_none_left(model: LlamaForCausalLM, settings: Training, tokens: Sequence[str]) -> None:
    """Raise UserError if there are tokens whose rows would stay untrained, with the ways out."""
    if not tokens:
        return
    listed = ", ".join(tokens[:MAX_LISTED]) + (" …" if len(tokens) > MAX_LISTED else "")
    modules = "[embed_tokens, lm_head]"
    what = tr(
        "the model was never trained on {listed}, which the data needs, and these rows would stay untrained",
        listed=listed,
    )
    if settings.lora is None:
        hint = tr(
            "set `trainable_tokens: untrained` to train these rows, and no others, as well; or use a template "
            "without these tokens, such as `plain`"
        )
    else:
        hint = tr(
            "set `trainable_tokens: untrained` to train these rows, and no others, as well; or "
            "`lora.modules_to_save: {modules}` to train both matrices in full; or use a template without "
            "these tokens, such as `plain`",
            modules=modules,
        )
    raise UserError(what, None, hint)


@torch.no_grad()
def _init_rows_to_mean(model: LlamaForCausalLM, untrained: UntrainedIds, rows: Sequence[int]) -> None:
    """Set rows that were never trained to the mean of all that were: a norm that follows divides by the length, so that
    the first gradients of a row of zeros are hundreds of times those of all else.
    """
    index_of = {token_id: index for index, token_id in enumerate(rows)}
    tied = bool(model.config.tie_word_embeddings)
    matrices = ((model.model.embed_tokens, untrained.embeddings), (model.lm_head, untrained.lm_head))
    for module, token_ids in matrices[:1] if tied else matrices:
        layer = get_trainable_tokens_layer(module)
        if layer is None or not token_ids:
            continue
        delta = layer.trainable_tokens_delta["default"]
        base = cast(nn.Embedding, layer.get_base_layer())
        delta[[index_of[token_id] for token_id in token_ids]] = mean_trained_row(base.weight)
