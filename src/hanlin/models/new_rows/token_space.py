"""A space in which old and new tokens lie beside each other: how often which old tokens stand around them.

A new token and the old tokens that spelled its text never occur in the same token sequence, but they occur in the same
text. Each text is read in old ids; a token takes a span of them, one id long if it is old, as many as it had before
if it is new, and what it is counted with are the old ids on either side of that span:

    text            翰林院的学士在
    old ids         [5 8] [6 2] [9 4] 77 [3 1] [3 6] 12
    学士 (new)      span [3 1 3 6], left 9 4 77 ..., right 12 ...
    的 (old, 77)    span [77],      left 9 4 ...,    right 3 1 ...

Counts become positive pointwise mutual information, whose largest singular vectors are the space (Levy and Goldberg
2014, "Neural Word Embedding as Implicit Matrix Factorization").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

WINDOW = 4
"""Old ids that are counted on either side."""
MAX_NEIGHBORS = 1024
"""The most frequent old ids, which are counted as neighbors. With 1,024 on each side and 20,000 tokens the counts take
160 MB."""
MAX_OLD_TOKENS = 12_000
MIN_OCCURRENCES = 10
"""An old token that occurs less often says too little of itself."""
DIMENSIONS = 256
SMOOTHING = 0.75
"""Exponent on the neighbors' frequencies (Levy, Goldberg and Dagan 2015): rare neighbors else weigh too much."""
_GAP = -1

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenSpace:
    """Vectors of length 1 of old and new tokens in one space.

    Attributes:
        old_ids: The old tokens that have a vector, [old].
        old: Their vectors, float32 [old, dimensions].
        new: A vector for every new token, float32 [new, dimensions]; zero for those that the texts do not hold.
    """

    old_ids: torch.Tensor
    old: torch.Tensor
    new: torch.Tensor


def learn_token_space(rows: Iterable[Sequence[int]], first_id: int, old_ids: Sequence[Sequence[int]]) -> TokenSpace:
    """Count neighbors in `rows` and make the space.

    Args:
        rows: Texts in the ids of the extended tokenizer.
        first_id: Id of the first new token.
        old_ids: For each new token the ids that its text had before.

    Returns:
        The space; without old tokens if none occurs often enough.
    """
    new_stream = np.concatenate([np.asarray([*row, _GAP], dtype=np.int64) for row in rows] or [np.zeros(0, np.int64)])
    lengths = np.ones(first_id + len(old_ids) + 1, dtype=np.int64)  # the last is the gap's
    lengths[first_id:-1] = [len(ids) for ids in old_ids]
    starts = np.cumsum(lengths[new_stream]) - lengths[new_stream]
    stream = spell_out(new_stream, first_id, old_ids)
    frequency = np.bincount(stream[stream >= 0], minlength=first_id)
    kept = np.argsort(-frequency, kind="stable")[:MAX_OLD_TOKENS]
    kept = np.sort(kept[frequency[kept] >= MIN_OCCURRENCES])
    neighbors = np.argsort(-frequency, kind="stable")[: min(MAX_NEIGHBORS, int(np.count_nonzero(frequency)))]
    counts = np.zeros((len(kept) + len(old_ids), 2 * len(neighbors)), dtype=np.float32)
    row_of_old = np.full(first_id + 1, -1)
    row_of_old[kept] = np.arange(len(kept))
    is_new = new_stream >= first_id
    spans = (
        (np.arange(len(stream)), np.arange(len(stream)), row_of_old[stream]),
        (
            starts[is_new],
            starts[is_new] + lengths[new_stream[is_new]] - 1,
            len(kept) + new_stream[is_new] - first_id,
        ),
    )
    for first, last, row in spans:
        _count(counts, stream, neighbors, (first, last, row), first_id)
    vectors = _factorize(torch.from_numpy(counts))
    return TokenSpace(torch.from_numpy(kept), vectors[: len(kept)], vectors[len(kept) :])


def spell_out(ids: Ids, first_id: int, old_ids: Sequence[Sequence[int]]) -> Ids:
    """Return `ids` with each new id replaced by the old ids that its text had before."""
    if not len(ids):
        return ids
    cut = np.flatnonzero(ids >= first_id)
    pieces: list[Ids] = []
    start = 0
    for index in cut.tolist():
        pieces += [ids[start:index], np.asarray(old_ids[ids[index] - first_id], dtype=np.int64)]
        start = index + 1
    return np.concatenate([*pieces, ids[start:]])


def _count(
    counts: NDArray[np.float32], stream: Ids, neighbors: Ids, spans: tuple[Ids, Ids, Ids], first_id: int
) -> None:
    """Add to `counts` [tokens, 2 · neighbors] the neighbors of the spans (first index, last index, row of counts).

    Neighbors are looked for up to the nearest end of a text.
    """
    first, last, row = spans
    column = np.full(first_id + 1, -1)
    column[neighbors] = np.arange(len(neighbors))
    columns = column[stream]  # the gap reads the last entry
    text = np.cumsum(stream == _GAP)
    for distance in range(1, WINDOW + 1):
        for side, index in ((0, first - distance), (1, last + distance)):
            inside = (index >= 0) & (index < len(stream)) & (row >= 0)
            at, to = index[inside], row[inside]
            same = (text[at] == text[first[inside]]) & (columns[at] >= 0)
            flat = to[same] * counts.shape[1] + side * len(neighbors) + columns[at[same]]
            unique, times = np.unique(flat, return_counts=True)
            counts.reshape(-1)[unique] += times


def _factorize(counts: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1 for the rows of `counts`, by positive pointwise mutual information and its singular vectors.

    The singular vectors come from the Gram matrix of the columns, which is 2,048 wide at most.
    """
    rows = counts.sum(1, keepdim=True)
    columns = counts.sum(0, keepdim=True) ** SMOOTHING
    columns = columns / columns.sum().clamp(min=1e-12)
    information = (counts / (rows * columns).clamp(min=1e-12)).log_().clamp_(min=0)
    values, directions = torch.linalg.eigh((information.T @ information).double())  # float32 may not converge
    largest = directions[:, values.argsort(descending=True)[:DIMENSIONS]]
    vectors = information @ largest.float()
    scale = vectors.norm(dim=0).clamp(min=1e-6).sqrt()  # the square roots of the singular values weigh best (2015)
    return torch.nn.functional.normalize(vectors / scale, dim=1)
