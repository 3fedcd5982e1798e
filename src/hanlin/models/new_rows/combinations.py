"""New rows as combinations of old rows: of the pieces of a text, or of old tokens that are used alike.

All return a matrix of coefficients over old rows, so that embeddings and output head are combined alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hanlin.models.new_rows.token_space import TokenSpace

COMMON_SHARE = 1e-3
"""A piece with this share of all tokens weighs half (Arora, Liang and Ma 2017, "smooth inverse frequency")."""
NEIGHBORS = 32
TEMPERATURE = 0.1
ATOMS = 8
_BLOCK = 2048


class Combination(NamedTuple):
    """For each new token some old ids [new, k] and their coefficients [new, k], 0 where there are fewer."""

    ids: torch.Tensor
    coefficients: torch.Tensor

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The combined rows of `weight` [rows, hidden], float32 [new, hidden]."""
        parts = zip(self.ids.split(_BLOCK), self.coefficients.split(_BLOCK), strict=True)
        return torch.cat(
            [
                torch.einsum("nk,nkh->nh", coefficients.to(weight.device), weight[ids.to(weight.device)].float())
                for ids, coefficients in parts
            ]
        )


def weighted_pieces(old_ids: Sequence[Sequence[int]], counts: torch.Tensor) -> Combination:
    """Rare pieces weigh more: the weight is a / (a + share of the piece among all tokens), a = 0.001.

    Of the bytes of a character the first ones are those of hundreds of others; the last ones tell them apart.

    Args:
        old_ids: For each new token the ids that its text had before.
        counts: How often each old token occurs, [old].
    """
    weights = COMMON_SHARE / (COMMON_SHARE + counts.double() / counts.sum().clamp(min=1))
    return _combine_pieces(old_ids, [[float(weights[token_id]) for token_id in ids] for ids in old_ids])


def average_of_similar(space: TokenSpace, otherwise: Combination) -> Combination:
    """The mean of the 32 most similar old tokens, weighted by softmax(cosine / 0.1) (as WECHSEL, arXiv:2112.06598).

    A new token that has no vector begins as in `otherwise`.
    """
    if not len(space.old):
        return otherwise
    ids, coefficients = [], []
    for part in space.new.split(_BLOCK):
        similarity, index = (part @ space.old.T).topk(min(NEIGHBORS, len(space.old)), dim=1)
        ids.append(space.old_ids[index])
        coefficients.append((similarity / TEMPERATURE).softmax(1))
    return _fill(space, Combination(torch.cat(ids), torch.cat(coefficients)), otherwise)


def orthogonal_matching_pursuit(space: TokenSpace, otherwise: Combination) -> Combination:
    """A sparse combination of 8 old tokens that comes closest to the new token's vector (as arXiv:2506.06607).

    The old token that is most like what is left is added, and all coefficients are solved for again; the paper takes
    the vectors of a donor model, here they are those of `token_space`. A new token without a vector begins as in
    `otherwise`.
    """
    if not len(space.old):
        return otherwise
    ids, coefficients = [], []
    for part in space.new.split(_BLOCK):
        chosen = torch.zeros(len(part), 0, dtype=torch.long)
        solved = torch.zeros(len(part), 0)
        residual = part
        for _ in range(min(ATOMS, len(space.old), space.old.shape[1])):
            similarity = (residual @ space.old.T).abs()
            similarity.scatter_(1, chosen, -1.0)
            chosen = torch.cat([chosen, similarity.argmax(1, keepdim=True)], 1)
            atoms = space.old[chosen]  # [part, k, dimensions]
            gram = atoms @ atoms.mT + 1e-3 * torch.eye(chosen.shape[1])
            solved = torch.linalg.solve(gram, (atoms @ part[:, :, None]))[:, :, 0]
            residual = part - (solved[:, None] @ atoms)[:, 0]
        ids.append(space.old_ids[chosen])
        coefficients.append(solved)
    return _fill(space, Combination(torch.cat(ids), torch.cat(coefficients)), otherwise)


def _combine_pieces(old_ids: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]) -> Combination:
    """The pieces with weights that add up to 1."""
    width = max(map(len, old_ids))
    ids = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in old_ids])
    rows = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in weights], dtype=torch.float64)
    return Combination(ids, (rows / rows.sum(1, keepdim=True)).float())


def _fill(space: TokenSpace, combined: Combination, otherwise: Combination) -> Combination:
    """`combined`, but `otherwise` for new tokens without a vector."""
    width = max(combined.ids.shape[1], otherwise.ids.shape[1])
    (ids, coefficients), (other_ids, others) = (
        (torch.nn.functional.pad(one.ids, (0, width - one.ids.shape[1])),
         torch.nn.functional.pad(one.coefficients, (0, width - one.coefficients.shape[1])))
        for one in (combined, otherwise)
    )  # fmt: skip
    has_vector = space.new.any(1, keepdim=True)
    return Combination(torch.where(has_vector, ids, other_ids), torch.where(has_vector, coefficients, others))
