"""Prompts that are followed by an answer to another prompt: how far a policy has moved where nothing is taught.

Owns which answer each prompt gets. Does not own what is made of their log-probabilities (`alignment`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.dataset.encoded import EncodedRecords, Segment

SHIFTS = 256
"""So many shifts are tried at most."""


@dataclass(frozen=True, slots=True)
class Mismatched(EncodedRecords):
    """The prompt of each example with the answer of the one `shift` places before it, the first with the last's.

    Nothing is written: the tokens are put together as they are read. `prompts` [examples] are the lengths of the
    prompts; an answer is cut where example and prompt would be longer than `max_seq_length` positions.
    """

    prompts: np.ndarray
    shift: int
    max_seq_length: int

    @classmethod
    def of(cls, encoded: EncodedRecords, max_seq_length: int) -> Self:
        """Examples that have one answer at their end, shifted by as little as leaves no prompt with an answer of its
        own (TRL's `KTOTrainer` shifts by one; where a prompt's answers stand together, that would match them again).

        Raises UserError when there are fewer than two examples.
        """
        if len(encoded.starts) < 3:
            raise UserError(
                say("there is one answer alone to learn from", "可学习的回答只有一个"),
                "data",
                say("another prompt's answer is needed to compare with", "需要另一个提示的回答作参照"),
            )
        learned = np.flatnonzero(encoded.learn[: int(encoded.starts[-1])])
        begins = np.asarray(encoded.starts[:-1])
        prompts = learned[np.searchsorted(learned, begins)] - begins
        own = {field.name: getattr(encoded, field.name) for field in fields(EncodedRecords)}
        return cls(**own, prompts=prompts, shift=_shift(encoded, prompts), max_seq_length=max_seq_length)

    @property
    def lengths(self) -> np.ndarray:
        answers = np.roll(np.diff(self.starts) - self.prompts, self.shift)
        return np.minimum(self.prompts + answers - 1, self.max_seq_length)

    def read(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        example = segment.example
        other = (example - self.shift) % len(self.prompts)
        prompt = slice(int(self.starts[example]), int(self.starts[example] + self.prompts[example]))
        answer = slice(int(self.starts[other] + self.prompts[other]), int(self.starts[other + 1]))
        place = slice(segment.start, segment.end + 1)
        ids = np.concatenate([self.ids[prompt], self.ids[answer]])
        return ids[place], np.concatenate([self.learn[prompt], self.learn[answer]])[place]


def _shift(encoded: EncodedRecords, prompts: np.ndarray) -> int:
    """The least shift with which the fewest prompts meet an answer of their own."""
    names = np.empty(len(prompts), dtype=np.uint64)
    for place, (begin, length) in enumerate(zip(encoded.starts[:-1].tolist(), prompts.tolist(), strict=True)):
        prompt = np.ascontiguousarray(encoded.ids[begin : begin + length])
        names[place] = int.from_bytes(hashlib.blake2b(prompt.tobytes(), digest_size=8).digest(), "little")
    fewest, best = len(names) + 1, 1
    for shift in range(1, min(len(names), SHIFTS + 1)):
        met = int((names == np.roll(names, shift)).sum())
        if met < fewest:
            fewest, best = met, shift
        if not met:
            break
    return best
