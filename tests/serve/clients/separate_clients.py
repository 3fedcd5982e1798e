"""Asks a server for structured output through one library, and prints each result as a line of JSON.

It runs in the environment that HANLIN_CLIENTS names: instructor and llama-index want other versions of openai, jiter
and rich than we do. It imports nothing of ours but the model of an order.

    python separate_clients.py instructor http://127.0.0.1:8000
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

from structured_order import Order

MESSAGES: list[Any] = [{"role": "user", "content": "一件大的，急"}]
FIELDS: dict[str, Any] = {"model": "tiny", "temperature": 1, "seed": 1}


def ask_instructor(address: str) -> Iterator[tuple[str, Any]]:
    """By tool, strict tool and format; whole, in parts, several at once; asynchronous; Anthropic's client."""
    import anthropic
    import instructor
    import openai

    connection: dict[str, Any] = {"base_url": f"{address}/v1", "api_key": "none", "max_retries": 0}
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai.OpenAI(**connection), mode=mode)
        given: Any = {"messages": MESSAGES, "response_model": Order, "max_retries": 0, **FIELDS}
        yield f"{mode.value}", client.chat.completions.create(**given)
        *_, last = client.chat.completions.create_partial(**given, strict=False)  # its strict check takes no enum
        yield f"{mode.value}, partial", last
    async_client = instructor.from_openai(openai.AsyncOpenAI(**connection))
    yield "async", asyncio.run(async_client.chat.completions.create(**given))
    claude = instructor.from_anthropic(
        anthropic.Anthropic(base_url=address, api_key="none"), mode=instructor.Mode.ANTHROPIC_TOOLS
    )
    given = {"model": "tiny", "max_tokens": 400, "max_retries": 0, "messages": MESSAGES}
    yield "anthropic", claude.messages.create(**given, response_model=Order)


def ask_llama_index(address: str) -> Iterator[tuple[str, Any]]:
    """As a structured model, whole and asynchronous, by a template, by calls of tools, and by Ollama's client."""
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.ollama import Ollama
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="tiny",
        api_base=f"{address}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=8192,
        temperature=1,
        max_retries=0,
        additional_kwargs={"seed": 1},
    )
    messages = [ChatMessage(role="user", content="一件大的，急")]
    structured = model.as_structured_llm(Order)
    yield "chat", structured.chat(messages).raw
    yield "achat", asyncio.run(structured.achat(messages)).raw
    yield "structured_predict", model.structured_predict(Order, PromptTemplate("{text}"), text="一件小的")

    def order(**fields: Any) -> str:
        """Order: 下单."""
        return json.dumps(fields, ensure_ascii=False)

    tool = FunctionTool.from_defaults(order, name="order", fn_schema=Order)
    for allows_several in (False, True):
        response = model.chat_with_tools(
            [tool], chat_history=messages, tool_required=True, allow_parallel_tool_calls=allows_several
        )
        call, *_ = model.get_tool_calls_from_response(response)
        yield f"chat_with_tools, {allows_several}", Order.model_validate(call.tool_kwargs)
    *_, response = model.stream_chat_with_tools([tool], chat_history=messages, tool_required=True)
    call, *_ = model.get_tool_calls_from_response(response)
    yield "stream_chat_with_tools", Order.model_validate(call.tool_kwargs)
    local = Ollama(model="tiny", base_url=address, context_window=8192, temperature=1, request_timeout=300)
    yield "ollama", local.structured_predict(Order, PromptTemplate("{text}"), text="一件小的")


def main() -> None:
    library, address = sys.argv[1:]
    for name, order in {"instructor": ask_instructor, "llama-index": ask_llama_index}[library](address):
        checked = Order.model_validate(order.model_dump(by_alias=True, warnings=False))
        print(json.dumps([name, checked.model_dump(by_alias=True, mode="json")], ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
