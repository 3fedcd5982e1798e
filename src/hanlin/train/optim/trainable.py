"""Which part of a model is trained, and whether that part reaches the special tokens that the data needs.

Owns the choice and its refusals. Does not own how an adapter is made (`model.adapters`), what a row is (`model.
embeddings`) or the arithmetic (`network`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from hanlin.core.i18n import say
from hanlin.models.adapters import attach_lora, attach_trainable_tokens, get_trainable_tokens_layer
from hanlin.models.embedding_rows import UntrainedIds, find_untrained_rows, mean_trained_row
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.mask_checks import BLOCK_TOKENS

SHOWN = 8
"""Tokens that a message names."""


@dataclass(frozen=True, slots=True)
class NeededTokens:
    """The special tokens of the data by id, each with its text: those that are `read`, and those that are `written`."""

    read: Mapping[int, str]
    written: Mapping[int, str]

    @classmethod
    def of(cls, encoded: EncodedRecords, template: ChatTemplate) -> Self:
        """Those that the encoded data holds, and the ends of the template's turns: a model writes these in use."""
        special = np.asarray(sorted(template.tokenizer.special_ids), dtype=np.int64)
        read, written = set(template.turn_end_ids), set(template.turn_end_ids)
        for start in range(0, int(encoded.starts[-1]), BLOCK_TOKENS):
            ids, learn = encoded.ids[start : start + BLOCK_TOKENS], encoded.loss_mask[start : start + BLOCK_TOKENS]
            read.update(np.intersect1d(ids, special).tolist())
            written.update(np.intersect1d(ids[learn], special).tolist())

        def named(ids: set[int]) -> dict[int, str]:
            return {number: template.tokenizer.backend.id_to_token(number) or str(number) for number in sorted(ids)}

        return cls(named(read), named(written))


def select_trainable(
    model: LlamaForCausalLM, settings: Training, seed: int, needed: NeededTokens
) -> tuple[PreTrainedModel | PeftModel, tuple[str, ...]]:
    """`model` with that part trainable that the settings choose, and the tokens of `needed` that nobody had trained.

    Raises UserError when one of these would stay so, or when nothing is trained.
    """
    untrained = find_untrained_rows(model, needed.read, needed.written)
    found = sorted({*untrained.embeddings, *untrained.lm_head})
    rows = _rows(model, settings, found)
    texts = {**needed.read, **needed.written}
    _refuse_frozen(model, settings, [texts[number] for number in _left(model, settings, untrained, rows)])
    trained: PreTrainedModel | PeftModel = model
    layers = _layers(model, settings)
    if settings.lora is not None:
        trained = attach_lora(model, settings.lora, seed, rows, layers)
    elif rows:
        trained = attach_trainable_tokens(model, rows)
    if settings.lora is None and layers is not None:
        if not rows:
            model.requires_grad_(False)
        for number in layers:
            model.model.layers[number].requires_grad_(True)
    if settings.trainable_tokens == "untrained":
        _start_as_mean(model, untrained, rows)
    return trained, tuple(texts[number] for number in found)


def _rows(model: LlamaForCausalLM, settings: Training, untrained: Sequence[int]) -> list[int]:
    """The rows of the vocabulary that are trained on their own."""
    if settings.trainable_tokens is None:
        return []
    entries = model.config.vocab_size
    rows = (
        list(untrained) if settings.trainable_tokens == "untrained" else list(range(settings.trainable_tokens, entries))
    )
    alone = settings.lora is None and settings.train_last_layers is None
    if not rows and (alone or settings.trainable_tokens != "untrained"):
        what = say(
            "trainable_tokens names no row, so none is trained", "trainable_tokens 没有对应的行，因此没有可训练的行"
        )
        if settings.trainable_tokens == "untrained":
            hint = say(
                "every special token of the data has a trained row: leave trainable_tokens out",
                "数据中的特殊词元都已训练过：请去掉 trainable_tokens",
            )
        else:
            hint = say(f"the model has {entries} rows", f"模型共有 {entries} 行")
        raise UserError(what, "trainable_tokens", hint)
    return rows


def _layers(model: LlamaForCausalLM, settings: Training) -> range | None:
    """The decoder blocks that are trained; None for all."""
    if settings.train_last_layers is None:
        return None
    layers = model.config.num_hidden_layers
    if settings.train_last_layers > layers:
        what = say(f"the model has {layers} layers", f"模型只有 {layers} 层")
        hint = say("leave it out to train them all", "若要训练全部层，请去掉此项")
        raise UserError(what, "train_last_layers", hint)
    return range(layers - settings.train_last_layers, layers)


def trains_subset(settings: Training) -> bool:
    """Whether some of the model's own weights are trained and the others stay as they are, without an adapter."""
    return settings.lora is None and (settings.trainable_tokens is not None or settings.train_last_layers is not None)


def _left(model: LlamaForCausalLM, settings: Training, untrained: UntrainedIds, rows: Sequence[int]) -> list[int]:
    """The untrained rows that stay as they are."""
    if settings.lora is None and not trains_subset(settings):
        return []
    whole = set(settings.lora.modules_to_save) if settings.lora is not None else set()
    if model.config.tie_word_embeddings and whole & {"embed_tokens", "lm_head"}:
        return []
    left = set() if "embed_tokens" in whole else set(untrained.embeddings)
    left |= set() if "lm_head" in whole else set(untrained.lm_head)
    return sorted(left - set(rows))


def _refuse_frozen(model: LlamaForCausalLM, settings: Training, tokens: Sequence[str]) -> None:
    if not tokens:
        return
    named = ", ".join(tokens[:SHOWN]) + (" …" if len(tokens) > SHOWN else "")
    whole = "[embed_tokens, lm_head]"
    ways = [
        say(
            "set `trainable_tokens: untrained` to train these rows, and no other row, as well",
            "设 trainable_tokens: untrained，只额外训练这些行",
        )
    ]
    if settings.lora is not None:
        ways.append(
            say(
                f"`lora.modules_to_save: {whole}` to train both matrices whole",
                f"设 lora.modules_to_save: {whole}，完整训练两个矩阵",
            )
        )
    ways.append(
        say("take a template without these tokens, such as `plain`", "或改用不含这些词元的对话模板，例如 plain")
    )
    raise UserError(
        say(
            f"the model was never trained on {named}, which the data needs, and their rows would stay as they are",
            f"模型从未训练过数据所需的 {named}，而它们的词表行不在本次训练之内",
        ),
        None,
        say("; or ", "；").join(ways),
    )


@torch.no_grad()
def _start_as_mean(model: LlamaForCausalLM, untrained: UntrainedIds, rows: Sequence[int]) -> None:
    """Give trained rows that have no length the mean of all that have one: a norm that follows divides by the length,
    so that the first gradients of a row of zeros are hundreds of times those of all else."""
    places = {number: place for place, number in enumerate(rows)}
    tied = bool(model.config.tie_word_embeddings)
    parts = ((model.model.embed_tokens, untrained.embeddings), (model.lm_head, untrained.lm_head))
    for module, ids in parts[:1] if tied else parts:
        layer = get_trainable_tokens_layer(module)
        if layer is None or not ids:
            continue
        delta = layer.trainable_tokens_delta["default"]
        delta[[places[number] for number in ids]] = mean_trained_row(cast(nn.Embedding, layer.get_base_layer()).weight)
