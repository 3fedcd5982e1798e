"""A server of OpenAI's API that answers the questions of tasks: by chat, or by scoring and continuing given texts.

A text is scored by `/completions` with `echo` and `logprobs`, which vLLM, Hanlin's server and others have. No tokenizer
is needed here: the server tells the tokens of the context alone and of the whole, and the scored part is what the whole
has more. Engines that are opened here are given the context's own ids and then the rest (`PromptBuilder`); where the
whole begins with other tokens than the context alone, because the tokenizer joined both, a server that tells ids
(`return_tokens_as_token_ids`, of vLLM and Hanlin) is given the same ids.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.evaluate.tasks.metrics import Outcome, find_end
from hanlin.evaluate.tasks.prompts import Prompt, TaskRun, has_chat_form
from hanlin.evaluate.tasks.respond import Keep, ask_in_parallel, try_again
from hanlin.inference.chat_server import ChatServer, api_key
from hanlin.inference.protocol import EngineUnavailableError, Score

_COMPLETIONS = "/completions"
MAX_STOPS = 4
"""Texts that end an answer which OpenAI's API takes; whoever asks looks for all of them."""
_EQUAL = 1e-6
"""Two log probabilities that a server rounds alike."""
_TOKEN_ID = "token_id:"
"""Begins a token that is told as its id."""
_CONTEXTS = 64
"""Contexts whose tokens are remembered, the last ones: those that questions of a few threads share."""


class CannotScoreError(UserError):
    """A server does not score or continue given texts."""


@dataclass(frozen=True, slots=True)
class _ScoredText:
    """A text that a server scored: its tokens as the server names them, their log probabilities, and the likeliest
    tokens of each place.
    """

    tokens: Sequence[str]
    logprobs: Sequence[float | None]
    tops: Sequence[Mapping[str, float]]


