"""An engine that says what it is told, behind a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Constraint, FinishReason, GenerationRequest, TokenLogprobs

_MAX_STEPS = 300


class ScriptedStream:
    """A stream of given ids."""

    def __init__(self, ids: Sequence[int], finish_reason: FinishReason) -> None:
        self._ids, self._end = iter(ids), finish_reason
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.cached_tokens: int | None = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.logprobs.append(TokenLogprobs(-0.5, ((1, -0.5),)))
        try:
            return next(self._ids)
        except StopIteration:
            self.finish_reason = self._end
            raise

    def cancel(self) -> None:
        self._ids = iter(())

    def close(self) -> None: ...


class ScriptedModel:
    """A server whose model says `text`; `requests` are those that it was asked."""

    def __init__(self, opened: LoadedEngine, text: str = "", finish_reason: FinishReason = "stop") -> None:
        self.tokenizer, self.text, self.finish_reason = opened.tokenizer, text, finish_reason
        self.obeys = False
        """Whether it says the text only as far as the constraint of the request allows it, and then what must come."""
        self.continues = False
        """Whether the text is encoded as one that follows another, which matters to SentencePiece tokenizers."""
        self.requests: list[GenerationRequest] = []
        opened.engine.stream = self._stream  # type: ignore[method-assign,assignment]

    def _stream(self, request: GenerationRequest) -> ScriptedStream:
        self.requests.append(request)
        ids = self.tokenizer.encode(self.text, continuation=self.continues)
        if self.obeys and request.constraint is not None:
            ids = _obey(request.constraint, ids, request.stop_ids)
        return ScriptedStream(ids, self.finish_reason)

    def prompt(self) -> str:
        return self.tokenizer.decode(self.requests[-1].prompt_ids, skip_special=False)


def _obey(constraint: Constraint, ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """The ids of a text as far as a constraint allows them, then the end as soon as it may come."""
    written: list[int] = []
    is_free = True
    for step in range(_MAX_STEPS):
        allowed = constraint.allowed_tokens()
        is_free = is_free and step < len(ids) and bool(allowed[ids[step]])
        if not is_free and allowed[list(stop_ids)].any():
            return written
        written.append(ids[step] if is_free else int(allowed.nonzero()[0][0]))
        constraint.accept_token(written[-1])
    return written
