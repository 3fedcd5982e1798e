"""Which samples each optimizer step learns from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Sampler:
    """A seeded permutation of all samples for every epoch, divided evenly over the steps of the epoch.

    The samples of a step follow from seed and step alone, so a checkpoint holds no state of the sampler. With 7 samples
    and 2 steps per epoch:

        epoch 0: permutation 4 1 6 | 0 2 5 3    step 0: 4 1 6    step 1: 0 2 5 3
        epoch 1: permutation 0 5 3 | 1 6 4 2    step 2: 0 5 3    step 3: 1 6 4 2

    Attributes:
        num_samples: Samples of the dataset.
        steps_per_epoch: Optimizer steps of an epoch.
        seed: Seed of the permutations.
    """

    num_samples: int
    steps_per_epoch: int
    seed: int

    @classmethod
    def for_batch_size(cls, num_samples: int, batch_size: int, seed: int) -> Sampler:
        """Divide an epoch into steps of about `batch_size` samples (one more or fewer, so that none is left over)."""
        return cls(num_samples, max(1, round(num_samples / batch_size)), seed)

    def total_steps(self, epochs: float, steps: int | None) -> int:
        """The steps of a run: `steps` if it is set, else those of `epochs` epochs."""
        return steps if steps is not None else max(1, round(epochs * self.steps_per_epoch))

    def step_indices(self, step: int) -> np.ndarray:
        """The indices [n] of the samples that a step learns from; all processes together learn from all of them."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start, end = (self.num_samples * edge // self.steps_per_epoch for edge in (step_of_epoch, step_of_epoch + 1))
        return _permutation(self.num_samples, self.seed, epoch)[start:end]


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_samples)
