"""Rows of the embeddings and the output head: resize them for new tokens, and find rows that were never trained.

Which tokens are added is decided in `hanlin.tokenizer.extend`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.models.folder.layout import EMBEDDINGS, HEAD

RESIZED_TENSORS = (EMBEDDINGS, HEAD)
UNTRAINED_NORM_RATIO = 0.01
"""A row whose norm is below this share of the median norm counts as never trained."""


def resize_embeddings(model: LlamaForCausalLM, first_id: int, old_ids: Sequence[Sequence[int]]) -> None:
    """Add rows for the new tokens `first_id`, `first_id + 1`, ... to the embeddings and the output head.

    The row of a new token is the mean, in float32, of the rows of the old tokens that its text was split into before:

        new token 5000 = "学士", old ids [310, 77]
        embeddings[5000] = (embeddings[310] + embeddings[77]) / 2
        lm_head[5000] = (lm_head[310] + lm_head[77]) / 2

    The output head is resized too, so that the model can generate a new token before any training; in a tied model
    both are one matrix. Rows below `first_id` stay the same bit for bit; padding rows from `first_id` on, which no
    token used, are overwritten. (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models",
    takes the mean over the whole vocabulary instead.)

    Args:
        model: Changed in place.
        first_id: Id of the first new token.
        old_ids: For each new token the ids that its text had before.

    Raises:
        RuntimeError: A new token has no old ids, or one that is not below `first_id`.
    """
    for index, ids in enumerate(old_ids):
        if not ids or not all(0 <= token_id < first_id for token_id in ids):
            raise RuntimeError(f"token {first_id + index} has the old ids {list(ids)}, not ids below {first_id}")
    embeddings, head = model.model.embed_tokens, model.lm_head
    tied = head.weight is embeddings.weight
    embeddings.weight = _resize_matrix(embeddings.weight, first_id, old_ids)
    head.weight = embeddings.weight if tied else _resize_matrix(head.weight, first_id, old_ids)
    rows = embeddings.weight.shape[0]
    embeddings.num_embeddings = head.out_features = model.config.vocab_size = model.vocab_size = rows


class UntrainedIds(NamedTuple):
    """Token ids whose rows were never trained, in the embeddings and in the output head."""

    embeddings: tuple[int, ...]
    lm_head: tuple[int, ...]


def find_untrained_rows(model: LlamaForCausalLM, input_ids: Iterable[int], output_ids: Iterable[int]) -> UntrainedIds:
    """Find token ids whose row was never trained (norm below 1 % of the median norm).

    Special tokens of a base model often are (the row of `<|eot_id|>` in Llama 3 Base is close to zero): a chat model
    made from it with an adapter alone can neither read nor generate them.

    Args:
        model: The model.
        input_ids: Ids to look for in the embeddings.
        output_ids: Ids to look for in the output head.
    """
    return UntrainedIds(
        _find_short_rows(model.model.embed_tokens.weight, input_ids), _find_short_rows(model.lm_head.weight, output_ids)
    )


@torch.no_grad()
def mean_trained_row(weight: torch.Tensor) -> torch.Tensor:
    """Return the mean of all rows of `weight` [rows, hidden] that were trained, float32 [hidden]."""
    norms = _row_norms(weight)
    trained = torch.nonzero(norms >= UNTRAINED_NORM_RATIO * norms.median())[:, 0]
    total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for part in trained.split(16_384):
        total += weight[part].double().sum(0)
    return (total / len(trained)).float()


@torch.no_grad()
def _find_short_rows(weight: torch.Tensor, ids: Iterable[int]) -> tuple[int, ...]:
    """Return those of `ids` whose row in `weight` has a norm below 1 % of the median norm."""
    norms = _row_norms(weight)
    limit = UNTRAINED_NORM_RATIO * norms.median()
    return tuple(token_id for token_id in sorted(set(ids)) if norms[token_id] < limit)


def _row_norms(weight: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.float().norm(dim=1) for part in weight.split(16_384)])


@torch.no_grad()
def _resize_matrix(weight: nn.Parameter, first_id: int, old_ids: Sequence[Sequence[int]]) -> nn.Parameter:
    """Return `weight` [rows, hidden] with a row for every new token; it never has fewer rows than before."""
    rows = max(weight.shape[0], first_id + len(old_ids))
    resized = weight.new_empty(rows, weight.shape[1])
    resized[: weight.shape[0]] = weight
    for index, ids in enumerate(old_ids):
        resized[first_id + index] = weight[list(ids)].float().mean(0).to(weight.dtype)
    return nn.Parameter(resized, requires_grad=weight.requires_grad)
