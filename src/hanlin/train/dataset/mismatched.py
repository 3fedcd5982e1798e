"""Prompts followed by the answer to another prompt: KTO estimates the policy's KL divergence from its reference on
these.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.train.dataset.encoded import EncodedRecords, Segment

MAX_SHIFTS = 256
"""At most this many shifts are tried."""


@dataclass(frozen=True, slots=True)
class MismatchedRecords(EncodedRecords):
    """The prompt of each example with the answer of the one `shift` before it, the first with that of the last.

    With shift 1, examples P0 A0, P1 A1, P2 A2 are read as P0 A2, P1 A0, P2 A1. Nothing is written: the tokens are put
    together as they are read.

    Attributes:
        prompt_lengths: Tokens of each prompt, int64 [examples].
        shift: How many examples an answer moves.
        max_seq_length: An answer is cut if prompt and answer together take more positions.
    """

    prompt_lengths: np.ndarray
    shift: int
    max_seq_length: int

    @classmethod
    def from_encoded(cls, encoded: EncodedRecords, max_seq_length: int) -> Self:
        """Shift the answers by as little as leaves no prompt with an answer of its own.

        TRL's `KTOTrainer` shifts by one; if the answers to a prompt follow each other, that would match them again.

        Args:
            encoded: Examples that have one answer at their end.
            max_seq_length: The most positions of an example.

        Raises:
            UserError: There are fewer than two examples.
        """
        if len(encoded.starts) < 3:
            raise UserError(
                tr("there is only one answer to learn from"),
                "data",
                tr("KTO compares with the answer to another prompt: add one"),
            )
        targets = np.flatnonzero(encoded.loss_mask[: int(encoded.starts[-1])])
        starts = np.asarray(encoded.starts[:-1])
        prompt_lengths = targets[np.searchsorted(targets, starts)] - starts
        own = {field.name: getattr(encoded, field.name) for field in fields(EncodedRecords)}
        shift = _find_shift(encoded, prompt_lengths)
        return cls(**own, prompt_lengths=prompt_lengths, shift=shift, max_seq_length=max_seq_length)

    @property
    def lengths(self) -> np.ndarray:
        answers = np.roll(np.diff(self.starts) - self.prompt_lengths, self.shift)
        return np.minimum(self.prompt_lengths + answers - 1, self.max_seq_length)

    def read(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        example = segment.example
        other = (example - self.shift) % len(self.prompt_lengths)
        prompt = slice(int(self.starts[example]), int(self.starts[example] + self.prompt_lengths[example]))
        answer = slice(int(self.starts[other] + self.prompt_lengths[other]), int(self.starts[other + 1]))
        span = slice(segment.start, segment.end + 1)
        ids = np.concatenate([self.ids[prompt], self.ids[answer]])
        return ids[span], np.concatenate([self.loss_mask[prompt], self.loss_mask[answer]])[span]


def _find_shift(encoded: EncodedRecords, prompt_lengths: np.ndarray) -> int:
    """The least shift with which the fewest prompts meet an answer of their own."""
    digests = np.empty(len(prompt_lengths), dtype=np.uint64)
    for index, (start, length) in enumerate(zip(encoded.starts[:-1].tolist(), prompt_lengths.tolist(), strict=True)):
        prompt = np.ascontiguousarray(encoded.ids[start : start + length])
        digests[index] = int.from_bytes(hashlib.blake2b(prompt.tobytes(), digest_size=8).digest(), "little")
    fewest, best = len(digests) + 1, 1
    for shift in range(1, min(len(digests), MAX_SHIFTS + 1)):
        matches = int((digests == np.roll(digests, shift)).sum())
        if matches < fewest:
            fewest, best = matches, shift
        if not matches:
            break
    return best
