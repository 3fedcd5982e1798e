"""The setting `init` of `extend_vocabulary`: which rows new tokens begin with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.models.new_rows.combinations import (
    Combination,
    average_of_similar,
    orthogonal_matching_pursuit,
    weighted_pieces,
)
from hanlin.models.new_rows.token_space import learn_token_space, spell_out
from hanlin.tokenizer.tokenizer import Tokenizer

Init = Literal["weighted", "omp", "average_of_similar"]


@torch.no_grad()
def init_new_rows(
    model: LlamaForCausalLM,
    init: Init,
    first_id: int,
    old_ids: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    texts: Iterable[str],
) -> None:
    """Set the rows of new tokens, in the embeddings and in the output head; no other row changes.

    Args:
        model: A model that has rows for the new tokens, which are overwritten.
        init: How the rows are made.
        first_id: Id of the first new token.
        old_ids: For each new token the ids that its text had before.
        tokenizer: The extended tokenizer.
        texts: What the rows are learned from (`sample.sample_texts`).
    """
    combination = _combine(init, tokenizer.encode_batch(list(texts)), first_id, old_ids)
    embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
    for weight in (embeddings,) if head is embeddings else (embeddings, head):
        weight[first_id : first_id + len(old_ids)] = combination.apply(weight).to(weight.dtype)


def _combine(init: Init, rows: Sequence[Sequence[int]], first_id: int, old_ids: Sequence[Sequence[int]]) -> Combination:
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows] or [np.zeros(0, np.int64)])
    counts = torch.from_numpy(np.bincount(spell_out(ids, first_id, old_ids), minlength=first_id))
    weighted = weighted_pieces(old_ids, counts)
    if init == "weighted":
        return weighted
    space = learn_token_space(rows, first_id, old_ids)
    return (average_of_similar if init == "average_of_similar" else orthogonal_matching_pursuit)(space, weighted)
