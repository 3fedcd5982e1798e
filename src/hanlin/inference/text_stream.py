"""The text of one answer while it is generated: tokens to whole characters, stop strings, token counts.

The server and the terminal chat both use it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from hanlin.inference.protocol import Engine, FinishReason, GenerationRequest, SubscribableStream, TokenLogprobs
from hanlin.tokenizer.tokenizer import Tokenizer


class StopStringMatcher:
    r"""Passes text on until one of the stop strings occurs. Text that may become a stop string is held back.

    stops ["。\n"]: put("好。") -> "好", put("再") -> "。再", put("。\n") -> "" and `matched`
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._pending_text = ""
        self.matched = False

    def put(self, text: str) -> str:
        """Add text; returns the part that can be shown now. `matched` becomes True when a stop string has occurred."""
        if self.matched:
            return ""
        self._pending_text += text
        indices = [index for index in map(self._pending_text.find, self._stops) if index >= 0]
        if indices:
            self.matched = True
            released, self._pending_text = self._pending_text[: min(indices)], ""
            return released
        held_back = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._pending_text) - held_back
        released, self._pending_text = self._pending_text[:cut], self._pending_text[cut:]
        return released

    def end(self) -> str:
        """The text that was still held back."""
        released, self._pending_text = self._pending_text, ""
        return released

    def _overlap(self, stop: str) -> int:
        """Length of the longest proper prefix of `stop` that the pending text ends with."""
        longest = min(len(stop) - 1, len(self._pending_text))
        return next((size for size in range(longest, 0, -1) if self._pending_text.endswith(stop[:size])), 0)


class TextDelta(NamedTuple):
    """New text, and the token ids and log probabilities that belong to it if these were requested."""

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


class TextStream:
    """The text of one answer in deltas, as the engine generates it. One thread iterates it, once, and closes it.

    `cancel`, from any thread, ends it at once, even while it waits. `finish_reason` is `stop` at a stop token or stop
    string, `length` at the limit, `cancelled` if cancelled, and None until the end. `tokens` counts the generated
    tokens without stop tokens.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, request: GenerationRequest, stops: Sequence[str] = ()
    ) -> None:
        self._stream = engine.stream(request)
        self._decoder = tokenizer.stream_decoder()
        self._stops = StopStringMatcher(stops)
        self._cancelled = threading.Event()
        self._with_logprobs = request.sampling.top_logprobs is not None
        self._pending: list[int] = []
        self.prompt_tokens = len(request.prompt_ids)
        self.tokens = 0
        self.finish_reason: FinishReason | None = None

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield the deltas; none has an empty text."""
        with closing(self._stream):
            for token_id in self._stream:
                if self._cancelled.is_set():
                    self.finish_reason = "cancelled"
                    return
                if delta := self._add_token(token_id):
                    yield delta
                if self.finish_reason is not None:
                    return
        if rest := self._finish():
            yield rest

    def subscribe(self, on_delta: Callable[[TextDelta | BaseException | None], None]) -> bool:
        """Instead of iterating, call `on_delta` with each delta, then with None or the error that ended the answer.

        The calls come from the thread in which the engine receives tokens, so that no thread waits. Returns False, and
        does nothing, if the engine's stream cannot do that.
        """
        if not isinstance(self._stream, SubscribableStream):
            return False

        def on_token(item: int | BaseException | None) -> None:
            try:
                if self.finish_reason is not None or (isinstance(item, int) and self._cancelled.is_set()):
                    return
                if isinstance(item, BaseException):
                    on_delta(item)
                    return
                if delta := self._finish() if item is None else self._add_token(item):
                    on_delta(delta)
                if self.finish_reason is not None:
                    self._stream.cancel()
                    on_delta(None)
            except Exception as error:  # the thread is that of every answer
                on_delta(error)

        self._stream.subscribe(on_token)
        return True

    def _add_token(self, token_id: int) -> TextDelta | None:
        self.tokens += 1
        if self._with_logprobs:
            self._pending.append(token_id)
        text = self._stops.put(self._decoder.put(token_id))
        delta = self._make_delta(text) if text else None
        if self._stops.matched:
            self.finish_reason = "stop"
        return delta

    def _finish(self) -> TextDelta | None:
        # an answer may end within a character: its bytes are shown as U+FFFD rather than swallowed
        rest = self._stops.put(self._decoder.end()) + self._stops.end()
        delta = self._make_delta(rest) if rest else None
        finish_reason: FinishReason = self._stream.finish_reason or "cancelled"
        self.finish_reason = (
            "cancelled" if self._cancelled.is_set() else "stop" if self._stops.matched else finish_reason
        )
        return delta

    def _make_delta(self, text: str) -> TextDelta:
        ids, self._pending = tuple(self._pending), []
        return TextDelta(text, ids, tuple(self._stream.logprobs[self.tokens - len(ids) : self.tokens]) if ids else ())

    def cancel(self) -> None:
        self._cancelled.set()
        self._stream.cancel()

    def close(self) -> None:
        self._stream.close()
