"""Which entries of a model's change are kept when models are fused: by magnitude, at random, or at random by rank.

A change is read in pieces of whole rows, several times if need be, so that memory does not depend on its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Literal

import torch

Pieces = Callable[[], Iterable[torch.Tensor]]
"""Gives a change in float32 pieces [rows, columns] that follow each other; it can be asked again."""
Keep = Callable[[torch.Tensor], torch.Tensor]
"""Gives the factor of every entry of the next piece: 0 if it is dropped, else what makes up for the dropped ones."""


def keep_medium(pieces: Pieces, size: int, drop_smallest: int, keep: int) -> Keep:
    """Keep the entries of which exactly `drop_smallest` have a smaller magnitude, and as many as `keep` says.

    Entries of equal magnitude are ordered by their index, so that the number kept is exact:

        change        [ 3, -1,  2, -2 ]
        drop_smallest 1, keep 2
        order         -1 < 2 < -2 < 3      (2 before -2: the index decides)
        factors       [ 0,  0,  1,  1 ]

    Sources: the trimming of TIES (arXiv:2306.01708, section 3, step 1) drops the smallest; Model Breadcrumbs
    (arXiv:2312.06795, section 3, the masks of equation 2) drops the smallest and the largest.

    Args:
        pieces: The change.
        size: Its number of entries.
        drop_smallest: How many are dropped at the lower end.
        keep: How many are kept after them.
    """
    end = drop_smallest + keep
    if keep <= 0:
        return torch.zeros_like
    if drop_smallest <= 0 and end >= size:
        return torch.ones_like
    low, low_ties = _find_rank(pieces, max(0, drop_smallest))
    high, high_ties = _find_rank(pieces, min(end, size) - 1)
    seen = {low: 0, high: 0}

    def factors(piece: torch.Tensor) -> torch.Tensor:
        bits = _magnitude_bits(piece)
        kept = (bits > low) & (bits < high)
        before = dict(seen)
        for value in {low, high}:
            equal = bits == value
            index = equal.view(-1).cumsum(0).view(equal.shape) + (before[value] - 1)
            inside = equal.clone()
            if value == low:
                inside &= index >= low_ties
            if value == high:
                inside &= index <= high_ties
            kept |= inside
            seen[value] = before[value] + int(equal.sum())
        return kept.float()

    return factors


def keep_random(density: float, generator: torch.Generator) -> Keep:
    """Keep each entry with probability `density` (DARE, arXiv:2311.03099, equation 2: m ~ Bernoulli(p), 1 - m kept)."""

    def factors(piece: torch.Tensor) -> torch.Tensor:
        return draw_mask(torch.full_like(piece, density), generator)

    return factors


def keep_by_rank(density: float, epsilon: float, generator: torch.Generator, rescale: bool) -> Keep:
    """Keep each entry with a probability that grows with the rank of its magnitude in its row.

    The smallest of a row has probability `density - epsilon`, the largest `density + epsilon`. Source: MagPrune of
    DELLA (arXiv:2406.11617, section 3.1), where the window around the density is called epsilon as a whole; here, as
    in mergekit, epsilon is half of it. A matrix of one row (a norm) is one row.

    Args:
        density: Mean probability.
        epsilon: Half of the window.
        generator: Draws.
        rescale: Divide what is kept by its own probability (equation 4 of the paper).
    """

    def factors(piece: torch.Tensor) -> torch.Tensor:
        probabilities = rank_probabilities(piece, density, epsilon)
        mask = draw_mask(probabilities, generator)
        return mask / probabilities if rescale else mask

    return factors


def rank_probabilities(piece: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """The probabilities of `keep_by_rank` for a piece [rows, columns]; with one column all are the density."""
    columns = piece.shape[1]
    if columns == 1 or density >= 1:
        return torch.full_like(piece, density)
    ranks = piece.abs().argsort(dim=1, stable=True).argsort(dim=1).float()
    return (density - epsilon) + ranks * (2 * epsilon / (columns - 1))


def draw_mask(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw 1 with the given probabilities, else 0."""
    return (torch.rand(probabilities.shape, generator=generator) < probabilities).float()


def mask_generator(seed: int, tensor: str, index: int) -> torch.Generator:
    """The random numbers for the mask of a tensor of the model with this index; no other mask depends on them."""
    digest = hashlib.sha256(f"{seed} {index} {tensor}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def count_kept(method: Literal["magnitude", "medium"], size: int, density: float, gamma: float) -> tuple[int, int]:
    """How many entries are dropped at the lower end, and how many are kept after them.

    Args:
        method: `magnitude` keeps the largest; `medium` drops the fraction `gamma` at the upper end first.
        size: Number of entries.
        density: Fraction that is kept.
        gamma: Fraction dropped at the upper end; less if the density leaves no room for it.
    """
    if density >= 1:
        return 0, size
    if method == "magnitude":
        keep = max(1, int(density * size))
        return size - keep, keep
    keep = int(density * size)
    return max(0, size - keep - int(gamma * size)), keep


def _magnitude_bits(piece: torch.Tensor) -> torch.Tensor:
    """The magnitudes of float32 numbers as integers in the same order: their bits without the sign."""
    return piece.contiguous().view(torch.int32) & 0x7FFF_FFFF


def _find_rank(pieces: Pieces, rank: int) -> tuple[int, int]:
    """The magnitude (as bits) of the entry that has `rank` smaller ones before it, and how many equal ones precede it.

    Counts the upper 16 bits, then the lower 16 bits of the entries that have these upper ones: two readings, and exact,
    where sorting would need 12 bytes of memory for each entry.
    """
    upper, left = _find_bucket(((_magnitude_bits(piece) >> 16) for piece in pieces()), rank)
    lower, left = _find_bucket(
        (bits[bits >> 16 == upper] & 0xFFFF for bits in (_magnitude_bits(piece) for piece in pieces())), left
    )
    return (upper << 16) | lower, left


def _find_bucket(values: Iterable[torch.Tensor], rank: int) -> tuple[int, int]:
    """The number below 65,536 at `rank` in ascending order, and the rank among its equals."""
    counts = torch.zeros(65_536, dtype=torch.long)
    for piece in values:
        counts += torch.bincount(piece.view(-1), minlength=65_536)
    totals = counts.cumsum(0)
    bucket = int((totals <= rank).sum())
    return bucket, rank - int(totals[bucket] - counts[bucket])
