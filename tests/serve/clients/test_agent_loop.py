"""An agent's loop of ten steps (question, call, result, ..., text) through each vendor's client.

The model cannot choose, so every step but the last forces a call. Each step comes another way: whole or streamed,
from the synchronous or the asynchronous client.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Protocol

import anthropic
import ollama
import openai
import pytest

from hanlin.inference.protocol import GenerationRequest, Stream
from hanlin.serve.api.tool_calls import build_call_schema
from live_server import LiveServer

STEPS = 10
SYSTEM = "你有一个查天气的工具。"
QUESTION = "东西两镇这一周的天气？"
SCHEMA: Any = {  # with the keywords alone that Ollama's client passes on
    "type": "object",
    "properties": {
        "镇": {"type": "string", "enum": ["东镇", "西镇"]},
        "day": {"type": "integer", "enum": [1, 2, 3, 4, 5, 6, 7]},
    },
    "required": ["镇", "day"],
}
NAME = "查天气"
FUNCTION = {"name": NAME, "description": "一天的天气", "parameters": SCHEMA}
TOOL: Any = {"type": "function", "function": FUNCTION}
MODES = [(is_async, is_streamed) for is_async in (False, True) for is_streamed in (False, True)]
"""Which client asks in a step, and whether it streams."""


@dataclass
class Step:
    """What a client got: calls as id and arguments, and text."""

    calls: list[tuple[str, dict[str, Any]]]
    text: str


class Loop(Protocol):
    """A conversation of one client."""

    async def ask(self, is_last: bool, is_async: bool, is_streamed: bool, seed: int) -> Step: ...

    def add_result(self, call_id: str, text: str) -> None: ...

    async def close(self) -> None: ...


class OpenAILoop:
    """Chat completions."""

    def __init__(self, address: str) -> None:
        fields: Any = {"base_url": f"{address}/v1", "api_key": "none", "max_retries": 0, "timeout": 60}
        self.client, self.async_client = openai.OpenAI(**fields), openai.AsyncOpenAI(**fields)
        self.messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]

    async def ask(self, is_last: bool, is_async: bool, is_streamed: bool, seed: int) -> Step:
        limit = {"max_tokens": 4} if is_last else {"tool_choice": {"type": "function", "function": {"name": NAME}}}
        fields: Any = {
            "model": "tiny",
            "messages": self.messages,
            "tools": [TOOL],
            "temperature": 1,
            "seed": seed,
            "parallel_tool_calls": False,
            **limit,
        }
        if is_streamed and is_async:
            async with self.async_client.chat.completions.stream(**fields) as events:
                _ = [event async for event in events]
                answer: Any = events.current_completion_snapshot
        elif is_streamed:
            with self.client.chat.completions.stream(**fields) as stream:
                _ = list(stream)
                answer = stream.current_completion_snapshot
        elif is_async:
            answer = await self.async_client.chat.completions.create(**fields)
        else:
            answer = self.client.chat.completions.create(**fields)
        (choice,) = answer.choices
        assert choice.finish_reason == ("length" if is_last else "tool_calls")
        calls = [(call.id, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]
        self.messages.append(choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        return Step(calls, choice.message.content or "")

    def add_result(self, call_id: str, text: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    async def close(self) -> None:
        self.client.close()
        await self.async_client.close()


class ResponsesLoop(OpenAILoop):
    """The Responses API: each step sends only what is new, and the id of the response before."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.previous: str | None = None
        self.items: list[Any] = [{"role": "user", "content": QUESTION}]

    async def ask(self, is_last: bool, is_async: bool, is_streamed: bool, seed: int) -> Step:
        fields: Any = {
            "model": "tiny",
            "instructions": SYSTEM,
            "input": self.items,
            "previous_response_id": self.previous,
            "tools": [{"type": "function", **FUNCTION, "strict": False}],
            "tool_choice": "auto" if is_last else "required",
            "parallel_tool_calls": False,
            "max_output_tokens": 4 if is_last else 200,
            "extra_body": {"temperature": 1, "seed": seed},
        }
        if is_streamed and is_async:
            async for event in await self.async_client.responses.create(**fields, stream=True):
                last = event
            answer = last.response
        elif is_streamed:
            *_, last = self.client.responses.create(**fields, stream=True)
            answer = last.response
        elif is_async:
            answer = await self.async_client.responses.create(**fields)
        else:
            answer = self.client.responses.create(**fields)
        assert answer.status == ("incomplete" if is_last else "completed")
        self.previous, self.items = answer.id, []
        calls = [item for item in answer.output if item.type == "function_call"]
        return Step([(call.call_id, json.loads(call.arguments)) for call in calls], answer.output_text)

    def add_result(self, call_id: str, text: str) -> None:
        self.items.append({"type": "function_call_output", "call_id": call_id, "output": text})


