"""An engine that answers by a script, over a tokenizer whose ids are characters: what it scores is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hanlin.core.progress import Progress
from hanlin.inference.loading import LoadedEngine, ModelLocation
from hanlin.inference.protocol import Completion, GenerationRequest, OnCompletion, OnScore, Score


class CharacterTokenizer:
    """Ids are code points: 1 begins a text, 0 ends one."""

    bos_id, eos_id, adds_bos = 1, 0, False
    folder = Path("characters")

    def encode(self, text: str, *, continuation: bool = False) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return "".join(chr(token_id) for token_id in ids if token_id > 1)


class ScriptedEngine:
    """Scores by `likes(text before, continuation)` and writes what `says(prompt)` returns.

    `calls` counts the calls, `answered` the pairs and requests; the one numbered `dies_at` raises KeyboardInterrupt.
    """

    name = "scripted"

    def __init__(
        self,
        likes: Callable[[str, str], float] = lambda before, after: 0.0,
        says: Callable[[str], str] = lambda prompt: "",
        context_length: int = 1 << 20,
        dies_at: int | None = None,
    ) -> None:
        self.context_length, self.calls, self.answered = context_length, 0, 0
        self.max_scored_length = context_length + 1
        self._answers: dict[str, str] = {}
        self._likes, self._says, self._dies_at = likes, says, dies_at

    def _count(self) -> None:
        if self.answered == self._dies_at:
            raise KeyboardInterrupt
        self.answered += 1

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_score: OnScore | None = None
    ) -> list[Score]:
        self.calls += 1
        decode = CharacterTokenizer().decode
        scores = []
        for index, (prefix, continuation) in enumerate(pairs):
            self._count()
            value = self._likes(decode(prefix), decode(continuation))
            scores.append(Score(value, value > -0.5))
            if on_score is not None:
                on_score(index, scores[-1])
        return scores

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress | None = None,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        self.calls += 1
        tokenizer = CharacterTokenizer()
        completions = []
        for index, request in enumerate(requests):
            self._count()
            prompt = tokenizer.decode(request.prompt_ids)
            ids = tuple(tokenizer.encode(self._rest_of(prompt)))
            limit = request.sampling.max_new_tokens
            completions.append(Completion(ids[:limit], "length" if len(ids) > limit else "stop"))
            if on_completion is not None:
                on_completion(index, completions[-1])
        return completions

    def _rest_of(self, prompt: str) -> str:
        """The answer to a prompt; of a prompt that ends with the beginning of an answer, its rest."""
        for asked, answer in self._answers.items():
            written = prompt[len(asked) :]
            if written and prompt.startswith(asked) and answer.startswith(written):
                return answer[len(written) :]
        self._answers[prompt] = self._says(prompt)
        return self._answers[prompt]

    def close(self) -> None:
        pass

    def loaded(self) -> LoadedEngine:
        """The engine with its tokenizer, as if it had been loaded from a folder."""
        location = ModelLocation(Path("scripted"), Path("scripted"), "model")
        return LoadedEngine(cast(Any, self), cast(Any, CharacterTokenizer()), location)


def guesses(seed: int = 0) -> Callable[[str, str], float]:
    """Log probabilities that know nothing: drawn anew for each text."""
    return lambda before, after: -random.Random(f"{seed}{before[-400:]}{after}").random()
