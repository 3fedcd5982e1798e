"""Embeddings."""

from __future__ import annotations

import numpy as np
from fastapi import Request

from hanlin.core.errors import UserError
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import Served
from hanlin.serve.service import Desk


async def embedded(
    desk: Desk, request: Request, served: Served, prompts: list[str | list[int]], param: str = "input"
) -> tuple[np.ndarray, int] | None:
    """Embeddings [prompts, width] and how many tokens they read; None when the client left before.

    Raises ApiError (400), which names the field `param`, for a text that is empty or too long."""
    found: list[tuple[np.ndarray, int]] = []

    def compute() -> tuple[np.ndarray, int]:
        try:
            texts = [ids(served, prompt) for prompt in prompts]
            return served.engine.embed(texts), sum(map(len, texts))
        except (ApiError, UserError) as error:
            raise ApiError(400, str(error), param=param) from error

    async def work() -> None:
        await ticket.turn()
        found.append(await desk.compute(compute))

    ticket = served.door.book()
    try:
        if not await desk.unless_left(request, work()):
            return None
    finally:
        ticket.leave()
    desk.metrics.prompt(served.name, found[0][1])
    return found[0]


def ids(served: Served, prompt: str | list[int]) -> tuple[int, ...]:
    return served.text_prompt(prompt) if isinstance(prompt, str) else tuple(prompt)
