"""Stream the text of one answer: decode tokens to whole characters, stop at stop strings, count tokens.

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
    r"""Releases text until a stop string occurs; text that may be the start of a stop string is held back.

    stops ["。\n"]: put("好。") -> "好", put("再") -> "。再", put("。\n") -> "" and `matched`

    Attributes:
        matched: Whether a stop string has occurred.
        stop_string: The one that occurred, or ''.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._pending_text = ""
        self.matched = False
        self.stop_string = ""

    def put(self, text: str) -> str:
        """Append text. Returns the text that can be released now, which never contains a stop string."""
        if self.matched:
            return ""
        self._pending_text += text
        found = [(index, stop) for stop in self._stops if (index := self._pending_text.find(stop)) >= 0]
        if found:
            index, self.stop_string = min(found, key=lambda pair: pair[0])
            self.matched = True
            released, self._pending_text = self._pending_text[:index], ""
            return released
        held_back = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._pending_text) - held_back
        released, self._pending_text = self._pending_text[:cut], self._pending_text[cut:]
        return released

    def end(self) -> str:
        """Return the text that is still held back; call it at the end of the answer."""
        released, self._pending_text = self._pending_text, ""
        return released

    def _overlap(self, stop: str) -> int:
        """Length of the longest proper prefix of `stop` that the pending text ends with."""
        longest = min(len(stop) - 1, len(self._pending_text))
        return next((size for size in range(longest, 0, -1) if self._pending_text.endswith(stop[:size])), 0)


class TextDelta(NamedTuple):
    """New text of an answer.

    Attributes:
        text: The text; never empty.
        ids: Token ids of the text, if log-probabilities were requested.
        logprobs: Log-probabilities of these tokens and their alternatives, one item for each of `ids`.
    """

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


class TextStream:
    """The text of one answer in deltas, as the engine generates it. One thread iterates it, once, and closes it.

    Args:
        engine: Generates the tokens.
        tokenizer: Decodes them.
        request: The prompt and the sampling parameters.
        stops: Stop strings; neither they nor the text after them are yielded.
        continues_text: Whether the answer goes on from text of its own, so that a leading space belongs to it.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        tokens: Generated tokens until now, without stop tokens.
        finish_reason: `stop` at a stop token or stop string, `length` at the token limit, `cancelled` after `cancel`,
            and None before the end.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        request: GenerationRequest,
        stops: Sequence[str] = (),
        continues_text: bool = False,
    ) -> None:
        self._stream = engine.stream(request)
        self._decoder = tokenizer.stream_decoder(continues_text=continues_text)
        self._stop_matcher = StopStringMatcher(stops)
        self._cancelled = threading.Event()
        self._with_logprobs = request.sampling.top_logprobs is not None
        self._pending_ids: list[int] = []
        self.prompt_tokens = len(request.prompt_ids)
        self.tokens = 0
        self.finish_reason: FinishReason | None = None

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield the deltas until the answer ends."""
        with closing(self._stream):
            for token_id in self._stream:
                if self._cancelled.is_set():
                    self.finish_reason = "cancelled"
                    return
                if delta := self._add_token(token_id):
                    yield delta
                if self.finish_reason is not None:
                    return
        if delta := self._finish():
            yield delta

    def subscribe(self, on_delta: Callable[[TextDelta | BaseException | None], None]) -> bool:
        """Deliver the deltas by callback, instead of iterating, so that no thread has to wait for them.

        Args:
            on_delta: Called with each delta, then with None, or with the error that ended the answer, in the thread in
                which the engine receives tokens.

        Returns:
            Whether the engine's stream supports callbacks; if not, nothing is done.
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
            except Exception as error:  # the thread serves other answers too, so it must go on
                on_delta(error)

        self._stream.subscribe(on_token)
        return True

    def _add_token(self, token_id: int) -> TextDelta | None:
        self.tokens += 1
        if self._with_logprobs:
            self._pending_ids.append(token_id)
        text = self._stop_matcher.put(self._decoder.put(token_id))
        delta = self._make_delta(text) if text else None
        if self._stop_matcher.matched:
            self.finish_reason = "stop"
        return delta

    def _finish(self) -> TextDelta | None:
        # an answer may end within a character: its bytes are decoded as U+FFFD instead of being lost
        text = self._stop_matcher.put(self._decoder.end()) + self._stop_matcher.end()
        delta = self._make_delta(text) if text else None
        finish_reason: FinishReason = self._stream.finish_reason or "cancelled"
        self.finish_reason = (
            "cancelled" if self._cancelled.is_set() else "stop" if self._stop_matcher.matched else finish_reason
        )
        return delta

    def _make_delta(self, text: str) -> TextDelta:
        ids, self._pending_ids = tuple(self._pending_ids), []
        return TextDelta(text, ids, tuple(self._stream.logprobs[self.tokens - len(ids) : self.tokens]) if ids else ())

    @property
    def cached_tokens(self) -> int | None:
        """How many tokens of the prompt the engine's KV cache held; None if it does not say."""
        return self._stream.cached_tokens

    @property
    def stop_string(self) -> str:
        """The stop string that ended the answer, or ''."""
        return self._stop_matcher.stop_string

    def cancel(self) -> None:
        """End the answer at once, from any thread, even while the iterating thread waits for a token."""
        self._cancelled.set()
        self._stream.cancel()

    def close(self) -> None:
        """Release the stream of the engine."""
        self._stream.close()
