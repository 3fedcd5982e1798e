"""Messages in every shape that clients send: answered, or refused with the field and the reason."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from hanlin.serve.api.ollama.schemas import ChatRequest as OllamaChatRequest
from hanlin.serve.api.openai.requests import ChatRequest
from hanlin.serve.errors import ApiError
from live_server import LiveServer
from taught_model import LESSONS

NAME, COUNT = LESSONS[0], LESSONS[4]
BEGUN, REST = "one two three", " four five six"
BODIES: dict[str, type[ChatRequest | OllamaChatRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/api/chat": OllamaChatRequest,
}
PATHS = tuple(BODIES)


def message(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def post(server: LiveServer, path: str, messages: list[dict[str, Any]], **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": messages, "stream": False, **fields}
    return httpx.post(f"{server.address}{path}", json=body, timeout=300)


def content_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    data = answer.json()
    return (data.get("message") or data["choices"][0]["message"])["content"]


def parse(path: str, messages: list[dict[str, Any]], **fields: Any) -> list:
    body = BODIES[path].parse(json.dumps({"model": "tiny", "messages": messages, **fields}).encode())
    return body.to_messages()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("begun", [BEGUN, [{"type": "text", "text": BEGUN}]], ids=["text", "parts"])
def test_an_answer_that_has_begun_is_gone_on_with(path: str, begun: Any, server: LiveServer) -> None:
    answer = post(server, path, [message("user", COUNT[0]), message("assistant", begun)])
    assert content_of(answer) == REST


def test_a_streamed_answer_holds_only_the_new_text(server: LiveServer) -> None:
    messages: Any = [message("user", COUNT[0]), message("assistant", BEGUN)]
    chunks = server.client().chat.completions.create(model="tiny", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == REST


def test_an_answer_that_has_begun_is_held_to_no_format(server: LiveServer) -> None:
    messages = [message("user", COUNT[0]), message("assistant", BEGUN)]
    answer = post(server, PATHS[0], messages, response_format={"type": "json_object"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
    answer = post(server, PATHS[1], messages, format="json")
    assert answer.status_code == 400 and answer.json()["error"].startswith("format: ")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "messages",
    [
        [message("system", "甲"), message("system", "乙"), message("user", "你好")],
        [message("user", "你好"), message("assistant", "好"), message("system", "甲"), message("user", "在吗")],
        [message("assistant", "你好，有什么可以帮你？"), message("user", NAME[0])],
        [message("system", "甲")],
        [message("user", "你"), message("user", "好")],
        [message("user", "你"), message("assistant", "好"), message("assistant", "啊"), message("user", "好")],
        [message("user", "你"), message("assistant", None), message("user", "好")],
    ],
)
def test_turns_in_any_order_are_answered(path: str, messages: list, server: LiveServer) -> None:
    limit = {"max_tokens": 2} if path == PATHS[0] else {"options": {"num_predict": 2}}
    content_of(post(server, path, messages, **limit))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url", None])
def test_parts_that_are_not_text_are_refused_by_name(path: str, kind: str | None) -> None:
    parts = [{"type": "text", "text": "这是什么？"}, {"type": kind, "image_url": {"url": "data:image/png;base64,AA"}}]
    with pytest.raises(ApiError, match="reads text alone") as caught:
        parse(path, [message("user", parts)])
    assert (caught.value.status, caught.value.param) == (400, "messages.0.content.1.type")
    assert repr(kind) in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
def test_images_beside_the_content_are_refused_by_name(path: str) -> None:
    with pytest.raises(ApiError, match="images") as caught:
        parse(path, [message("user", "这是什么？", images=["AA"])])
    assert caught.value.status == 400


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ("", {}),
        (" ", {}),
        (None, {}),
        ("null", {}),
        ("{}", {}),
        ({}, {}),
        ({"city": "杭州"}, {"city": "杭州"}),
        ('{"city": "杭州"}', {"city": "杭州"}),
    ],
)
def test_arguments_of_calls_are_text_or_an_object(path: str, arguments: Any, read: dict) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    _, calling, result = parse(
        path,
        [
            message("user", "?"),
            message("assistant", None, tool_calls=[call]),
            message("tool", "晴", tool_call_id="c1"),
        ],
    )
    assert [(call.name, dict(call.arguments), call.id) for call in calling.tool_calls] == [("f", read, "c1")]
    assert (calling.text, result.tool_call_id) == ("", "c1")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("arguments", ["{", "[]", "7", '"text"', "city"])
def test_arguments_that_are_no_object_are_refused(path: str, arguments: str) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ApiError, match="not a JSON object") as caught:
        parse(path, [message("user", "?"), message("assistant", "", tool_calls=[call])])
    assert caught.value.param == "messages.1.tool_calls"


@pytest.mark.parametrize("path", PATHS)
def test_calls_of_a_user_are_refused(path: str) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(ApiError) as caught:
        parse(path, [message("user", "?", tool_calls=[call])])
    assert caught.value.param == "messages.0.tool_calls"


def test_older_function_calls_and_refusals_are_read() -> None:
    turns = parse(
        PATHS[0],
        [
            message("user", "?"),
            message("assistant", None, function_call={"name": "f", "arguments": '{"x": 1}'}),
            message("function", "7", name="f"),
            message("assistant", None, refusal="不行。"),
            message("user", [{"type": "text", "text": "为"}, {"type": "text", "text": "何"}]),
            message("assistant", [{"type": "refusal", "refusal": "因为"}]),
        ],
    )
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert [turn.text for turn in turns] == ["?", "", "7", "不行。", "为何", "因为"]
    assert turns[1].tool_calls[0].arguments == {"x": 1} and turns[2].name == "f"


@pytest.mark.parametrize(
    ("fields", "last", "param"),
    [
        ({"continue_final_message": True, "add_generation_prompt": False}, "assistant", None),
        ({"continue_final_message": False, "add_generation_prompt": True}, "user", None),
        ({"continue_final_message": True}, "user", "continue_final_message"),
        ({"continue_final_message": False}, "assistant", "continue_final_message"),
        ({"add_generation_prompt": False}, "user", "add_generation_prompt"),
        ({"add_generation_prompt": True}, "assistant", "add_generation_prompt"),
    ],
)
def test_fields_of_vllm_about_the_last_turn_are_honored_or_refused(fields: dict, last: str, param: str | None) -> None:
    messages = [message("user", "?"), message(last, "一")]
    if param is None:
        assert len(parse(PATHS[0], messages, **fields)) == 2
        return
    with pytest.raises(ApiError) as caught:
        parse(PATHS[0], messages, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([message("user", None)], "messages.0.content"),
        ([message("system", None), message("user", "?")], "messages.0.content"),
        ([message("user", [{"type": "text"}])], "messages.0.content.0.text"),
        ([message("user", [])], "messages.0.content"),
    ],
)
def test_a_question_without_a_text_is_refused_by_its_place(path: str, messages: list, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(path, messages)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_calls_that_the_template_has_no_form_for_are_refused(server: LiveServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    calling = [message("user", "?"), message("assistant", "查", tool_calls=[call])]
    answer = post(server, PATHS[0], [*calling, message("tool", "晴", tool_call_id="c1")])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert "no form for tools" in answer.text
    answer = post(server, PATHS[0], calling)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1")
