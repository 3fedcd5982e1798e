"""The rows that a vocabulary has in a model: the matrix that reads tokens and the one that writes them.

Owns growing both, and telling which rows were never trained. Does not own which entries are new
(`tokens/vocabulary_extension`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaForCausalLM

UNTRAINED = 0.01


def grow(model: LlamaForCausalLM, first_id: int, old_ids: Sequence[Sequence[int]]) -> None:
    """Give the entries `first_id`, `first_id + 1`, ... rows in `model`: the mean of the rows that spelled them before.

    Both matrices grow, so that a new entry can be written from the first day; of a tied model they are one. Rows
    below `first_id` stay as they are, bit for bit; rows from there on, which no token had (padding), are taken over.
    The mean is taken in float32 over `old_ids[i]`, the ids of the new entry's own text (Hewitt 2021, "Initializing
    New Word Embeddings for Pretrained Language Models", averages over the whole vocabulary instead).

    Raises RuntimeError when an entry has no old ids, or one that is not below `first_id`.
    """
    for place, ids in enumerate(old_ids):
        if not ids or not all(0 <= number < first_id for number in ids):
            raise RuntimeError(f"entry {first_id + place} is spelled by {list(ids)}, not by ids below {first_id}")
    embeddings, head = model.model.embed_tokens, model.lm_head
    tied = head.weight is embeddings.weight
    embeddings.weight = _grown(embeddings.weight, first_id, old_ids)
    head.weight = embeddings.weight if tied else _grown(head.weight, first_id, old_ids)
    rows = embeddings.weight.shape[0]
    embeddings.num_embeddings = head.out_features = model.config.vocab_size = model.vocab_size = rows


class Untrained(NamedTuple):
    """Ids whose rows were never trained: in the matrix that reads tokens, and in the one that writes them."""

    read: tuple[int, ...]
    written: tuple[int, ...]


def untrained_rows(model: LlamaForCausalLM, read: Iterable[int], written: Iterable[int]) -> Untrained:
    """Those ids whose row was never trained: of `read` in the embeddings, of `written` in the output head.

    A base model's special tokens are often such (Llama 3 Base has no length to speak of for `<|eot_id|>`): a chat model
    made of it by an adapter alone can neither read nor write them.
    """
    return Untrained(_short(model.model.embed_tokens.weight, read), _short(model.lm_head.weight, written))


@torch.no_grad()
def mean_of_trained(weight: torch.Tensor) -> torch.Tensor:
    """The mean of all rows of `weight` [rows, hidden] that were trained, float32 [hidden]."""
    lengths = _lengths(weight)
    trained = torch.nonzero(lengths >= UNTRAINED * lengths.median())[:, 0]
    total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for part in trained.split(16_384):
        total += weight[part].double().sum(0)
    return (total / len(trained)).float()


@torch.no_grad()
def _short(weight: torch.Tensor, ids: Iterable[int]) -> tuple[int, ...]:
    """Those of `ids` whose row is shorter than a hundredth of the median."""
    lengths = _lengths(weight)
    limit = UNTRAINED * lengths.median()
    return tuple(number for number in sorted(set(ids)) if lengths[number] < limit)


def _lengths(weight: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.float().norm(dim=1) for part in weight.split(16_384)])


@torch.no_grad()
def _grown(weight: nn.Parameter, first_id: int, old_ids: Sequence[Sequence[int]]) -> nn.Parameter:
    """`weight`, [rows, hidden], with a row for every new entry; at least as many rows as before."""
    rows = max(weight.shape[0], first_id + len(old_ids))
    grown = weight.new_empty(rows, weight.shape[1])
    grown[: weight.shape[0]] = weight
    for place, ids in enumerate(old_ids):
        grown[first_id + place] = weight[list(ids)].float().mean(0).to(weight.dtype)
    return nn.Parameter(grown, requires_grad=weight.requires_grad)
