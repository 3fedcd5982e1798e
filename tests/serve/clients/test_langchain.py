"""LangChain's client of OpenAI's API: whole, streamed, asynchronous, tools, structured output of every method."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from live_server import LiveServer
from structured_order import Order
from taught_model import LESSONS

langchain_openai = pytest.importorskip("langchain_openai")
NAME = LESSONS[0]


def chat_through(server: LiveServer, **fields: Any) -> Any:
    address = f"{server.address}/v1"
    return langchain_openai.ChatOpenAI(
        model="tiny", base_url=address, api_key="none", max_retries=0, timeout=300, **fields
    )


@pytest.fixture()
def connection() -> Iterator[httpx.Client]:
    with httpx.Client() as opened:
        yield opened


def test_langchain_gets_the_models_answer_every_way(server: LiveServer, connection: httpx.Client) -> None:
    async def ask() -> tuple[str, str]:
        async with httpx.AsyncClient() as async_connection:
            chat = chat_through(server, http_async_client=async_connection)
            answer = await chat.ainvoke(NAME[0])
            return answer.content, "".join([part.content async for part in chat.astream(NAME[0])])

    assert asyncio.run(ask()) == (NAME[1], NAME[1])
    chat = chat_through(server, http_client=connection)
    answer = chat.invoke(NAME[0])
    assert (answer.content, answer.response_metadata["finish_reason"]) == (NAME[1], "stop")
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(part.content for part in chat.stream(NAME[0])) == NAME[1]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the client's own classes
@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(("method", "strict"), [("json_schema", None), ("function_calling", True)])
def test_structured_output_is_of_its_type(
    tool_server: LiveServer, connection: httpx.Client, method: str, strict: bool | None, api: str
) -> None:
    fields: Any = {"temperature": 1, "use_responses_api": api == "responses", "extra_body": {"seed": 1}}
    chat = chat_through(tool_server, http_client=connection, **fields)
    structured = chat.with_structured_output(Order, method=method, strict=strict)
    order = structured.invoke("一件大的")
    assert isinstance(order, Order) and 1 <= len(order.items) <= 2
    *_, streamed = structured.stream("一件小的")
    assert streamed == order or isinstance(streamed, Order)


def test_json_mode_gives_an_object(tool_server: LiveServer, connection: httpx.Client) -> None:
    closing = {str(tool_server.served_models[0].tokenizer.encode("}")[0]): 100}  # a model of random weights never ends
    chat = chat_through(tool_server, http_client=connection, logit_bias=closing)
    answer = chat.with_structured_output(None, method="json_mode", include_raw=True).invoke("?")
    assert (answer["parsed"], answer["parsing_error"]) == ({}, None)


def test_tools_are_called_and_their_results_go_back(tool_server: LiveServer, connection: httpx.Client) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import StructuredTool

    stocks: list[str] = []

    def count_stock(size: Any) -> str:
        """Tell how many there are: 查库存."""
        stocks.append(str(size))
        return "还有三件"

    schema = {"type": "object", "properties": {"size": {"enum": ["大", "小"]}}, "required": ["size"]}
    tool = StructuredTool.from_function(count_stock, name="查库存", args_schema=schema)
    chat = chat_through(tool_server, http_client=connection)
    forced = chat.bind_tools([tool], tool_choice="any", parallel_tool_calls=False)
    messages: list[Any] = [HumanMessage("还有吗？")]
    whole, parts = forced.invoke(messages), list(forced.stream(messages))
    streamed = sum(parts[1:], parts[0])
    for message in (whole, streamed):
        (call,) = message.tool_calls
        assert call["name"] == "查库存" and call["args"]["size"] in "大小"
        result = tool.invoke(call)
        assert isinstance(result, ToolMessage) and result.tool_call_id == call["id"]
        messages += [message, result]
    answer = chat.bind_tools([tool]).invoke(messages, max_tokens=4)
    assert answer.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"] and len(stocks) == 2
