"""What answers the questions of tasks: an engine that is opened here; and how a server is asked in parallel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar

from hanlin.chat.reasoning import BEGIN_TAG
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.evaluate.tasks.generation import plain_stop_ids, write_answers
from hanlin.evaluate.tasks.metrics import Outcome, find_end
from hanlin.evaluate.tasks.prompts import Prompt, TaskRun
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import EngineUnavailableError, SamplingParams, Score

_PARALLEL = 8
_SECONDS_BETWEEN_TRIES = (0.5, 2.0)
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")

Keep = Callable[[int, Outcome], None]
"""Takes the index of a prompt and its outcome."""


class Respondent(Protocol):
    """Answers prompts."""

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        """Hand the outcome of each prompt to `keep` as soon as it is there, in any order.

        Prompts that do not fit (`shots` None) get an empty one.
        """


class EngineRespondent:
    """Answers with an engine: scores continuations, or generates greedily until an end of the task.

    Args:
        loaded: The engine.
        stop_ids: Ids that end an answer in a conversation.
        opens_thinking: Whether the chat template begins the reasoning, so that the model writes only its end.
    """

    def __init__(self, loaded: LoadedEngine, stop_ids: Sequence[int], opens_thinking: bool = False) -> None:
        self._loaded, self._chat_stop_ids, self._opens_thinking = loaded, tuple(stop_ids), opens_thinking

    def answer(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        for index, prompt in enumerate(prompts):
            if prompt.shots is None:
                keep(index, Outcome())
        if task_run.method == "generate":
            self._generate(task_run, prompts, keep)
        else:
            self._score(prompts, keep)

    def _score(self, prompts: Sequence[Prompt], keep: Keep) -> None:
        fitting = [index for index, prompt in enumerate(prompts) if prompt.shots is not None]
        owners = [(index, place) for index in fitting for place in range(len(prompts[index].pairs))]
        scores: dict[int, dict[int, Score]] = {index: {} for index in fitting}

        def on_score(pair: int, score: Score) -> None:
            index, place = owners[pair]
            check_number(score, prompts[index].item.id)
            own = scores[index]
            own[place] = score
            if len(own) == len(prompts[index].pairs):
                logprobs = tuple(own[place].logprob for place in range(len(own)))
                keep(index, Outcome(logprobs, greedy=own[0].greedy))

        if owners:
            self._loaded.engine.score([prompts[index].pairs[place] for index, place in owners], on_score)

    def _generate(self, task_run: TaskRun, prompts: Sequence[Prompt], keep: Keep) -> None:
        stops = self._chat_stop_ids if task_run.chat else plain_stop_ids(self._loaded)
        write_answers(
            self._loaded,
            [(index, prompt.ids) for index, prompt in enumerate(prompts) if prompt.shots is not None],
            stops,
            SamplingParams(max_new_tokens=task_run.max_new_tokens),
            lambda _, text: find_end(text, task_run.profile.until),
            lambda index, text, finish, tokens: keep(index, Outcome(output=text, finish=finish, tokens=tokens)),
            in_rounds=bool(task_run.profile.until),
            opening=BEGIN_TAG if self._opens_thinking and task_run.chat and task_run.thinking is not False else "",
        )


def check_number(score: Score, where: str | None) -> None:
    """Raise UserError if a score is no number: whoever compares it would take the first choice of every question."""
    if math.isnan(score.logprob):
        what = tr("the model's logits for this record are not finite")
        raise UserError(what, where, tr("measure in float32"))


def ask_in_parallel(
    requests: Sequence[_Request], ask: Callable[[_Request], _Answer], keep: Callable[[int, _Answer], None]
) -> None:
    """Ask a server several requests at a time and hand each answer to `keep`, in any order.

    After a failure nothing more is asked, but what is under way is kept; then the failure is raised.
    """
    with ThreadPoolExecutor(_PARALLEL) as threads:
        futures = {threads.submit(ask, request): index for index, request in enumerate(requests)}
        failure: BaseException | None = None
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                error = future.exception()
                if error is None:
                    keep(futures[future], future.result())
                elif failure is None:
                    failure = error
                    for other in futures:
                        other.cancel()
        finally:
            for future in futures:
                future.cancel()
    if failure is not None:
        raise failure


def try_again(ask: Callable[[], _Answer]) -> _Answer:
    """Ask a server, and again if it breaks off or is busy. What was answered before is kept when this fails."""
    for seconds in _SECONDS_BETWEEN_TRIES:
        try:
            return ask()
        except EngineUnavailableError:
            time.sleep(seconds)
    try:
        return ask()
    except EngineUnavailableError as error:
        raise EngineUnavailableError(error.what, error.where, tr("the same command goes on from here")) from error
