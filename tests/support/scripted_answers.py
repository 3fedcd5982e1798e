"""An engine that answers what a script says, with the tiny tokenizer and its chat template around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hanlin.core.progress import Progress
from hanlin.inference.loading import LoadedEngine, ModelLocation
from hanlin.inference.protocol import Completion, FinishReason, GenerationRequest, OnCompletion
from hanlin.tokenizer.tokenizer import Tokenizer

Script = Callable[[str, GenerationRequest], tuple[str, FinishReason]]
"""Takes the prompt as text and the request; returns the answer and why it ended."""


class ScriptedEngine:
    """Generates what its script says; `requests` are those that it was asked."""

    name = "scripted"
    context_length = 4096

    def __init__(self, tokenizer: Tokenizer, script: Script) -> None:
        self._tokenizer, self._script = tokenizer, script
        self.requests: list[GenerationRequest] = []

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress | None = None,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        self.requests += requests
        completions = []
        for request in requests:
            text, finish = self._script(self._tokenizer.decode(request.prompt_ids, skip_special=False), request)
            completions.append(Completion(tuple(self._tokenizer.encode(text)), finish))
            if on_completion is not None:
                on_completion(len(completions) - 1, completions[-1])
        return completions

    def close(self) -> None: ...


def scripted(folder: Path, script: Script) -> LoadedEngine:
    """A loaded engine over the tokenizer and the chat template of a folder."""
    tokenizer = Tokenizer.load(folder)
    engine = ScriptedEngine(tokenizer, script)
    return LoadedEngine(engine, tokenizer, ModelLocation(folder, folder, "model"))  # type: ignore[arg-type]
