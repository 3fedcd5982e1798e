"""A server of OpenAI's API as a model of lm-evaluation-harness: what it can score, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.evaluate.harness.answers import AnswerStore, Keep
from hanlin.evaluate.harness.model import check_options, find_first, read_sampling, read_until
from hanlin.evaluate.tasks.address import MAX_STOPS, CannotScoreError, TextServer, hint_to_score
from hanlin.evaluate.tasks.respond import ask_in_parallel, try_again
from hanlin.inference.chat_server import ChatServer, api_key
from hanlin.inference.protocol import SamplingParams

_PLAIN = SamplingParams()
_CONVERSATION = "\x00conversation\x00"
"""Begins what stands for a conversation where lm-evaluation-harness wants a text."""


@register_model("hanlin-address")
class AddressLM(LM):  # type: ignore[misc]
    """A server of OpenAI's API. The key comes from `HANLIN_API_KEY`.

    A given text is scored by `/completions` with `echo` and `logprobs` (see `TextServer`). Answers are asked of
    `/completions`, in a conversation of `/chat/completions`.

    Args:
        address: `http://HOST:PORT`, with `/v1` or without.
        served_model: The model's name there; empty: the first one that the server lists.
        store: Where answers are kept; by default nowhere.
        **options: `batch_size` and `max_batch_size` count for nothing.

    Attributes:
        name: The model's name.
        truncated: 0: a server refuses what is too long.

    Raises:
        UserError: The server cannot be reached, or lists no such model.
    """

    truncated = 0

    def __init__(
        self,
        address: str = "",
        served_model: str = "",
        store: AnswerStore | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_options(options, ("address", "served_model"))
        if device:
            raise UserError(tr("there is no option '{name}'", name="device"), "--model_args")
        self._server = ChatServer(address, served_model, None, api_key())
        self.name = self._server.name
        self._store = store or AnswerStore()
        self._texts = TextServer(self._server)

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer in caches of requests."""
        return f"{self._server.address}__{self.name}".replace("/", "__")

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score the continuation of each context: its log probability, and whether greedy decoding gives it.

        Raises:
            UserError: The context is a conversation, or the server scores no given text.
        """
        pairs = [tuple(request.args) for request in requests]

        def work(chunk: Sequence[tuple[str, str]], keep: Keep) -> None:
            ask_in_parallel(chunk, lambda pair: list(self._score(*pair)), keep)

        return [(float(logprob), bool(greedy)) for logprob, greedy in self._store.ask("scores", pairs, work)]

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = True) -> list[float]:
        """The log likelihood of each whole text, which has to fit the server's context."""
        texts = [text for (text,) in (request.args for request in requests)]

        def work(chunk: Sequence[str], keep: Keep) -> None:
            ask_in_parallel(chunk, lambda text: self._score("", text)[0] if text else 0.0, keep)

        return [float(total) for total in self._store.ask("texts", texts, work)]

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = True) -> list[str]:
        """Generate an answer to each context, up to the first of its texts that end one."""
        asked: list[tuple[str, Mapping[str, Any], int]] = []
        repeats: dict[int, int] = {}
        for request in requests:
            repeats[id(request)] = repeat = repeats.get(id(request), -1) + 1
            asked.append((*request.args, repeat))

        def work(chunk: Sequence[tuple[str, Mapping[str, Any], int]], keep: Keep) -> None:
            ask_in_parallel(chunk, lambda row: try_again(lambda: self._write(*row)), keep)

        return [str(text) for text in self._store.ask("answers", asked, work, size=64)]

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as a text that stands for them: the server renders conversations itself."""
        if not add_generation_prompt:
            what = tr("this task begins the answer of a conversation, which a chat API does not take")
            raise UserError(what, self._server.address, tr("ask it as plain text"))
        return _CONVERSATION + json.dumps([dict(turn) for turn in chat_history], ensure_ascii=False)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Empty: the server does not show its template."""
        return ""

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _score(self, context: str, continuation: str) -> tuple[float, bool]:
        if context.startswith(_CONVERSATION):
            what = tr("a chat API scores no given text, which this task needs")
            raise UserError(what, self._server.address, tr("ask it as plain text"))
        with _hint_of_scores():
            score = self._texts.score(context, continuation)
        return score.logprob, score.greedy

    def _write(self, context: str, options: Mapping[str, Any], repeat: int) -> str:
        sampling, until = read_sampling(options, repeat), read_until(options)
        fields: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p, "seed": sampling.seed}
        for name in ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            if (value := getattr(sampling, name)) != getattr(_PLAIN, name):
                fields[name] = value
        if context.startswith(_CONVERSATION):
            turns = parse_json(context.removeprefix(_CONVERSATION))
            messages = [Message(turn["role"], turn["content"]) for turn in turns]
            if until:
                fields["stop"] = until[:MAX_STOPS]
            with self._server.open_answer(messages, fields) as pieces:
                text = "".join(pieces)
        else:
            with _hint_of_scores():
                text, _, _ = self._texts.write(context, fields, until)
        return text[: find_first(text, until)]


@contextmanager
def _hint_of_scores() -> Iterator[None]:
    """Inside the block a server that scores or continues no given text is told together with what can be done."""
    try:
        yield
    except CannotScoreError as error:
        raise UserError(error.what, error.where, error.hint or hint_to_score()) from error
