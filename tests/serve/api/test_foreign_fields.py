"""Fields of vLLM's, llama.cpp's, SGLang's and Ollama's clients: honored, or refused by name, never ignored."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from hanlin.core.i18n import use_language
from hanlin.serve.api.anthropic.requests import CountTokensRequest, MessagesRequest
from hanlin.serve.api.fields import SamplingBody, clean_sampling
from hanlin.serve.api.foreign_fields import (
    FIELDS_OF_OTHER_APIS,
    FOREIGN_CHAT_FIELDS,
    FOREIGN_OLLAMA_OPTIONS,
    FOREIGN_SAMPLING_FIELDS,
)
from hanlin.serve.api.ollama.schemas import ChatRequest as OllamaChatRequest
from hanlin.serve.api.ollama.schemas import GenerateRequest as OllamaGenerateRequest
from hanlin.serve.api.ollama.schemas import Options
from hanlin.serve.api.openai.requests import ChatRequest, CompletionRequest
from hanlin.serve.api.plain import GenerateRequest as PlainRequest
from hanlin.serve.api.responses.schemas import PromptBody, ResponseRequest
from hanlin.serve.errors import ApiError
from live_server import LiveServer
from taught_model import LESSONS

CHAT = "/v1/chat/completions"
COUNT = LESSONS[4]
MESSAGES = [{"role": "user", "content": COUNT[0]}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.parse(json.dumps({"model": "tiny", "messages": MESSAGES, **fields}).encode())


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.parse(json.dumps({"model": "tiny", "prompt": "?", **fields}).encode())


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize("name", FOREIGN_SAMPLING_FIELDS)
def test_a_field_that_is_not_implemented_is_refused_unless_it_asks_for_nothing(make: Any, name: str) -> None:
    for value in FOREIGN_SAMPLING_FIELDS[name]:
        make(**{name: value})
    with pytest.raises(ApiError) as caught:
        make(**{name: "something"})
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("name", FOREIGN_CHAT_FIELDS)
def test_a_foreign_chat_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{name: "something"})
    assert caught.value.param == name


@pytest.mark.parametrize("name", FOREIGN_OLLAMA_OPTIONS)
def test_a_foreign_option_of_ollama_is_refused_by_name(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        Options.model_validate({name: "something"})
    assert caught.value.param == name


def test_a_sampling_field_beside_ollamas_options_is_refused() -> None:
    for name, value in (("temperature", 0.5), ("max_tokens", 3), ("tool_choice", "required")):
        with pytest.raises(ApiError) as caught:
            OllamaChatRequest.model_validate({"model": "tiny", "messages": MESSAGES, name: value})
        assert caught.value.param == name


def test_ollamas_documented_options_are_taken() -> None:
    options = Options.model_validate(
        {
            "num_keep": 5,
            "seed": 42,
            "num_predict": 100,
            "top_k": 20,
            "top_p": 0.9,
            "min_p": 0.0,
            "typical_p": 0.7,
            "repeat_last_n": 33,
            "temperature": 0.8,
            "repeat_penalty": 1.2,
            "presence_penalty": 1.5,
            "frequency_penalty": 1.0,
            "penalize_newline": True,
            "stop": ["\n", "user:"],
            "numa": False,
            "num_ctx": 1024,
            "num_batch": 2,
            "num_gpu": 1,
            "main_gpu": 0,
            "use_mmap": True,
            "num_thread": 8,
        }
    )
    sampling = options.to_sampling()
    assert (sampling["typical_p"], sampling["repeat_last_n"], sampling["repetition_penalty"]) == (0.7, 33, 1.2)
    assert Options.model_validate({"penalize_newline": False}).to_sampling()["repetition_penalty"] is None
    with pytest.raises(ApiError, match="penalize_newline"):
        Options.model_validate({"penalize_newline": False, "repeat_penalty": 1.1}).to_sampling()


class BareRequest(SamplingBody):
    """A request of an API that does not pass on what an answer must fit."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"background": (None, False)}


@pytest.mark.parametrize("name", ["guided_json", "grammar", "stop_token_ids", "bad_words", "background"])
def test_a_body_refuses_what_it_does_not_pass_on(name: str) -> None:
    BareRequest.model_validate({name: None})
    with pytest.raises(ApiError) as caught:
        BareRequest.model_validate({name: ["x"]})
    assert caught.value.param == name


ANSWERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "chat completions": (ChatRequest, {"messages": MESSAGES}),
    "completions": (CompletionRequest, {"prompt": "?"}),
    "Responses": (ResponseRequest, {"input": "?"}),
    "input tokens of Responses": (PromptBody, {"input": "?"}),
    "Anthropic": (MessagesRequest, {"messages": MESSAGES, "max_tokens": 4}),
    "tokens of Anthropic": (CountTokensRequest, {"messages": MESSAGES}),
    "Ollama, chat": (OllamaChatRequest, {"messages": MESSAGES}),
    "Ollama, generate": (OllamaGenerateRequest, {"prompt": "?"}),
    "plain": (PlainRequest, {"prompt": "?"}),
}


@pytest.mark.parametrize("api", ANSWERS)
@pytest.mark.parametrize("name", FIELDS_OF_OTHER_APIS)
def test_a_field_of_another_api_is_read_or_refused_and_never_ignored(api: str, name: str) -> None:
    body_class, fields = ANSWERS[api]
    if name in body_class.model_fields:
        return
    neutral = body_class.unsupported_fields.get(name, FIELDS_OF_OTHER_APIS[name])
    for value in neutral:
        body_class.parse(json.dumps({"model": "tiny", **fields, name: value}).encode())
    with pytest.raises(ApiError) as caught:
        body_class.parse(json.dumps({"model": "tiny", **fields, name: {"something": 1}}).encode())
    assert (caught.value.status, caught.value.param) == (400, name)


def test_completions_take_a_response_format_as_those_of_vllm_do() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = completion(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    (output_format,) = asked.list_output_formats()
    assert (output_format.kind, output_format.value) == ("json", schema)
    assert completion(response_format={"type": "text"}).list_output_formats() == []
    scored = completion(response_format={"type": "json_object"}, echo=True, logprobs=0, max_tokens=0)
    with pytest.raises(ApiError, match="response_format has no meaning where"):
        scored.check_scoring()
    with pytest.raises(ApiError, match="both say what the answer must fit"):
        completion(response_format={"type": "json_object"}, guided_regex="a").to_params()


def test_an_error_is_about_the_type_that_the_value_has() -> None:
    with pytest.raises(ApiError, match=r"stop: .*at most 16 items") as caught:
        chat(stop=["a"] * 20)
    assert caught.value.param == "stop"
    with pytest.raises(ApiError, match=r"tool_choice: Input should be 'none', 'auto'"):
        chat(tool_choice="sometimes")


def test_an_error_is_told_in_the_language_of_the_reader() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"temperature": 3}, "temperature: 须不大于 2"),
        ({"max_tokens": "4"}, "max_tokens: 须为整数"),
        ({"messages": [{"content": "x"}]}, "messages.0.role: 缺少此字段"),
    ]
    for fields, message in wrong:
        with use_language("zh"), pytest.raises(ApiError) as caught:
            chat(**fields)
        assert caught.value.message.startswith(message) and "should" not in caught.value.message


def test_values_beyond_the_range_mean_what_their_clients_mean() -> None:
    sampling = chat(max_tokens=-1, top_p=0, top_k=-1, typical_p=0, seed=-1).to_params().sampling
    assert (sampling["max_new_tokens"], sampling["top_k"], sampling["seed"]) == (None, 0, None)
    assert 0 < sampling["top_p"] < 1e-3 and 0 < sampling["typical_p"] < 1e-3
    assert clean_sampling({"top_p": None, "max_new_tokens": 5}) == {"top_p": None, "max_new_tokens": 5}
    assert chat(max_completion_tokens=-1).to_params().sampling["max_new_tokens"] is None


def test_a_choice_among_tools_offers_only_these() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]

    def allow(mode: str, *names: str) -> Any:
        allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": name}} for name in names]}
        return chat(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})

    assert [tool["function"]["name"] for tool in allow("auto", "c", "a").get_tools()] == ["a", "c"]
    assert allow("auto", "a").to_params().response_format is None
    for request in (allow("required", "b"), chat(tools=tools[1:2], tool_choice="any")):
        assert request.tool_choice == "required" and request.to_params().response_format is not None
    with pytest.raises(ApiError) as caught:
        allow("auto", "d")
    assert (caught.value.status, caught.value.param) == (400, "tool_choice.allowed_tools.tools")


