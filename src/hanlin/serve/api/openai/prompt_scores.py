"""Completions that score their prompt: `echo` with `logprobs`, as vLLM and lm-evaluation-harness know them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.protocol import EngineUnavailableError, PromptScore, PromptScoreRequest
from hanlin.serve.api.embeddings import encode_prompt
from hanlin.serve.api.http import make_disconnected_response, make_json_response
from hanlin.serve.api.logprobs import clip_logprob
from hanlin.serve.api.openai.responses import spell_token, spell_top
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ServedModel
from hanlin.serve.service import GenerationService

_PROMPTS_PER_CALL = 16
"""Prompts that the engine gets together; a client that has gone and a deadline are heard between two calls."""
_MAX_LOGPROBS = 1 << 18
"""Log probabilities of a response: about 200 bytes each while it is made."""


async def respond_with_scores(
    service: GenerationService,
    request: Request,
    model: ServedModel,
    prompts: Sequence[str | list[int]],
    top_logprobs: int,
    with_next: bool,
    as_ids: bool = False,
) -> Response:
    """Answer with each prompt, the log probabilities of its tokens, and the likeliest next token if it is wanted.

    Args:
        service: Runs the computation in threads.
        request: Watched for a disconnect.
        model: The model that scores, in one slot.
        prompts: Texts or token ids.
        top_logprobs: How many of the likeliest tokens are told at each place.
        with_next: Whether the likeliest token behind the prompt follows it, which is greedy decoding of one token.
        as_ids: Whether tokens are named by their ids.

    Raises:
        ApiError: 400 for a prompt that is empty or too long, and for an engine that scores no prompts; 429, 503 and 504
            as `AdmissionQueue` and `Slot` do.
    """
    scores: list[PromptScore] = []
    slot = model.queue.reserve()

    def encode() -> list[tuple[int, ...]]:
        rows = [encode_prompt(model, prompt) for prompt in prompts]
        _check_sizes(model, rows, top_logprobs)
        return rows

    def score(rows: Sequence[tuple[int, ...]]) -> list[PromptScore]:
        try:
            requests = [PromptScoreRequest(row, top_logprobs, model.adapter) for row in rows]
            return model.engine.score_prompts(requests)
        except EngineUnavailableError:
            raise
        except UserError as error:
            raise ApiError(400, str(error), param="prompt", code="unsupported_value") from error

    async def score_all(rows: Sequence[tuple[int, ...]]) -> None:
        await slot.acquire()
        late: list[ApiError] = []
        deadline = slot.call_at_deadline(late.append)
        try:
            for start in range(0, len(rows), _PROMPTS_PER_CALL):
                if late:
                    raise late[0]
                scores.extend(await service.run_in_thread(score, rows[start : start + _PROMPTS_PER_CALL]))
        finally:
            deadline.cancel()

    try:
        rows = await service.run_in_thread(encode)
        if not await service.run_while_connected(request, score_all(rows)):
            return make_disconnected_response()
    finally:
        slot.release()
    service.metrics.count_prompt(model.name, sum(map(len, rows)))

    def make_content() -> dict[str, Any]:
        texts = to_texts(model, prompts)
        return _format_response(model, texts, rows, scores, with_next, as_ids)

    return await make_json_response(service, make_content)


def to_texts(model: ServedModel, prompts: Sequence[str | list[int]]) -> list[str]:
    """Prompts as text."""
    return [prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt) for prompt in prompts]


def _check_sizes(model: ServedModel, rows: Sequence[tuple[int, ...]], top_logprobs: int) -> None:
    """Raise ApiError (400) for a prompt that is empty or too long, or too much for one response."""
    context_length = model.engine.context_length
    for row in rows:
        if not row:
            raise ApiError(400, tr("the prompt is empty"), param="prompt")
        if len(row) > context_length:
            what = tr(
                "the prompt is {count} tokens long, but the model's context holds {context_length}",
                count=len(row),
                context_length=context_length,
            )
            raise ApiError(400, what, param="prompt", code="context_length_exceeded")
        if len(row) > model.engine.max_scored_length:
            what = tr(
                "the text is {count} tokens long, but at most {max_length} can be scored",
                count=len(row),
                max_length=model.engine.max_scored_length,
            )
            raise ApiError(400, what, param="prompt", code="context_length_exceeded")
    count = sum(map(len, rows)) * (1 + top_logprobs)
    if count > _MAX_LOGPROBS:
        what = tr(
            "the prompts have {count} log probabilities, more than the {most} of one request: send fewer prompts",
            count=count,
            most=_MAX_LOGPROBS,
        )
        raise ApiError(400, what, param="prompt")


def _format_response(
    model: ServedModel,
    texts: Sequence[str],
    rows: Sequence[tuple[int, ...]],
    scores: Sequence[PromptScore],
    with_next: bool,
    as_ids: bool,
) -> dict[str, Any]:
    choices = []
    written = 0
    for index, (text, ids, score) in enumerate(zip(texts, rows, scores, strict=True)):
        is_end = with_next and score.next_id in model.stop_ids
        if with_next and not is_end:
            decoder = model.tokenizer.stream_decoder(continues_text=True)
            text += decoder.put(score.next_id) + decoder.end()
            written += 1
        logprobs = _format_logprobs(model, ids, score, with_next, as_ids)
        reason = "stop" if is_end else "length"
        choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
    prompt_tokens = sum(map(len, rows))
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    return {**head, "model": model.name, "choices": choices, "usage": usage}


def _format_logprobs(
    model: ServedModel, ids: tuple[int, ...], score: PromptScore, with_next: bool, as_ids: bool
) -> dict[str, list[Any]]:
    """An entry for each token of the prompt, null for the first, which nothing predicts; then one for the next token,
    also if that ends the answer: clients count on it.
    """
    shown = [*ids, score.next_id] if with_next else list(ids)
    scored = [*score.logprobs, score.next_logprobs] if with_next else list(score.logprobs)
    tokens = [spell_token(model.tokenizer, token_id, as_ids) for token_id in shown]
    offsets, decoder = [0], model.tokenizer.stream_decoder()
    for token_id in shown[:-1]:  # as the text has them: a token that is no text, or half a character, moves nothing
        offsets.append(offsets[-1] + len(decoder.put(token_id)))
    return {
        "tokens": tokens,
        "token_logprobs": [None, *(clip_logprob(row.logprob) for row in scored)],
        "top_logprobs": [None, *(spell_top(model.tokenizer, row, as_ids) for row in scored)],
        "text_offset": offsets,
    }
