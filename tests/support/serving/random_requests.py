"""Requests that fit the model of the engines' tests, drawn by a seed."""

from __future__ import annotations

import random

from hanlin.inference.protocol import GenerationRequest, SamplingParams

CONTEXT = 1024
"""How many ids that model's context holds."""


def requests_of(count: int, seed: int = 0, **sampling: object) -> list[GenerationRequest]:
    """Random prompts of 1 to 60 ids and answers of 1 to 40; id 7 ends some answers early."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        prompt = tuple(chance.randrange(10, 390) for _ in range(chance.randrange(1, 60)))
        chosen = {"max_new_tokens": chance.randrange(1, 40), **sampling}
        if chosen.get("temperature"):
            chosen["seed"] = number
        made.append(GenerationRequest(prompt, (7, 8, 9, 11, 13), SamplingParams(**chosen)))  # type: ignore[arg-type]
    return made