def test_stream_options_that_change_the_stream_are_refused_by_name() -> None:
    assert chat(stream=True, stream_options={"include_usage": None, "include_obfuscation": False}).with_usage is False
    for name in ("continuous_usage_stats", "include_obfuscation"):
        with pytest.raises(ApiError) as caught:
            chat(stream=True, stream_options={name: True})
        assert caught.value.param == name


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
def test_stream_options_without_a_stream_are_refused_as_by_openai(stream: dict[str, Any]) -> None:
    options = {"stream_options": {"include_usage": True}}
    bodies = (
        lambda: chat(**stream, **options),
        lambda: CompletionRequest.parse(json.dumps({"model": "m", "prompt": "?", **stream, **options}).encode()),
        lambda: ResponseRequest.parse(
            json.dumps({"model": "m", "input": "?", **stream, "stream_options": {}}).encode()
        ).to_params(),
    )
    for parse in bodies:
        with pytest.raises(ApiError, match="only where `stream` is true") as caught:
            parse()
        assert (caught.value.status, caught.value.param) == (400, "stream_options")
    assert chat(**stream, stream_options=None).with_usage is False


def test_two_names_of_one_field_may_not_differ() -> None:
    assert chat(repeat_penalty=1.5).to_params().sampling["repetition_penalty"] == 1.5
    assert chat(n_predict=3).to_params().sampling["max_new_tokens"] == 3
    assert chat(n_predict=3, max_tokens=3).to_params().sampling["max_new_tokens"] == 3
    for fields, name in (
        ({"n_predict": 3, "max_tokens": 4}, "n_predict"),
        ({"repeat_penalty": 1.2, "repetition_penalty": 1.1}, "repeat_penalty"),
        ({"min_tokens": 3, "stop": "。"}, "min_tokens"),
        ({"ignore_eos": True, "stop_token_ids": [3]}, "ignore_eos"),
    ):
        with pytest.raises(ApiError) as caught:
            chat(**fields).to_params()
        assert caught.value.param == name


def post(server: LiveServer, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(server.address + path, json={"model": "tiny", **fields}, timeout=300)


def test_stop_tokens_end_an_answer_and_min_tokens_keep_it_going(server: LiveServer) -> None:
    whole = post(server, CHAT, messages=MESSAGES, logprobs=True).json()["choices"][0]
    assert whole["message"]["content"] == COUNT[1]
    tokenizer = server.served_models[0].tokenizer
    third = tokenizer.encode(COUNT[1])[2]
    cut = post(server, CHAT, messages=MESSAGES, stop_token_ids=[third]).json()
    assert cut["usage"]["completion_tokens"] == 2 and cut["choices"][0]["finish_reason"] == "stop"
    size = len(tokenizer.encode(COUNT[1])) + 9
    longer = post(server, CHAT, messages=MESSAGES, min_tokens=size, max_tokens=size + 20).json()
    assert longer["usage"]["completion_tokens"] >= size
    endless = post(server, CHAT, messages=MESSAGES, ignore_eos=True, max_tokens=size).json()
    assert (endless["usage"]["completion_tokens"], endless["choices"][0]["finish_reason"]) == (size, "length")
    unknown = post(server, CHAT, messages=MESSAGES, stop_token_ids=[10**6])
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "stop_token_ids")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
def test_embeddings_are_truncated_and_shortened_as_asked(server: LiveServer, path: str) -> None:
    name = "prompt" if path == "/api/embeddings" else "input"

    def embed(text: str, **fields: Any) -> np.ndarray:
        answer = post(server, path, **{name: text}, **fields)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return np.array(
            body["data"][0]["embedding"] if "data" in body else body.get("embedding") or body["embeddings"][0]
        )

    text = "春天来了。" * 3000
    whole = embed(text, truncate=True)
    assert whole == pytest.approx(embed(text[:2000], truncate=True), abs=1e-5)
    refused = post(server, path, **{name: text}, truncate=False)
    assert refused.status_code == 400
    short = embed("春天", dimensions=4)
    assert short == pytest.approx(embed("春天")[:4] / np.linalg.norm(embed("春天")[:4]), abs=1e-5)
    assert post(server, path, **{name: "春天"}, dimensions=10**6).status_code == 400
