"""An engine that says what it is told, behind a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import FinishReason, GenerationRequest, TokenLogprobs


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
        self.continues = False
        """Whether the text is encoded as one that follows another, which matters to SentencePiece tokenizers."""
        self.requests: list[GenerationRequest] = []
        opened.engine.stream = self._stream  # type: ignore[method-assign,assignment]

    def _stream(self, request: GenerationRequest) -> ScriptedStream:
        self.requests.append(request)
        ids = self.tokenizer.encode(self.text, continuation=self.continues)
        return ScriptedStream(ids, self.finish_reason)

    def prompt(self) -> str:
        return self.tokenizer.decode(self.requests[-1].prompt_ids, skip_special=False)
