"""Answers that end at a text: written in rounds, so that nothing is generated far beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hanlin.core.progress import Progress
from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Completion, GenerationRequest, SamplingParams
from hanlin.tokenizer.generation_config import read_eos_token_ids

_FIRST_TOKENS = 32

FindEnd = Callable[[int, str], int | None]
"""Takes the index of a prompt and what was written to it; returns where the text that ends the answer begins."""
KeepAnswer = Callable[[int, str, str, int], None]
"""Takes the index of a prompt, the answer, why it ended (`stop`, `length`, `until`) and its tokens."""


def write_answers(
    loaded: LoadedEngine,
    prompts: Sequence[tuple[int, Sequence[int]]],
    stop_ids: Sequence[int],
    sampling: SamplingParams,
    find_end: FindEnd,
    keep: KeepAnswer,
    *,
    in_rounds: bool = True,
    opening: str = "",
) -> None:
    """Generate in rounds of 32, 32, 64, ... tokens; what holds a text that ends an answer is not continued.

    Rounds depend on nothing but the prompts of the call, so that two runs make the same requests. Engines keep the KV
    cache of a prompt that is continued.

    Args:
        loaded: The engine.
        prompts: An index for the callbacks, and the ids, of each prompt.
        stop_ids: Ids that end an answer.
        sampling: How to sample, and the most tokens of an answer. What is sampled is written in one round, since a seed
            begins anew with each request.
        find_end: Where an answer ends.
        keep: Gets each answer as soon as it is there.
        in_rounds: Whether there is a text that may end an answer early.
        opening: Text that stands before each answer and belongs to it (the tag that opens the reasoning).
    """
    engine, tokenizer = loaded.engine, loaded.tokenizer
    asked = {index: tuple(ids) for index, ids in prompts}
    written: dict[int, tuple[int, ...]] = dict.fromkeys(asked, ())
    most, done = sampling.max_new_tokens, 0
    size = _FIRST_TOKENS if in_rounds and sampling.temperature == 0 else most
    while written and done < most:
        size = min(size, most - done)
        order = list(written)
        requests = [
            GenerationRequest(asked[index] + written[index], tuple(stop_ids), replace(sampling, max_new_tokens=size))
            for index in order
        ]

        def on_completion(
            position: int, completion: Completion, order: Sequence[int] = order, size: int = size
        ) -> None:
            index = order[position]
            written[index] += completion.ids
            text = opening + tokenizer.decode(written[index])
            end = find_end(index, text)
            finish = completion.finish_reason if end is None else "until"
            is_full = len(asked[index]) + len(written[index]) >= engine.context_length
            if end is not None or finish == "stop" or is_full or len(completion.ids) < size:
                keep(index, text[:end], finish, len(written[index]))
                del written[index]

        engine.generate(requests, Progress(quiet=True), on_completion)
        done += size
        size = max(size, done)
    for index, ids in written.items():
        keep(index, opening + tokenizer.decode(ids), "length", len(ids))


def plain_stop_ids(loaded: LoadedEngine) -> tuple[int, ...]:
    """The ids that end a plain text: the tokenizer's, and those of `generation_config.json`."""
    ends = (loaded.tokenizer.eos_id, *read_eos_token_ids(loaded.location.settings_folder))
    return tuple(dict.fromkeys(end for end in ends if isinstance(end, int)))
