"""Embeddings of prompts, for the OpenAI and the Ollama API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fastapi import Request

from hanlin.core.errors import UserError
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ServedModel
from hanlin.serve.service import GenerationService


async def compute_embeddings(
    service: GenerationService,
    request: Request,
    model: ServedModel,
    prompts: Sequence[str | list[int]],
    param: str = "input",
) -> tuple[np.ndarray, int] | None:
    """Embed prompts in one slot of the model.

    Args:
        service: Runs the computation in a thread.
        request: Watched for a disconnect.
        model: The model whose hidden states are the embeddings.
        prompts: Texts or token ids.
        param: The request field that holds them, named in errors.

    Returns:
        Float32 embeddings [prompts, hidden size] and the number of prompt tokens; None if the client disconnected.

    Raises:
        ApiError: 400 for a text that is empty or too long, 429 and 503 as `AdmissionQueue` does.
    """
    results: list[tuple[np.ndarray, int]] = []

    def compute() -> tuple[np.ndarray, int]:
        try:
            prompt_ids = [encode_prompt(model, prompt) for prompt in prompts]
            return model.engine.embed(prompt_ids), sum(map(len, prompt_ids))
        except (ApiError, UserError) as error:
            raise ApiError(400, str(error), param=param) from error

    async def acquire_and_compute() -> None:
        await slot.acquire()
        results.append(await service.run_in_thread(compute))

    slot = model.queue.reserve()
    try:
        if not await service.run_while_connected(request, acquire_and_compute()):
            return None
    finally:
        slot.release()
    embeddings, tokens = results[0]
    service.metrics.count_prompt(model.name, tokens)
    return embeddings, tokens


def encode_prompt(model: ServedModel, prompt: str | list[int]) -> tuple[int, ...]:
    """Token ids of a prompt that a client sent as text or as ids."""
    return model.encode_text(prompt) if isinstance(prompt, str) else tuple(prompt)
