"""A chat in the terminal: answers appear as they are generated, and what no longer fits is forgotten turn by turn.

Does not own which turns are forgotten (`history`) or generation (`generation`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.engines import Engine, Request, Sampling
from hanlin.errors import UserError
from hanlin.evaluate.opening import open_model, split_choice
from hanlin.language import say
from hanlin.records import Message
from hanlin.serve.generation import Speech, sampling_of
from hanlin.tokens.chat_template import ChatTemplate
from hanlin.tokens.history import fit

Ask = Callable[[str], str]
Show = Callable[[str], None]


class Chat:
    """A conversation with a model: what was said, and how the next answer is generated.

    `sampling.max_new_tokens` tokens of the context are kept for the answer, at most half of it; the turns before
    share the rest.
    """

    def __init__(
        self, engine: Engine, template: ChatTemplate, system: str, sampling: Sampling, cut: bool = False
    ) -> None:
        limit = max(1, min(sampling.max_new_tokens, engine.context_length // 2))
        self._engine, self._template = engine, template
        self._sampling = replace(sampling, max_new_tokens=limit)
        self._budget = engine.context_length - limit
        self._cut = cut
        self._opening = (Message("system", system),) if system else ()
        self.messages: tuple[Message, ...] = self._opening
        self.forgotten = 0

    def reset(self) -> None:
        self.messages = self._opening
        self.forgotten = 0

    def say(self, text: str, show: Show) -> str:
        """Send a message and `show` the answer piece by piece; return it whole. One that is interrupted stays as it is.

        Raises UserError, the conversation unchanged, when the message does not fit the context.
        """
        fitted = fit((*self.messages, Message("user", text)), self._template, self._budget, self._cut)
        request = Request(fitted.ids, self._template.stop_ids, self._sampling)
        pieces: list[str] = []
        with closing(Speech(self._engine, self._template.tokenizer, request)) as speech:
            try:
                for piece in speech:
                    pieces.append(piece.text)
                    show(piece.text)
            except KeyboardInterrupt:
                pass
        answer = "".join(pieces)
        self.messages = (*fitted.messages, Message("assistant", answer))
        self.forgotten += fitted.dropped
        return answer


def chat(
    model: str | Path,
    *,
    engine: str = "auto",
    system: str | None = None,
    once: str | None = None,
    max_new_tokens: int = 512,
    temperature: float | None = None,
    seed: int | None = None,
    cut: bool = False,
    ask: Ask = input,
    show: Show | None = None,
    **options: Any,
) -> None:
    """Talk with a model until `/quit` or the end of input; with `once` only that message is answered.

    `model` is a model folder, an adapter folder, or GGUF files (`folder:Q8_0` chooses one). A `temperature` of None
    leaves it to the model's generation settings. With `cut`, a message that is too long loses its end. `options` go to
    the engine. Raises UserError for a path without a
    model, and with `once` for a message that does not fit.
    """
    out = show or _print_piece
    opened = open_model(*split_choice(model), engine, **options)
    try:
        chosen = sampling_of(opened.found.folder) | ({} if temperature is None else {"temperature": temperature})
        sampling = Sampling(**chosen, max_new_tokens=max_new_tokens, seed=seed)
        conversation = Chat(opened.engine, opened.template(), system or "", sampling, cut)
        if once is not None:
            conversation.say(once, out)
            out("\n")
            return
        out(say(f"{opened.found.name}: /reset forgets the conversation, /quit ends\n",
                f"{opened.found.name}：/reset 忘掉对话，/quit 结束\n"))  # fmt: skip
        _converse(conversation, ask, out)
    finally:
        opened.engine.close()


def _converse(conversation: Chat, ask: Ask, show: Show) -> None:
    while True:
        try:
            text = ask("> ").strip()
        except (EOFError, KeyboardInterrupt):
            show("\n")
            return
        if text == "/quit":
            return
        if text == "/reset":
            conversation.reset()
            show(say("forgotten\n", "已忘掉\n"))
            continue
        if not text:
            continue
        before = conversation.forgotten
        try:
            conversation.say(text, show)
        except UserError as error:
            show(f"{error}\n")
            continue
        show("\n")
        count = conversation.forgotten - before
        if count:
            show(say(f"({count} oldest turns no longer fit and were forgotten)\n",
                     f"（最早的 {count} 轮已放不下，不再记得）\n"))  # fmt: skip


def _print_piece(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
