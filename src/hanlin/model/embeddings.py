"""The rows that a vocabulary has in a model: the matrix that reads tokens and the one that writes them.

Owns growing both, and telling which rows were never trained. Does not own which entries are new
(`tokens/vocabulary_extension`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaForCausalLM

UNTRAINED = 0.01


def grow(model: LlamaForCausalLM, first_id: int, old_ids: Sequence[Sequence[int]]) -> None:
    """Give the entries `first_id`, `first_id + 1`, ... rows in `model`: the mean of the rows that spelt them before.

    Both matrices grow, so that a new entry can be written from the first day; of a tied model they are one. Rows
    below `first_id` stay as they are, bit for bit; rows from there on, which no token had (padding), are taken over.
    The mean is taken in float32 over `old_ids[i]`, the ids of the new entry's own text (Hewitt 2021, "Initializing
    New Word Embeddings for Pretrained Language Models", averages over the whole vocabulary instead).

    Raises RuntimeError when an entry has no old ids, or one that is not below `first_id`.
    """
    for place, ids in enumerate(old_ids):
        if not ids or not all(0 <= number < first_id for number in ids):
            raise RuntimeError(f"entry {first_id + place} is spelt by {list(ids)}, not by ids below {first_id}")
    embeddings, head = model.model.embed_tokens, model.lm_head
    tied = head.weight is embeddings.weight
    embeddings.weight = _grown(embeddings.weight, first_id, old_ids)
    head.weight = embeddings.weight if tied else _grown(head.weight, first_id, old_ids)
    rows = embeddings.weight.shape[0]
    embeddings.num_embeddings = head.out_features = model.config.vocab_size = model.vocab_size = rows


@torch.no_grad()
def untrained_rows(model: LlamaForCausalLM, ids: Sequence[int]) -> list[int]:
    """Those of `ids` whose row was never trained in one of the two matrices: shorter than a hundredth of the median.

    A base model's special tokens are often such (Llama 3 Base has no length to speak of for `<|eot_id|>`): a chat model
    made of it by an adapter alone can neither read nor write them.
    """
    found: set[int] = set()
    for matrix in (model.model.embed_tokens.weight, model.lm_head.weight):
        lengths = torch.cat([part.float().norm(dim=1) for part in matrix.split(16_384)])
        found.update(number for number in ids if lengths[number] < UNTRAINED * lengths.median())
    return sorted(found)


@torch.no_grad()
def _grown(weight: nn.Parameter, first_id: int, old_ids: Sequence[Sequence[int]]) -> nn.Parameter:
    """`weight`, [rows, hidden], with a row for every new entry; at least as many rows as before."""
    rows = max(weight.shape[0], first_id + len(old_ids))
    grown = weight.new_empty(rows, weight.shape[1])
    grown[: weight.shape[0]] = weight
    for place, ids in enumerate(old_ids):
        grown[first_id + place] = weight[list(ids)].float().mean(0).to(weight.dtype)
    return nn.Parameter(grown, requires_grad=weight.requires_grad)
