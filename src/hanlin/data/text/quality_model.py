"""A linear model of good and bad text over hashed n-grams of characters.

The features of a text are its n-grams of 1 to 4 letters, digits and marks, hashed into buckets (Weinberger et al. 2009,
arXiv 0902.2206), each with 1 + log of its count, scaled to length 1. Logistic regression on them is trained with
AdaGrad (Duchi et al. 2011), text by text in a fixed order, both classes with equal weight. The idea is fastText's
(Joulin et al. 2016, arXiv 1607.01759), without embeddings: with characters instead of words they add nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, parse_json, write_json
from hanlin.core.i18n import tr
from hanlin.data.text.char_stats import code_points
from hanlin.data.text.ngrams import hash_ngrams

WEIGHTS_FILE, INFO_FILE = "weights.npy", "quality.json"
_MAX_CHARS = 10_000
"""Longer texts are judged by their beginning."""
_SIZES = (1, 2, 3, 4)
_LEARNING_RATE = 0.5
_L2 = 1e-6

Features = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def extract_features(text: str, buckets: int) -> Features:
    """Extract the features of a text.

    Returns:
        Indices of buckets, ascending, and their values, both [features]; without blanks a text of n characters has
        at most 4n features.
    """
    codes = code_points("".join(text[:_MAX_CHARS].split()).casefold())
    hashed = [hash_ngrams(codes, size) * np.uint64(2 * size + 1) for size in _SIZES]
    indices = (np.concatenate(hashed) >> np.uint64(20)) % np.uint64(buckets)
    unique, counts = np.unique(indices.astype(np.int64), return_counts=True)
    values = 1 + np.log(counts)
    return unique, values / max(1e-9, float(np.sqrt((values * values).sum())))


@dataclass(frozen=True, slots=True)
class QualityModel:
    """Weights of the buckets, the last one the bias; float32 of shape (buckets + 1,)."""

    weights: npt.NDArray[np.float32]

    def score(self, text: str) -> float:
        """The probability that a text is good, between 0 and 1."""
        indices, values = extract_features(text, len(self.weights) - 1)
        return _sigmoid(float((self.weights[indices] * values).sum()) + float(self.weights[-1]))

    def save(self, folder: Path, info: dict[str, Any]) -> None:
        """Write the weights and `quality.json` into a folder."""
        with open_atomic(folder / WEIGHTS_FILE, "wb") as file:
            np.save(file, self.weights, allow_pickle=False)
        write_json(folder / INFO_FILE, info)

    @classmethod
    def load(cls, folder: Path) -> QualityModel:
        """Load a model. Raises UserError if the folder holds none."""
        try:
            parse_json((folder / INFO_FILE).read_text(encoding="utf-8"))
            weights = np.load(folder / WEIGHTS_FILE, allow_pickle=False)
        except (OSError, ValueError) as error:
            hint = tr("make one with a `quality_model` stage")
            raise UserError(tr("no quality model is here"), folder, hint) from error
        if weights.dtype != np.float32 or weights.ndim != 1 or len(weights) < 2:
            raise UserError(tr("no quality model is here"), folder)
        return cls(weights)


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-min(30.0, max(-30.0, value)))))


def train_quality_model(good: Sequence[str], bad: Sequence[str], buckets: int, epochs: int, seed: int) -> QualityModel:
    """Train a model.

    Args:
        good: Texts to keep.
        bad: Texts to drop.
        buckets: Number of buckets.
        epochs: How often each text is seen.
        seed: Of the order of the texts.
    """
    features = [extract_features(text, buckets) for text in (*good, *bad)]
    labels = np.array([1.0] * len(good) + [0.0] * len(bad))
    class_weights = (len(labels) / (2 * max(1, len(good))), len(labels) / (2 * max(1, len(bad))))
    weights, squares = np.zeros(buckets + 1), np.full(buckets + 1, 1e-8)
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        for index in order.permutation(len(features)).tolist():
            buckets_of_text, values = features[index]
            label = labels[index]
            probability = _sigmoid(float((weights[buckets_of_text] * values).sum()) + weights[-1])
            slope = (probability - label) * class_weights[0 if label else 1]
            gradient = slope * values + _L2 * weights[buckets_of_text]
            squares[buckets_of_text] += gradient * gradient
            weights[buckets_of_text] -= _LEARNING_RATE * gradient / np.sqrt(squares[buckets_of_text])
            squares[-1] += slope * slope
            weights[-1] -= _LEARNING_RATE * slope / np.sqrt(squares[-1])
    return QualityModel(weights.astype(np.float32))


def split_validation(texts: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Split texts by their content: (for training, for validation); equal texts are on one side."""
    sides: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        sides[int.from_bytes(digest, "little") < fraction * 2**64].append(text)
    return sides


def measure(model: QualityModel, good: Sequence[str], bad: Sequence[str]) -> Iterator[dict[str, float]]:
    """Yield for several limits what a rule that drops texts below it would do to validation texts."""
    scores = np.array([model.score(text) for text in (*good, *bad)])
    is_bad = np.arange(len(scores)) >= len(good)
    for limit in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        dropped = scores < limit
        right = int((dropped & is_bad).sum())
        yield {
            "min_score": limit,
            "precision": round(right / max(1, int(dropped.sum())), 4),
            "recall": round(right / max(1, len(bad)), 4),
            "good_dropped": round(int((dropped & ~is_bad).sum()) / max(1, len(good)), 4),
        }
