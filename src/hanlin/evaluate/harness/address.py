"""A server of OpenAI's API as a model of lm-evaluation-harness: what it can score, and what it writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.evaluate.harness.answers import AnswerStore, Keep
from hanlin.evaluate.harness.model import check_options, find_first, read_sampling, read_until
from hanlin.evaluate.tasks.respond import ask_in_parallel, try_again
from hanlin.inference.chat_server import ChatServer, api_key
from hanlin.inference.protocol import EngineUnavailableError

_COMPLETIONS = "/completions"
_MAX_STOPS = 4
"""Texts that end an answer which OpenAI's API takes; all of them are looked for here as well."""
_EQUAL = 1e-6
"""Two log probabilities that a server rounds alike."""
_CONVERSATION = "\x00conversation\x00"
"""Begins what stands for a conversation where lm-evaluation-harness wants a text."""


@register_model("hanlin-address")
class AddressLM(LM):  # type: ignore[misc]
    """A server of OpenAI's API. The key comes from `HANLIN_API_KEY`.

    A given text is scored by `/completions` with `echo` and `logprobs`, which vLLM, Hanlin's server and many others
    have; where the continuation begins is told by the number of tokens of the context alone, so that no tokenizer is
    needed here.
    Answers are asked of `/completions`, in a conversation of `/chat/completions`.

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
        self._token_counts: dict[str, int] = {}
        self._lock = threading.Lock()

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

    # --- scores ---

    def _score(self, context: str, continuation: str) -> tuple[float, bool]:
        """White space at the end of the context goes to the continuation, as in lm-evaluation-harness."""
        if context.startswith(_CONVERSATION):
            what = tr("a chat API scores no given text, which this task needs")
            raise UserError(what, self._server.address, tr("ask it as plain text"))
        kept = context.rstrip()
        text = kept + context[len(kept) :] + continuation
        fields = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        reply = self._ask_to_score(fields)
        tokens, logprobs, tops, count = _read_echo(reply, self._server.address)
        if kept:
            start = self._count_tokens(kept)
        else:
            start = 0 if tokens[0] and text.startswith(tokens[0]) else 1  # a begin token of the server's own
        scored = [value for value in logprobs[start:count] if value is not None]
        if not scored or len(scored) < count - start:
            what = tr("the server tells no probability of the first token of a text, since its tokenizer begins none")
            raise UserError(what, self._server.address, tr("ask the model itself, or tasks with a context"))
        likeliest = tops[start:count]
        if not all(likeliest):
            raise UserError(tr("the server does not tell the likeliest tokens of a prompt"), self._server.address)
        greedy = all(value >= max(top.values()) - _EQUAL for value, top in zip(scored, likeliest, strict=True))
        return sum(scored), greedy

    def _ask_to_score(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return try_again(lambda: self._server.post(_COMPLETIONS, fields))
        except EngineUnavailableError:
            raise
        except UserError as error:
            what = tr("the server scores no given text, which this task needs: {problem}", problem=error.what)
            raise UserError(what, error.where, _hint_of_scores()) from error

    def _count_tokens(self, text: str) -> int:
        """Tokens of a text as the server encodes it, a begin token included."""
        with self._lock:
            known = self._token_counts.get(text)
        if known is None:
            fields = {"prompt": text, "max_tokens": 1, "temperature": 0}
            known = _prompt_tokens(try_again(lambda: self._server.post(_COMPLETIONS, fields)), self._server.address)
            with self._lock:
                self._token_counts[text] = known
        return known

    # --- answers ---

    def _write(self, context: str, options: Mapping[str, Any], repeat: int) -> str:
        sampling, until = read_sampling(options, repeat), read_until(options)
        fields: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p, "seed": sampling.seed}
        if until:
            fields["stop"] = until[:_MAX_STOPS]
        if context.startswith(_CONVERSATION):
            turns = parse_json(context.removeprefix(_CONVERSATION))
            messages = [Message(turn["role"], turn["content"]) for turn in turns]
            with self._server.open_answer(messages, fields) as pieces:
                text = "".join(pieces)
        else:
            reply = self._server.post(_COMPLETIONS, {"prompt": context, **fields})
            written = _first_choice(reply, self._server.address).get("text")
            if not isinstance(written, str):
                raise UserError(tr("not an OpenAI-compatible server"), self._server.address)
            text = written
        return text[: find_first(text, until)]


def _hint_of_scores() -> str:
    return tr(
        "`/v1/completions` of vLLM and Hanlin do with `echo` and `logprobs`; or ask the model itself with `--model`"
    )


def _first_choice(reply: Mapping[str, Any], address: str) -> Mapping[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise UserError(tr("not an OpenAI-compatible server"), address)
    return choices[0]


def _prompt_tokens(reply: Mapping[str, Any], address: str) -> int:
    usage = reply.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    if not isinstance(count, int) or count < 1:
        raise UserError(tr("the server does not say how many tokens a prompt has"), address, _hint_of_scores())
    return count


def _read_echo(
    reply: Mapping[str, Any], address: str
) -> tuple[list[str], list[float | None], list[Mapping[str, float]], int]:
    """Tokens of a prompt, their log probabilities, the likeliest of each place, and how many the prompt has.

    Raises:
        UserError: The server told none.
    """
    logprobs = _first_choice(reply, address).get("logprobs")
    what = tr("the server scores no given text, which this task needs: it sent no log probabilities of the prompt")
    if not isinstance(logprobs, Mapping):
        raise UserError(what, address, _hint_of_scores())
    count = _prompt_tokens(reply, address)
    tokens, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    for row in (tokens, values, tops):
        if not isinstance(row, list) or len(row) < count:
            raise UserError(what, address, _hint_of_scores())
    assert isinstance(tokens, list) and isinstance(values, list) and isinstance(tops, list)
    return (
        [str(token) for token in tokens],
        [float(value) if isinstance(value, int | float) else None for value in values],
        [{key: float(value) for key, value in (top or {}).items()} for top in tops],
        count,
    )
