"""One answer as text while it is generated: ids to whole characters, stop texts honored, tokens counted.

Does not own generation (`engines/`) or decoding (`tokens/`). Server and terminal speak through it alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from hanlin.inference.protocol import Engine, FinishReason, GenerationRequest, SubscribableStream, TokenLogprobs
from hanlin.tokenizer.tokenizer import Tokenizer


class StopStringMatcher:
    """Passes text on until one of `stops` occurs in it. What could still become a stop text is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def put(self, text: str) -> str:
        """The part of all text so far that can be shown now and was not yet; `hit` says that a stop text has come."""
        if self.hit:
            return ""
        self._held += text
        places = [place for place in map(self._held.find, self._stops) if place >= 0]
        if places:
            self.hit = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def end(self) -> str:
        """What was held back in vain."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """How long a beginning of `stop` the held text ends with."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)


class TextDelta(NamedTuple):
    """Text that can be shown, and where log probabilities were asked for, the ids that it came with and theirs."""

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


class TextStream:
    """The text of one answer in pieces, as the engine generates it. One thread iterates it, once, and closes it.

    `cancel`, from any thread, ends it at once, also while it waits. `finish_reason` is `stop` at a stop id or stop
    text, `length` at the limit, `cancelled` when it was; None until the end. `tokens` counts the ids generated, stop ids
    apart.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, request: GenerationRequest, stops: Sequence[str] = ()
    ) -> None:
        self._stream = engine.stream(request)
        self._decoder = tokenizer.stream_decoder()
        self._stops = StopStringMatcher(stops)
        self._cancelled = threading.Event()
        self._with_likely = request.sampling.top_logprobs is not None
        self._pending: list[int] = []
        self.prompt_tokens = len(request.prompt_ids)
        self.tokens = 0
        self.finish_reason: FinishReason | None = None

    def __iter__(self) -> Iterator[TextDelta]:
        """The pieces; the text of none of them is empty."""
        with closing(self._stream):
            for number in self._stream:
                if self._cancelled.is_set():
                    self.finish_reason = "cancelled"
                    return
                if piece := self._took(number):
                    yield piece
                if self.finish_reason is not None:
                    return
        if rest := self._end():
            yield rest

    def subscribe(self, tell: Callable[[TextDelta | BaseException | None], None]) -> bool:
        """Instead of iterating: `tell` each piece and at last None, or the error that ended it, in the thread in which
        the engine hears of it, so that no thread waits. False, and nothing is done, when the engine has none."""
        if not isinstance(self._stream, SubscribableStream):
            return False

        def hear(told: int | BaseException | None) -> None:
            try:
                if self.finish_reason is not None or (isinstance(told, int) and self._cancelled.is_set()):
                    return
                if isinstance(told, BaseException):
                    tell(told)
                    return
                if piece := self._end() if told is None else self._took(told):
                    tell(piece)
                if self.finish_reason is not None:
                    self._stream.cancel()
                    tell(None)
            except Exception as error:  # the thread is that of every answer
                tell(error)

        self._stream.subscribe(hear)
        return True

    def _took(self, number: int) -> TextDelta | None:
        self.tokens += 1
        if self._with_likely:
            self._pending.append(number)
        text = self._stops.put(self._decoder.put(number))
        piece = self._piece(text) if text else None
        if self._stops.hit:
            self.finish_reason = "stop"
        return piece

    def _end(self) -> TextDelta | None:
        # an answer may end within a character: its bytes are shown as U+FFFD rather than swallowed
        rest = self._stops.put(self._decoder.end()) + self._stops.end()
        piece = self._piece(rest) if rest else None
        finish_reason: FinishReason = self._stream.finish_reason or "cancelled"
        self.finish_reason = "cancelled" if self._cancelled.is_set() else "stop" if self._stops.hit else finish_reason
        return piece

    def _piece(self, text: str) -> TextDelta:
        ids, self._pending = tuple(self._pending), []
        return TextDelta(text, ids, tuple(self._stream.logprobs[self.tokens - len(ids) : self.tokens]) if ids else ())

    def cancel(self) -> None:
        self._cancelled.set()
        self._stream.cancel()

    def close(self) -> None:
        self._stream.close()
