"""Tokens of a micro-batch, of an optimizer step and of a whole stage, from settings and what is known of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Self

from hanlin.config.settings.preference import Kto
from hanlin.config.settings.train import Pretrain, Sft, Training

PACKING_EFFICIENCY = 0.95
"""Assumed fraction of a packed sequence that is tokens and not padding."""
TARGET_FRACTION = {Pretrain: 1.0, Sft: 0.7}
"""Fraction of tokens with loss if the data is not known."""


@dataclass(frozen=True, slots=True)
class DatasetStats:
    """What is known of a stage's data: how many units it has (documents, conversations, pairs, answers), the tokens of
    one on average, all its answers included, and the share of them that is learned. `documents` are the tokens of those
    looked at, as attention sees them: each answer of a pair with its prompt. `longest` are the tokens of the longest
    pair or answer among them that is not longer than a row.
    """

    units: int
    tokens: float
    learned: float
    documents: tuple[float, ...] = ()
    longest: float = 0.0

    @property
    def total(self) -> float:
        return self.units * self.tokens


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Tokens of a pass on one process, passes of a step on one process, tokens of a step over all processes, the share
    of them that is learned, the steps of the stage (None: the data is not known yet), and the tokens of some of its
    documents.
    """

    micro_batch_tokens: int
    accumulation_steps: int
    step_tokens: float
    learned: float
    steps: int | None
    documents: tuple[float, ...] = ()

    @classmethod
    def of(cls, settings: Training, data: DatasetStats | None, processes: int = 1) -> Self:
        if isinstance(settings, Pretrain | Sft):
            rows = max(1, settings.batch_tokens // settings.max_seq_length)
            units, unit = rows, float(settings.max_seq_length)
            units_in_all = (
                None if data is None else math.ceil(data.total / (settings.max_seq_length * PACKING_EFFICIENCY))
            )
            largest, filled = unit, PACKING_EFFICIENCY
        else:
            units = settings.batch_answers if isinstance(settings, Kto) else settings.batch_pairs  # type: ignore[attr-defined]
            longest = settings.max_seq_length * (1 if isinstance(settings, Kto) else 2)
            unit = float(longest) if data is None else min(float(longest), data.tokens)
            units_in_all = None if data is None else data.units
            # no pair is divided: the longest sets the memory, however few tokens a micro-batch is to have
            largest = unit if data is None else max(unit, min(float(longest), data.longest))
            filled = 1.0
        if units_in_all is not None:
            units = min(units, units_in_all)
        own_units = math.ceil(units / processes)
        micro_batch_tokens = math.ceil(max(largest, min(settings.micro_batch_tokens, own_units * unit)))
        learned = data.learned if data is not None else TARGET_FRACTION.get(type(settings), 0.5)
        steps = settings.steps
        if steps is None and units_in_all is not None:
            per_epoch = max(1, round(units_in_all / units))
            steps = max(1, round(settings.epochs * per_epoch))
        seen = data.documents if data is not None else ()
        documents = tuple(part for tokens in seen for part in _parts_in_rows(settings, tokens))
        return cls(
            micro_batch_tokens,
            math.ceil(own_units * unit / micro_batch_tokens),
            units * unit * filled,
            learned,
            steps,
            documents or (settings.max_seq_length / 2,),
        )

    @property
    def attended_tokens(self) -> float | None:
        """Tokens of the document that a token is in, on average over tokens; None if no documents are known."""
        total = sum(self.documents)
        return sum(tokens * tokens for tokens in self.documents) / total if total else None


def _parts_in_rows(settings: Training, tokens: float) -> Iterator[float]:
    """The tokens of a document as rows hold it: pre-training cuts it, other kinds take it whole or shorten it."""
    length = float(settings.max_seq_length)
    if not isinstance(settings, Pretrain):
        yield min(tokens, length)
        return
    yield from repeat(length, int(tokens // length))
    if tokens % length:
        yield tokens % length
