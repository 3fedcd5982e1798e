"""The setting `init` of `extend_vocabulary`: which rows new tokens begin with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.core.progress import Progress
from hanlin.models.new_rows.combinations import (
    Combination,
    average_of_similar,
    orthogonal_matching_pursuit,
    weighted_pieces,
)
from hanlin.models.new_rows.distill import distill_rows
from hanlin.models.new_rows.sample import cut_rows, select_rows
from hanlin.models.new_rows.token_space import learn_token_space, spell_out
from hanlin.models.new_rows.tune import STEP_ROWS, STEPS, VALIDATION_ROWS, cut_stream
from hanlin.tokenizer.tokenizer import Tokenizer

Init = Literal["weighted", "omp", "average_of_similar", "distilled"]


def init_new_rows(
    model: LlamaForCausalLM,
    init: Init,
    first_id: int,
    old_ids: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    distill_tokens: int,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Set the rows of new tokens, in the embeddings and in the output head; no other row changes.

    Args:
        model: A model that has rows for the new tokens, which are overwritten.
        init: How the rows are made.
        first_id: Id of the first new token.
        old_ids: For each new token the ids that its text had before.
        tokenizer: The extended tokenizer.
        texts: What the rows are learned from (`sample.sample_texts`).
        distill_tokens: Old tokens of the texts that the model reads for `distilled`.
        seed: Seed of the order in which `distilled` reads them.
        progress: Where progress is reported.

    Returns:
        Figures of the fit of `distilled`.
    """
    encoded = tokenizer.encode_batch(list(texts))
    if init == "distilled":
        lengths = [len(ids) for ids in old_ids]
        rows = select_rows(cut_rows(encoded, lengths, first_id), lengths, first_id, distill_tokens)
        if not rows:
            return {}  # the texts hold no new token
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
        counts = torch.from_numpy(np.bincount(ids, minlength=first_id + len(old_ids)))
        begin_id = next((one for one in (tokenizer.bos_id, tokenizer.eos_id) if one is not None), 0)
        stream = cut_stream(encoded, begin_id, STEPS * STEP_ROWS + VALIDATION_ROWS)
        return distill_rows(model, first_id, old_ids, rows, stream, counts, begin_id, seed=seed, progress=progress)
    combination = _combine(init, encoded, first_id, old_ids)
    embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
    with torch.no_grad():
        for weight in (embeddings,) if head is embeddings else (embeddings, head):
            weight[first_id : first_id + len(old_ids)] = combination.apply(weight).to(weight.dtype)
    return {}


def _combine(init: Init, rows: Sequence[Sequence[int]], first_id: int, old_ids: Sequence[Sequence[int]]) -> Combination:
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows] or [np.zeros(0, np.int64)])
    counts = torch.from_numpy(np.bincount(spell_out(ids, first_id, old_ids), minlength=first_id))
    weighted = weighted_pieces(old_ids, counts)
    if init == "weighted":
        return weighted
    space = learn_token_space(rows, first_id, old_ids)
    return (average_of_similar if init == "average_of_similar" else orthogonal_matching_pursuit)(space, weighted)
