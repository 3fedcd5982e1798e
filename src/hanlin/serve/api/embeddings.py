"""Embeddings of prompts, for the OpenAI and the Ollama API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fastapi import Request

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.protocol import EngineUnavailableError
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ServedModel
from hanlin.serve.service import GenerationService


class _DimensionsError(UserError):
    """More dimensions were asked for than there are."""


async def compute_embeddings(
    service: GenerationService,
    request: Request,
    model: ServedModel,
    prompts: Sequence[str | list[int]],
    param: str = "input",
    truncate: bool = False,
    dimensions: int | None = None,
) -> tuple[np.ndarray, int] | None:
    """Embed prompts in one slot of the model.

    Args:
        service: Runs the computation in a thread.
        request: Watched for a disconnect.
        model: The model whose hidden states are the embeddings.
        prompts: Texts or token ids.
        param: The request field that holds them, named in errors.
        truncate: Embed the beginning of a text that is too long, as much as the context holds.
        dimensions: Keep this many of the first dimensions, and scale to length 1 again; None: all.

    Returns:
        Float32 embeddings [prompts, hidden size or `dimensions`] and the number of prompt tokens; None if the client
        disconnected.

    Raises:
        ApiError: 400 for a text that is empty or too long, 429 and 503 as `AdmissionQueue` does.
        EngineUnavailableError: The engine has crashed, which is answered by 503.
    """
    results: list[tuple[np.ndarray, int]] = []

    def compute() -> tuple[np.ndarray, int]:
        try:
            prompt_ids = [encode_prompt(model, prompt, truncate) for prompt in prompts]
            embeddings = model.engine.embed(prompt_ids, model.adapter)
            return _cut_dimensions(embeddings, dimensions), sum(map(len, prompt_ids))
        except _DimensionsError as error:
            raise ApiError(400, str(error), param="dimensions") from error
        except EngineUnavailableError:  # no fault of the request: it may be sent again
            raise
        except ApiError as error:
            raise ApiError(error.status, error.message, param=param, code=error.code) from error
        except UserError as error:
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


def encode_prompt(model: ServedModel, prompt: str | list[int], truncate: bool = False) -> tuple[int, ...]:
    """Token ids of a prompt that a client sent as text or as ids.

    Args:
        model: Its tokenizer and context count.
        prompt: The text or ids.
        truncate: Keep the beginning, as much as the context holds.
    """
    if not truncate:
        return model.encode_text(prompt) if isinstance(prompt, str) else tuple(prompt)
    if isinstance(prompt, str):
        size = model.max_prompt_bytes
        data = prompt.encode("utf-8", "surrogatepass")
        prompt = list(model.encode_text(prompt if len(data) <= size else data[:size].decode("utf-8", "ignore")))
    return tuple(prompt[: model.engine.context_length])


def _cut_dimensions(embeddings: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first dimensions of embeddings [texts, hidden size], each row scaled to length 1."""
    if dimensions is None:
        return embeddings
    size = embeddings.shape[1]
    if dimensions > size:
        what = tr("{dimensions} dimensions are asked for, but the model has {size}", dimensions=dimensions, size=size)
        raise _DimensionsError(what)
    rows = embeddings[:, :dimensions]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
