"""Messages between the process of an engine and its parent."""

from __future__ import annotations

from typing import Any

from hanlin.inference.protocol import FinishReason, Score

HEARTBEAT = -1
"""The call id of an answer to `ping`: how many seconds the current step has taken so far."""


class CallResult:
    """The last that is told of what was asked."""

    def __init__(
        self,
        finish_reason: FinishReason | None = None,
        error: BaseException | None = None,
        result: Any = None,
        failed: str = "",
    ) -> None:
        self.finish_reason, self.error, self.result, self.failed = finish_reason, error, result, failed


class PairScore:
    """A score as soon as it is known, with the index of its pair."""

    def __init__(self, index: int, score: Score) -> None:
        self.index, self.score = index, score


class AnswerStart:
    """Told before the first id of an answer: how many tokens of its prompt the KV cache held."""

    def __init__(self, cached_tokens: int) -> None:
        self.cached_tokens = cached_tokens
