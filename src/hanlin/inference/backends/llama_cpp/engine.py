"""The engine over llama.cpp: GGUF files, quantized or not, on CPU or GPU.

llama.cpp's own server is not used here: it streams no token while a character is incomplete, does not score a given
continuation, and ends answers by its own list of stop tokens instead of the request's.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.inference.protocol import OnScore, Score
from hanlin.inference.request_checks import check_pair, check_text_ids
from hanlin.inference.scheduler import Scheduler
from hanlin.inference.scheduler_engine import SchedulerEngine
from hanlin.inference.score_batch import build_score_rows, group_by_prefix
from hanlin.inference.tasks import ScoreTask
from hanlin.models.folder.gguf import find_gguf_files


class LlamaCppEngine(SchedulerEngine):
    """A GGUF file run by llama.cpp.

    Args:
        path: The GGUF file, or a folder with one.
        context_length: Maximum tokens of a request, at most those of the model.
        parallel: Maximum number of sequences in a step; fewer if their KV cache would exceed `cache_bytes`.
        threads: None takes one for a small model, otherwise every core that the process may use.
        cache_type: `f16`, or `f32` for the most exact results.
        cache_bytes: Maximum size of the KV cache.
        gpu_layers: How many layers are on a GPU that the wheel was built for; -1: all.
    """

    name = "llama_cpp"

    def __init__(
        self,
        path: Path,
        *,
        context_length: int | None = None,
        parallel: int = 16,
        threads: int | None = None,
        cache_type: str = "f16",
        cache_bytes: int = 2 << 30,
        gpu_layers: int = -1,
    ) -> None:
        self._model = LlamaCppModel(_single_gguf_file(path), gpu_layers=gpu_layers)
        if self._model.trained_context < 1:
            what = tr("the file says that the model's context holds {count} tokens", count=self._model.trained_context)
            raise UserError(what, path)
        self.context_length = min(context_length or self._model.trained_context, self._model.trained_context)
        self.vocabulary = self._model.vocabulary_size
        self._scheduler = Scheduler(
            self._model,
            name="llama.cpp",
            parallel=parallel,
            cache_bytes=cache_bytes,
            bytes_per_token=self._model.cache_bytes_per_token * (2 if cache_type == "f32" else 1),
            threads=threads,
            cache_type=cache_type,
        )
        self._embedding = threading.Lock()
        # at the latest when the interpreter ends: a thread inside llama.cpp must not outlive it
        self._closing = weakref.finalize(self, self._scheduler.close)

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_score: OnScore | None = None
    ) -> list[Score]:
        """See `Engine.score`. Pairs with a shared prefix run one after another in one slot."""
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.max_scored_length, self.vocabulary)
        results: SimpleQueue[tuple[int, Score] | BaseException | None] = SimpleQueue()
        scores: dict[int, Score] = {}
        tasks = [ScoreTask(rows, results) for rows in group_by_prefix(build_score_rows(pairs))]
        running = len(tasks)
        try:
            self._scheduler.submit(tasks)
            while running:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    running -= 1
                    continue
                index, score = result
                scores[index] = score
                if on_score is not None:
                    on_score(index, score)
        finally:
            for task in tasks:
                task.cancelled = True
        if len(scores) < len(pairs):
            raise RuntimeError("the engine was closed while it scored")
        return [scores[index] for index in range(len(pairs))]

    def embed(self, texts: Sequence[Sequence[int]], adapter: str | None = None) -> NDArray[np.float32]:
        """See `Engine.embed`. In a context of its own for each call, so that running answers keep theirs. A GGUF file
        has no adapters.
        """
        for ids in texts:
            check_text_ids(ids, self.context_length, self.vocabulary)
        with self._embedding:
            if not self._closing.alive:
                raise RuntimeError("the engine is closed")
            return self._model.embed(texts)

    def close(self) -> None:
        with self._embedding:
            self._closing()


def _single_gguf_file(path: Path) -> Path:
    files = find_gguf_files(path)
    if not files:
        what = tr("there is no GGUF file here")
        hint = tr("make one with the stage kind `gguf`")
        raise UserError(what, path, hint)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        what = tr("there are {count} GGUF files here: {names}", count=len(files), names=names)
        raise UserError(what, path, tr("name one of them"))
    return files[0]
