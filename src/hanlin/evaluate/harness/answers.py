"""What a model answered to requests of lm-evaluation-harness, kept on disk as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.resumable import Row, process_each

_Request = TypeVar("_Request")
Keep = Callable[[int, Any], None]
"""Takes the index of a request and its answer, which JSON can hold."""
_CHUNK_SIZE = 2048
"""Requests that are scored together: with four choices 512 questions, which share their worked examples."""


class AnswerStore:
    """Asks requests of a kind once; a run that was killed reads back what was answered.

    lm-evaluation-harness builds the same requests in the same order each time, so that a request is known by the kind,
    the number of the call and its place in it.

    Args:
        folder: Where answers are kept; None: nowhere.
        progress: Is updated after each answer.
    """

    def __init__(self, folder: Path | None = None, progress: Progress | None = None) -> None:
        self._folder, self._progress = folder, progress or Progress(quiet=True)
        self._calls: dict[str, int] = {}

    def ask(
        self,
        kind: str,
        requests: Sequence[_Request],
        work: Callable[[Sequence[_Request], Keep], None],
        size: int = _CHUNK_SIZE,
    ) -> list[Any]:
        """The answer to each request, in order.

        Args:
            kind: Kind of the requests.
            requests: All of this call.
            work: Gets requests without an answer, and what it calls with the index in them and the answer of each.
            size: Requests that are handed to `work` together, at most.
        """
        if self._folder is None:
            answers: dict[int, Any] = {}
            for start in range(0, len(requests), size):
                work(
                    requests[start : start + size],
                    lambda index, answer, start=start: answers.__setitem__(start + index, answer),  # type: ignore[misc]
                )
            return [answers[index] for index in range(len(requests))]
        self._calls[kind] = self._calls.get(kind, 0) + 1
        scratch = self._folder / f"{kind}-{self._calls[kind]}"
        scratch.mkdir(parents=True, exist_ok=True)

        def as_rows(chunk: Sequence[_Request], keep: Callable[[int, Row], None]) -> None:
            work(chunk, lambda index, answer: keep(index, {"answer": answer}))

        rows = process_each(requests, size, scratch, as_rows, self._progress, unit=tr("requests"))
        return [row["answer"] for row in rows]
