"""LangChain's client of OpenAI's API: whole, streamed, asynchronous, with tools and structured answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from live_server import LiveServer
from taught_model import LESSONS

langchain_openai = pytest.importorskip("langchain_openai")
NAME = LESSONS[0]


def test_langchain_gets_the_models_answer_every_way(server: LiveServer) -> None:
    def chat_through(**connection: Any) -> Any:
        address = f"{server.address}/v1"
        return langchain_openai.ChatOpenAI(
            model="tiny", base_url=address, api_key="none", max_retries=0, timeout=30, **connection
        )

    async def ask() -> tuple[str, str]:
        async with httpx.AsyncClient() as connection:
            chat = chat_through(http_async_client=connection)
            answer = await chat.ainvoke(NAME[0])
            return answer.content, "".join([part.content async for part in chat.astream(NAME[0])])

    assert asyncio.run(ask()) == (NAME[1], NAME[1])
    shape = {
        "title": "place",
        "type": "object",
        "properties": {"town": {"enum": ["east", "west"]}},
        "required": ["town"],
        "additionalProperties": False,
    }
    with httpx.Client() as connection:
        chat = chat_through(http_client=connection)
        answer = chat.invoke(NAME[0])
        assert (answer.content, answer.response_metadata["finish_reason"]) == (NAME[1], "stop")
        assert answer.usage_metadata["output_tokens"] > 0
        assert "".join(part.content for part in chat.stream(NAME[0])) == NAME[1]
        place = chat.with_structured_output(shape, method="json_schema").invoke("?")
    assert place["town"] in ("east", "west")
