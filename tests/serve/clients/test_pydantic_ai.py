"""pydantic-ai's agents: structured output by tool and by format, tools of their own, streams, both vendors' APIs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from live_server import LiveServer
from structured_order import Order

pydantic_ai = pytest.importorskip("pydantic_ai")

from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart  # noqa: E402
from pydantic_ai.models.anthropic import AnthropicModel  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: E402
from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402

APIS: dict[str, Any] = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel, "messages": AnthropicModel}


@asynccontextmanager
async def connect(server: LiveServer, api: str) -> AsyncIterator[Any]:
    """A model of pydantic-ai for one of the APIs."""
    import anthropic
    import openai

    if api == "messages":
        async with anthropic.AsyncAnthropic(base_url=server.address, api_key="none", max_retries=0) as client:
            profile: Any = {"supports_json_schema_output": True}
            yield AnthropicModel("tiny", provider=AnthropicProvider(anthropic_client=client), profile=profile)
    else:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
            yield APIS[api]("tiny", provider=OpenAIProvider(openai_client=client))


def settings(seed: int) -> Any:
    return {"temperature": 1.0, "max_tokens": 300, "extra_body": {"seed": seed}}


@pytest.mark.parametrize(
    ("api", "mode"),
    [("chat", "tool"), ("responses", "tool"), ("messages", "tool"), ("chat", "native"), ("messages", "native")],
)
def test_an_agents_output_is_of_its_type(tool_server: LiveServer, api: str, mode: str) -> None:
    output: Any = pydantic_ai.NativeOutput(Order) if mode == "native" else pydantic_ai.ToolOutput(Order, name="下单")

    async def run() -> list[Any]:
        async with connect(tool_server, api) as model:
            agent = pydantic_ai.Agent(model, output_type=output, instructions="记下订单。", model_settings=settings(3))
            async with agent.run_stream("一件小的") as stream:
                streamed = await stream.get_output()
            return [streamed, (await agent.run("一件大的")).output if api == "chat" else streamed]

    for order in asyncio.run(run()):
        assert isinstance(order, Order) and 1 <= len(order.items) <= 2


@pytest.mark.parametrize("api", APIS)
def test_an_agent_calls_its_tools_until_it_has_its_output(tool_server: LiveServer, api: str) -> None:
    asked: list[tuple[str, int]] = []

    def count_stock(size: Literal["大", "小"], number: Literal[1, 2]) -> str:
        """Tell how many there are: 查一件商品的库存."""
        asked.append((size, number))
        return f"还有{len(asked)}件"

    async def offer_three_times(_: Any, definition: Any) -> Any:
        return definition if len(asked) < 3 else None

    async def run() -> Any:
        tool = pydantic_ai.Tool(count_stock, name="查库存", prepare=offer_three_times)
        async with connect(tool_server, api) as model:
            agent = pydantic_ai.Agent(
                model,
                output_type=bool,
                tools=[tool],
                model_settings=settings(5),
            )
            return await agent.run("还有吗？", usage_limits=pydantic_ai.UsageLimits(request_limit=5))

    result = asyncio.run(run())
    assert isinstance(result.output, bool) and asked
    parts = [part for message in result.all_messages() for part in message.parts]
    calls = {part.tool_call_id for part in parts if isinstance(part, ToolCallPart)}
    returned = [part for part in parts if isinstance(part, ToolReturnPart) and part.tool_name == "查库存"]
    # several calls of one turn run side by side
    assert {part.content for part in returned} == {f"还有{index + 1}件" for index in range(len(asked))}
    assert {part.tool_call_id for part in returned} <= calls
    assert isinstance(result.all_messages()[0], ModelRequest) and isinstance(result.all_messages()[1], ModelResponse)