class AnthropicLoop:
    """Messages."""

    def __init__(self, address: str) -> None:
        fields: Any = {"base_url": address, "api_key": "none", "max_retries": 0, "timeout": 60}
        self.client, self.async_client = anthropic.Anthropic(**fields), anthropic.AsyncAnthropic(**fields)
        self.messages: list[Any] = [{"role": "user", "content": QUESTION}]

    async def ask(self, is_last: bool, is_async: bool, is_streamed: bool, seed: int) -> Step:
        fields: Any = {
            "model": "tiny",
            "max_tokens": 4 if is_last else 200,
            "system": SYSTEM,
            "messages": self.messages,
            "tools": [{"name": NAME, "description": FUNCTION["description"], "input_schema": SCHEMA}],
            "tool_choice": {"type": "auto"}
            if is_last
            else {"type": "tool", "name": NAME, "disable_parallel_tool_use": True},
            "extra_body": {"temperature": 1, "seed": seed},
        }
        if is_streamed and is_async:
            async with self.async_client.messages.stream(**fields) as events:
                answer: Any = await events.get_final_message()
        elif is_streamed:
            with self.client.messages.stream(**fields) as stream:
                answer = stream.get_final_message()
        elif is_async:
            answer = await self.async_client.messages.create(**fields)
        else:
            answer = self.client.messages.create(**fields)
        assert answer.stop_reason == ("max_tokens" if is_last else "tool_use")
        self.messages.append({"role": "assistant", "content": answer.to_dict()["content"]})
        calls = [(block.id, block.input) for block in answer.content if block.type == "tool_use"]
        return Step(calls, "".join(block.text for block in answer.content if block.type == "text"))

    def add_result(self, call_id: str, text: str) -> None:
        result = {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": text}]}
        self.messages.append({"role": "user", "content": [result]})

    async def close(self) -> None:
        self.client.close()
        await self.async_client.close()


class OllamaLoop:
    """Ollama's chat, which cannot force a call: its format does."""

    def __init__(self, address: str) -> None:
        self.client, self.async_client = ollama.Client(address, timeout=300), ollama.AsyncClient(address, timeout=300)
        self.messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]

    async def ask(self, is_last: bool, is_async: bool, is_streamed: bool, seed: int) -> Step:
        fields: Any = {
            "model": "tiny",
            "messages": self.messages,
            "tools": [TOOL],
            "format": None if is_last else build_call_schema([TOOL]),
            "options": {"temperature": 1, "seed": seed, "num_predict": 4 if is_last else 200},
            "stream": is_streamed,
        }
        if is_async:
            answer = await self.async_client.chat(**fields)
            parts = [part async for part in answer] if is_streamed else [answer]
        else:
            parts = list(self.client.chat(**fields)) if is_streamed else [self.client.chat(**fields)]
        assert parts[-1].done_reason == ("length" if is_last else "stop"), parts
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        text = "".join(part.message.content or "" for part in parts)
        self.messages.append(ollama.Message(role="assistant", content=text, tool_calls=calls or None))
        return Step([(call.function.name, dict(call.function.arguments)) for call in calls], text)

    def add_result(self, call_id: str, text: str) -> None:
        self.messages.append(ollama.Message(role="tool", tool_name=call_id, content=text))

    async def close(self) -> None:
        self.client.close()
        await self.async_client.close()


@pytest.fixture()
def prompts(tool_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The prompt of every request, as the engine gets it."""
    recorded: list[tuple[int, ...]] = []
    engine_stream = tool_server.engine.stream

    def record(request: GenerationRequest) -> Stream:
        recorded.append(request.prompt_ids)
        return engine_stream(request)

    monkeypatch.setattr(tool_server.engine, "stream", record)
    return recorded


@pytest.mark.parametrize("make", [OpenAILoop, ResponsesLoop, AnthropicLoop, OllamaLoop])
def test_every_message_of_ten_steps_reaches_the_prompt(
    tool_server: LiveServer, prompts: list[tuple[int, ...]], make: Any
) -> None:
    async def run() -> list[Step]:
        loop: Loop = make(tool_server.address)
        steps = []
        for index in range(STEPS):
            is_async, is_streamed = MODES[index % len(MODES)]
            steps.append(await loop.ask(index == STEPS - 1, is_async, is_streamed, seed=index))
            for call_id, arguments in steps[-1].calls:
                loop.add_result(call_id, f"第{index}次：{arguments['day']}度")
        await loop.close()
        return steps

    *calling, last = asyncio.run(run())
    assert not last.calls and last.text
    assert [len(step.calls) for step in calling] == [1] * (STEPS - 1) == [not step.text for step in calling]
    calls = [call for step in calling for call in step.calls]
    assert len({call_id for call_id, _ in calls}) == (1 if make is OllamaLoop else STEPS - 1)
    assert len({arguments["day"] for _, arguments in calls}) > 1

    tokenizer = tool_server.served_models[0].tokenizer
    texts = [tokenizer.decode(list(ids), skip_special=False) for ids in prompts]
    assert len(texts) == STEPS
    position = 0
    for index, (_, arguments) in enumerate(calls):
        opening = (SYSTEM, QUESTION) if index == 0 else ()
        written = json.dumps(arguments, ensure_ascii=False)
        for expected in (*opening, written, f"第{index}次：{arguments['day']}度"):
            position = texts[-1].index(expected, position) + len(expected)
        assert texts[index + 1].startswith(texts[index]) and texts[index + 1].count("次：") == index + 1
    assert prompts[-1][: len(prompts[0])] == prompts[0]