class TextServer:
    """Scores and continues given texts at a server; safe to use from several threads.

    Args:
        server: The server.
    """

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self._contexts: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._tells_ids = True
        self._can_score = self._can_write = False
        self._lock = threading.Lock()

    def score(self, context: str, continuation: str) -> Score:
        """Score a continuation. White space at the end of the context goes to it, as in lm-evaluation-harness.

        Raises:
            CannotScoreError: The server scores no given text, or not this one.
        """
        kept = context.rstrip()
        text = kept + context[len(kept) :] + continuation
        if not kept:
            whole = self._ask(text, as_ids=False)
            # of a tokenizer that begins a text with a token, that one has no probability and is not scored
            has_own_begin = not (whole.tokens[0] and text.startswith(whole.tokens[0]))
            return self._sum(whole, int(has_own_begin))
        before, whole = self._tokenize(kept), self._ask(text)
        start = len(before)
        if tuple(whole.tokens[:start]) != before:
            ids, rest = _to_ids(before), _to_ids(whole.tokens[start:])
            if ids and rest:
                whole = self._ask([*ids, *rest])
        return self._sum(whole, start)

    def score_first_token(self, context: str, text: str) -> Score:
        """Score the first token of a text that is encoded alone, whatever stands before it.

        Raises:
            CannotScoreError: The server scores no given text, or does not tell ids.
        """
        before, alone = _to_ids(self._tokenize(context)), _to_ids(self._tokenize(text))
        if not before or not alone:
            what = tr("this profile scores a letter as the token that it is alone, and the server tells no token ids")
            raise CannotScoreError(what, self._server.address)
        has_own_begin = len(alone) > 1 and alone[0] == before[0]
        return self._sum(self._ask([*before, alone[int(has_own_begin)]]), len(before))

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text as the server encodes it, a begin token included; None if it refuses the text."""
        try:
            return len(self._tokenize(text))
        except EngineUnavailableError:
            raise
        except UserError:
            return None

    def write(self, text: str, fields: Mapping[str, Any], until: Sequence[str]) -> tuple[str, str, int]:
        """What follows a text, why it ended as the server says it, and its tokens (0 if it does not say).

        Args:
            text: The text.
            fields: Of the request: `max_tokens`, `temperature`, ...
            until: Texts that end an answer. The first four are handed over; the caller looks for all of them.

        Raises:
            CannotScoreError: The server continues no given text.
        """
        stops = {"stop": list(until[:MAX_STOPS])} if until else {}
        try:
            reply = self._server.post(_COMPLETIONS, {"prompt": text, **fields, **stops})
            choice = _first_choice(reply, self._server.address)
            written = choice.get("text")
            if not isinstance(written, str):
                raise UserError(tr("not an OpenAI-compatible server"), self._server.address)
        except UserError as error:
            if self._can_write or isinstance(error, EngineUnavailableError):
                raise  # it refuses this text alone
            what = tr("the server continues no given text, which this task needs: {problem}", problem=error.what)
            raise CannotScoreError(what, error.where, error.hint) from error
        self._can_write = True
        usage = reply.get("usage")
        count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        return written, str(choice.get("finish_reason") or ""), count if isinstance(count, int) else 0

    # --- requests ---

    def _tokenize(self, text: str) -> tuple[str, ...]:
        """The tokens of a text, which several continuations may share, as the server names them."""
        with self._lock:
            known = self._contexts.get(text)
        if known is None:
            known = tuple(self._ask(text).tokens)
            with self._lock:
                self._contexts[text] = known
                if len(self._contexts) > _CONTEXTS:
                    self._contexts.popitem(last=False)
        return known

    def _ask(self, prompt: str | list[int], as_ids: bool = True) -> _ScoredText:
        fields: dict[str, Any] = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        try:
            reply = self._post_named(fields) if as_ids else self._post(fields)
        except UserError as error:
            if self._can_score or isinstance(error, EngineUnavailableError):
                raise  # it refuses this text alone
            what = tr("the server scores no given text, which this task needs: {problem}", problem=error.what)
            raise CannotScoreError(what, error.where, error.hint) from error
        scored = _read_echo(reply, self._server.address)
        self._can_score = True
        return scored

    def _post_named(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The reply with tokens named by their ids, or without if the server refuses that field."""
        if not self._tells_ids:
            return self._post(fields)
        try:
            return self._post({**fields, "return_tokens_as_token_ids": True})
        except EngineUnavailableError:
            raise
        except UserError:
            reply = self._post(fields)
            self._tells_ids = False
            return reply

    def _post(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return try_again(lambda: self._server.post(_COMPLETIONS, fields))

    def _sum(self, text: _ScoredText, start: int) -> Score:
        """The score of the tokens of a text from `start` on."""
        values, tops = text.logprobs[start:], text.tops[start:]
        if not values:
            raise UserError(tr("a prefix and a continuation need at least one token each"), self._server.address)
        scored = [value for value in values if value is not None]
        if not scored or len(scored) < len(values):
            what = tr("the server tells no probability of the first token of a text, since its tokenizer begins none")
            raise CannotScoreError(what, self._server.address, tr("ask the model itself, or tasks with a context"))
        if not all(tops):
            raise CannotScoreError(
                tr("the server does not tell the likeliest tokens of a prompt"), self._server.address
            )
        greedy = all(value >= max(top.values()) - _EQUAL for value, top in zip(scored, tops, strict=True))
        return Score(sum(scored), greedy)


class AddressRespondent:
    """Answers with a server at an address of OpenAI's API, greedily. The key comes from `HANLIN_API_KEY`.

    A conversation is asked by `/chat/completions`, a text by `/completions`, with the results of the model that is
    opened here.

    Args:
        address: `http://HOST:PORT`, with `/v1` or without.
        model: The model's name there; empty: the first one that the server lists.

    Attributes:
        model: The model's name.
        context_length: The tokens that its context holds; None if the server does not say.

    Raises:
        UserError: The server cannot be reached, or lists no such model.
    """

    def __init__(self, address: str, model: str = "") -> None:
        self._server = ChatServer(address, model, None, api_key())
        self._texts = TextServer(self._server)
        self.model, self.context_length = self._server.name, self._server.context_length

    def check(self, task_runs: Sequence[TaskRun]) -> None:
        """Raise UserError, before anything is asked, if a task needs scores that the server does not give."""
        scored = [task_run for task_run in task_runs if task_run.method != "generate"]
        if scored:
            with _with_way_out(scored[0]):
                self._texts.score("1, 2,", " 3")
        if any(task_run.profile.letter_token for task_run in scored):
            with _with_way_out(scored[0]):
                self._texts.score_first_token("1, 2,", "A")

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        ask_in_parallel(prompts, lambda prompt: self._ask(task_run, prompt), keep)

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text as the server encodes it; None if it refuses the text."""
        return self._texts.count_tokens(text)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _ask(self, task_run: TaskRun, prompt: Prompt) -> Outcome:
        """One answer, tried again if the server breaks off. What was answered before is kept when this fails."""
        if prompt.shots is None:
            return Outcome()
        if task_run.chat:
            return self._ask_by_chat(task_run, prompt)
        with _with_way_out(task_run):
            if task_run.method == "generate":
                return self._write(task_run, prompt)
            score = self._texts.score_first_token if task_run.profile.letter_token else self._texts.score
            scores = [score(context, continuation) for context, continuation in prompt.texts]
        return Outcome(tuple(score.logprob for score in scores), greedy=scores[0].greedy)

    def _write(self, task_run: TaskRun, prompt: Prompt) -> Outcome:
        fields = {"max_tokens": task_run.max_new_tokens, "temperature": 0}
        until = task_run.profile.until
        text, finish, tokens = try_again(lambda: self._texts.write(prompt.text, fields, until))
        end = find_end(text, until)
        return Outcome(output=text[:end], finish=finish if end is None else "until", tokens=tokens)

    def _ask_by_chat(self, task_run: TaskRun, prompt: Prompt) -> Outcome:
        fields: dict[str, Any] = {"max_tokens": task_run.max_new_tokens, "temperature": 0}
        if task_run.thinking is not None:  # of vLLM, llama-server and Hanlin
            fields["chat_template_kwargs"] = {"enable_thinking": task_run.thinking}

        def ask() -> tuple[str, str, int]:
            # texts that end an answer are looked for here: a server stops at them in the reasoning too
            with self._server.open_answer(prompt.messages, fields) as pieces:
                text = "".join(pieces)
            return text, pieces.finish_reason, pieces.answer_tokens or 0

        text, finish, tokens = try_again(ask)
        end = find_end(text, task_run.profile.until)
        return Outcome(output=text[:end], finish=finish if end is None else "until", tokens=tokens)


@contextmanager
def _with_way_out(task_run: TaskRun) -> Iterator[None]:
    """Inside the block a server that scores or continues no given text is told together with what can be done."""
    try:
        yield
    except CannotScoreError as error:
        way_out = hint_to_score()
        if has_chat_form(task_run.profile):
            way_out = tr("ask by chat: `--chat true`; or ask the model itself with `--model`")
        raise UserError(error.what, error.where, error.hint or way_out) from error


def _to_ids(tokens: Sequence[str]) -> list[int]:
    """The ids of tokens that a server told as ids; empty if it told others."""
    ids = [token.removeprefix(_TOKEN_ID) for token in tokens]
    is_told = all(token.startswith(_TOKEN_ID) for token in tokens) and all(map(str.isdecimal, ids))
    return [int(token_id) for token_id in ids] if is_told else []


def hint_to_score() -> str:
    """What a user can do whose server scores no given text."""
    return tr(
        "`/v1/completions` of vLLM and Hanlin do with `echo` and `logprobs`; or ask the model itself with `--model`"
    )


def _first_choice(reply: Mapping[str, Any], address: str) -> Mapping[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise UserError(tr("not an OpenAI-compatible server"), address)
    return choices[0]


def _read_echo(reply: Mapping[str, Any], address: str) -> _ScoredText:
    """The tokens of a prompt with their scores.

    Raises:
        CannotScoreError: The server told none.
    """
    logprobs = _first_choice(reply, address).get("logprobs")
    what = tr("the server scores no given text, which this task needs: it sent no log probabilities of the prompt")
    if not isinstance(logprobs, Mapping):
        raise CannotScoreError(what, address)
    usage = reply.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    if not isinstance(count, int) or count < 1:
        raise CannotScoreError(tr("the server does not say how many tokens a prompt has"), address)
    tokens, values, tops = (logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    for row in (tokens, values, tops):
        if not isinstance(row, list) or len(row) < count:
            raise CannotScoreError(what, address)
    assert isinstance(tokens, list) and isinstance(values, list) and isinstance(tops, list)
    return _ScoredText(
        [str(token) for token in tokens[:count]],
        [float(value) if isinstance(value, int | float) else None for value in values[:count]],
        [{str(key): float(value) for key, value in (top or {}).items()} for top in tops[:count]],
    )
