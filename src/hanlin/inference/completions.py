"""The end of a call of `generate`, which all engines share: completions in order, told and counted as they come."""

from __future__ import annotations

from collections.abc import Iterable

from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.inference.protocol import Completion, OnCompletion


def collect_completions(
    finished: Iterable[tuple[int, Completion]],
    count: int,
    progress: Progress | None,
    on_completion: OnCompletion | None,
) -> list[Completion]:
    """The completions of a call in the order of its requests.

    Args:
        finished: The index of each request and its completion, in the order in which they are done.
        count: Number of requests.
        progress: Is updated after each completion.
        on_completion: Is called with each, see `Engine.generate`.
    """
    completions: dict[int, Completion] = {}
    num_tokens = 0
    for index, completion in finished:
        completions[index] = completion
        num_tokens += len(completion.ids)
        if on_completion is not None:
            on_completion(index, completion)
        if progress is not None:
            done = len(completions)
            progress.update(done, count, tr("answers"), force=done == count, tokens=num_tokens)
    return [completions[index] for index in range(count)]
