"""The plain `POST /generate` that older Chinese Llama projects served: a prompt to go on from, or a history of turns.

Owns that route's words. Does not own the answers (`answers`).
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from hanlin.core.i18n import say
from hanlin.core.records import Message, Role
from hanlin.serve.admission import Ticket
from hanlin.serve.api.fields import Choosing, Strict
from hanlin.serve.api.http import Streaming, read, respond
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, Models, Wanted
from hanlin.serve.service import Answer, Desk, End

_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant", "System": "system"}


class _Turn(Strict):
    role: Literal["Human", "Assistant", "System", "user", "assistant", "system"]
    content: str


class GenerateRequest(Choosing):
    """The body of `POST /generate`: either `prompt` or `history`; without `model` the server's first one answers."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "best_of": (None, 1),
        "use_beam_search": (None, False),
        "ignore_eos": (None, False),
        "logprobs": (None, 0),
        "do_sample": (None, True),
    }
    model: str | None = None
    prompt: str | None = Field(None, min_length=1)
    history: list[_Turn] | None = Field(None, min_length=1)
    system_prompt: str | None = None
    max_new_tokens: int | None = Field(None, ge=1)

    def turns(self) -> list[Message]:
        opening = [Message("system", self.system_prompt)] if self.system_prompt else []
        said = [Message(_ROLES.get(turn.role, turn.role), turn.content) for turn in self.history or ()]  # type: ignore[arg-type]
        return [*opening, *said]

    def wanted(self) -> Wanted:
        asked = self.asked()
        if self.max_new_tokens is not None:
            asked["max_new_tokens"] = self.max_new_tokens
        return Wanted(asked, self.stops, self.choices)


def routes(models: Models, desk: Desk) -> APIRouter:
    api = APIRouter()

    @api.post("/generate", response_model=None)
    async def generate(request: Request) -> Response:
        asked = await read(desk, GenerateRequest, request)
        if (asked.prompt is None) == (asked.history is None):
            what = say("say either prompt or history", "prompt 与 history 须且只须给出一个")
            raise ApiError(400, what, param="prompt")
        served = models.named(asked.model)
        before = asked.prompt or ""

        def prepare() -> GenerationJob:
            if asked.prompt is not None:
                return served.job([served.text_prompt(asked.prompt)], asked.wanted(), "prompt")
            try:
                prompt = served.chat_prompt(asked.turns())
            except ApiError as error:
                raise ApiError(error.status, error.message, param="history") from error
            return served.job([prompt], asked.wanted(), "history")

        def whole(_: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
            texts = [answer.text for answer in answers]
            return {
                "response": texts[0],
                "text": [before + text for text in texts],
                "finish_reason": answers[0].end.finish_reason,
                "status": 200,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            }

        async def pieces(job: GenerationJob, ticket: Ticket) -> AsyncGenerator[bytes, None]:
            texts = [before for _ in job.requests]
            async with aclosing(desk.pieces(job, ticket)) as all_told:
                async for batch in all_told:
                    for place, told in batch:
                        texts[place] += "" if isinstance(told, End) else told.text
                    if not all(isinstance(told, End) for _, told in batch):
                        yield _part({"text": texts})

        stream = Streaming(pieces, "application/octet-stream", lambda error: _part(error.openai_body()))
        ticket = served.door.book(asked.choices)
        return await respond(desk, request, ticket, prepare, whole, stream if asked.stream else None)

    return api


def _part(data: Any) -> bytes:
    """One part of a stream: all text so far, as JSON that ends with a zero byte."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\0"
