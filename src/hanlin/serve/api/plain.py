"""The plain `POST /generate` of older Chinese Llama projects: a prompt to continue, or a history of turns."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from hanlin.core.i18n import tr
from hanlin.core.records import Message, Role
from hanlin.serve.admission import Slot
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.fields import (
    SamplingBody,
    StrictModel,
    StructuredOutputBody,
    TokenLimit,
    clean_sampling,
)
from hanlin.serve.api.foreign_fields import FOREIGN_SAMPLING_FIELDS, FOREIGN_THINKING_FIELDS
from hanlin.serve.api.http import parse_request, respond
from hanlin.serve.api.streaming import ZERO_SEPARATED_JSON, StreamWriter, encode_zero_separated
from hanlin.serve.api.structure.output_format import choose_output_format
from hanlin.serve.api.thinking import choose_thinking
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, GenerationParams, ModelRegistry
from hanlin.serve.service import Answer, GenerationService

_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant", "System": "system"}


class _Turn(StrictModel):
    role: Literal["Human", "Assistant", "System", "user", "assistant", "system"]
    content: str


class GenerateRequest(StructuredOutputBody, SamplingBody):
    """The body of `POST /generate`: either `prompt` or `history`; without `model` the server's first one answers."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        **FOREIGN_SAMPLING_FIELDS,
        **FOREIGN_THINKING_FIELDS,
    }
    model: str | None = None
    prompt: str | None = Field(None, min_length=1)
    history: list[_Turn] | None = Field(None, min_length=1)
    system_prompt: str | None = None
    max_new_tokens: TokenLimit | None = None

    def to_messages(self) -> list[Message]:
        """The history as messages, after the system prompt."""
        system = [Message("system", self.system_prompt)] if self.system_prompt else []
        turns = [Message(_ROLES.get(turn.role, turn.role), turn.content) for turn in self.history or ()]  # type: ignore[arg-type]
        return [*system, *turns]

    def to_params(self) -> GenerationParams:
        sampling = self.to_sampling()
        if self.max_new_tokens is not None:
            sampling |= clean_sampling({"max_new_tokens": self.max_new_tokens})
        output_format = choose_output_format(self.list_output_formats())
        return GenerationParams(sampling, self.stop_strings, self.choices, output_format, self.extra_stop_ids)


def make_router(models: ModelRegistry, service: GenerationService) -> APIRouter:
    """The routes of the plain API: `/generate`, with a prompt or a history."""
    router = APIRouter()

    @router.post("/generate", response_model=None)
    async def generate(request: Request) -> Response:
        body = await parse_request(service, GenerateRequest, request)
        if (body.prompt is None) == (body.history is None):
            what = tr("give either prompt or history")
            raise ApiError(400, what, param="prompt")
        if body.prompt is not None and body.system_prompt:
            what = tr("{name} has no place beside {field}", name="system_prompt", field="prompt")
            raise ApiError(400, what, param="system_prompt")
        model = models.get(body.model)
        prefix = body.prompt or ""
        sent = [prefix] * body.choices

        def prepare_job() -> GenerationJob:
            params = body.to_params()
            if body.prompt is not None:
                return model.make_job([model.encode_text(body.prompt)], params, "prompt")
            thinking = choose_thinking(model, None, "history", params.response_format)
            try:
                prompt = model.render_chat(body.to_messages(), (), thinking)
            except ApiError as error:
                raise ApiError(error.status, error.message, param="history") from error
            return model.make_job([prompt], params, "history")

        def build_response(_: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
            texts = [answer.text for answer in answers]
            return {
                "response": texts[0],
                "text": [prefix + text for text in texts],
                "finish_reason": answers[0].end.finish_reason,
                "status": 200,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            }

        async def write(job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
            """After each batch, all text so far of every answer."""
            async with aclosing(service.stream(job, slot)) as batches:
                async for batch in batches:
                    for index, event in batch:
                        sent[index] += "" if isinstance(event, AnswerEnd) else event.text
                    if not all(isinstance(event, AnswerEnd) for _, event in batch):
                        yield encode_zero_separated({"text": sent})

        def encode_error(error: ApiError) -> bytes:
            return encode_zero_separated(error.openai_body())

        def encode_keep_alive() -> bytes:
            return encode_zero_separated({"text": sent})

        writer = StreamWriter(write, ZERO_SEPARATED_JSON, encode_error, encode_keep_alive) if body.stream else None
        slot = model.queue.reserve(body.choices)
        return await respond(service, request, slot, prepare_job, build_response, writer)

    return router
