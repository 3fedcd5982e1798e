"""The paired bootstrap: how certain scores and their differences are, over the same questions for every model.

Efron and Tibshirani 1993, chapters 8 and 13 (percentile intervals). Questions are drawn, each with the values of all
models, so that a question that is hard for all of them moves no difference.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from hanlin.evaluate.scoring import Interval

Average = Literal["micro", "macro"]
_CELLS = 4_000_000
"""Counts that are drawn at once: 32 MB."""


def average_of(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], groups: npt.NDArray[np.intp], average: Average
) -> npt.NDArray[np.float64]:
    """The score of each model, [models].

    Args:
        values: [models, questions].
        weights: [models, questions]; the score of a group is Σ value / Σ weight: 1 for right and wrong, bytes for bits
            per byte.
        groups: [questions], the subject of each, from 0.
        average: `micro` takes all questions as one group, `macro` the mean of the groups' scores.
    """
    if average == "micro":
        return np.asarray(values.sum(axis=1) / weights.sum(axis=1))
    scores = [
        values[:, groups == group].sum(axis=1) / weights[:, groups == group].sum(axis=1) for group in np.unique(groups)
    ]
    return np.asarray(np.mean(scores, axis=0))


def resample(
    values: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    groups: npt.NDArray[np.intp],
    average: Average,
    *,
    resamples: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """The scores of all models over drawn questions, [resamples, models]; arguments as in `average_of`.

    For a macro average questions are drawn within their subjects, whose sizes the exam fixes. Questions with equal
    values of all models are one kind of which a number is drawn, which is the same draw: right and wrong of two models
    are 4 kinds, whatever the number of questions.

        values  1 1 0 1      kinds  (1, 0) twice, (0, 0), (1, 1): 4 questions are drawn as a multinomial
                0 0 0 1             with probabilities 2/4, 1/4, 1/4
    """
    rng = np.random.default_rng(seed)
    chosen = (
        [np.arange(len(groups))] if average == "micro" else [np.flatnonzero(groups == g) for g in np.unique(groups)]
    )
    total = np.zeros((resamples, len(values)))
    for members in chosen:
        kinds, counts = np.unique(np.vstack([values[:, members], weights[:, members]]).T, axis=0, return_counts=True)
        shares = counts / counts.sum()
        block = max(1, _CELLS // len(counts))
        for start in range(0, resamples, block):
            stop = min(resamples, start + block)
            drawn = rng.multinomial(len(members), shares, size=stop - start) @ kinds
            total[start:stop] += drawn[:, : len(values)] / drawn[:, len(values) :]
    return np.asarray(total / len(chosen))


def percentile_interval(samples: npt.NDArray[np.float64]) -> Interval:
    """The middle 95 % of resampled figures."""
    low, high = np.percentile(samples, (2.5, 97.5))
    return Interval(float(low), float(high))
