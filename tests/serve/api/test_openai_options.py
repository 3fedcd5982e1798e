"""Options of the OpenAI API: choices, penalties, log probabilities, response formats, completions, embeddings, several
models; answer, streamed and asynchronous; the plain API and the metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types.shared_params import ResponseFormatJSONSchema

from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine, load_engine
from live_server import LiveServer, run_server
from taught_model import LESSONS

NAME, COUNT = LESSONS[0], LESSONS[4]
ENGLISH = LESSONS[3]


def user_messages(text: str) -> list:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module", params=["transformers", "llama_cpp"])
def model(request: pytest.FixtureRequest, taught_model: Path, taught_gguf: Path) -> Iterator[LoadedEngine]:
    opened = load_engine(taught_model) if request.param == "transformers" else load_engine(taught_gguf, "F32")
    yield opened
    opened.engine.close()


@pytest.fixture()
def client(model: LoadedEngine) -> Iterator[openai.OpenAI]:
    with run_server(model) as server:
        yield server.client()


# --------------------------------------------------------------------------------------------- choices and sampling


def test_each_choice_has_a_seed_of_its_own(client: openai.OpenAI) -> None:
    def sample(seed: int, n: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="tiny", messages=user_messages("?"), n=n, temperature=2.0, seed=seed, max_tokens=12
        )
        assert [choice.index for choice in answer.choices] == list(range(n))
        assert answer.usage is not None and answer.usage.completion_tokens <= 12 * n
        return [choice.message.content for choice in answer.choices]

    three = sample(5, 3)
    assert len(set(three)) > 1
    assert three == sample(5, 3)
    assert three[1:] == sample(6, 2)


def test_streamed_choices_carry_their_index(client: openai.OpenAI) -> None:
    texts = ["", ""]
    ends: dict[int, str] = {}
    for chunk in client.chat.completions.create(model="tiny", messages=user_messages(COUNT[0]), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [COUNT[1]] * 2
    assert ends == {0: "stop", 1: "stop"}


def test_a_strong_bias_decides_the_answer(client: openai.OpenAI, model: LoadedEngine) -> None:
    (token_id,) = model.tokenizer.encode("春")[:1]
    answer = client.chat.completions.create(
        model="tiny", messages=user_messages(NAME[0]), logit_bias={str(token_id): 100}, max_tokens=4, logprobs=True
    )
    assert answer.choices[0].logprobs is not None
    written = [token.bytes for token in answer.choices[0].logprobs.content or []]
    assert written == [list(model.tokenizer.token_bytes(token_id))] * len(written) and written


def test_a_frequency_penalty_ends_repetition(client: openai.OpenAI, model: LoadedEngine) -> None:
    (token_id,) = model.tokenizer.encode("春")[:1]
    biased = {"model": "tiny", "messages": user_messages(NAME[0]), "logit_bias": {str(token_id): 30}, "max_tokens": 24}
    same = client.chat.completions.create(**biased)  # type: ignore[call-overload]
    other = client.chat.completions.create(**biased, frequency_penalty=2.0, presence_penalty=2.0)  # type: ignore[call-overload]
    assert same.choices[0].message.content != other.choices[0].message.content


# --------------------------------------------------------------------------------------------- log probabilities


def test_logprobs_are_those_of_the_scored_answer(client: openai.OpenAI, model: LoadedEngine) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=user_messages(NAME[0]), logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    rows = answer.choices[0].logprobs.content or []
    assert b"".join(bytes(row.bytes or ()) for row in rows).decode() == NAME[1]
    prompt = model.load_template().render([Message("user", NAME[0])], prompt=True).ids
    (score,) = model.engine.score([(prompt, model.tokenizer.encode(NAME[1]))])
    assert sum(row.logprob for row in rows) == pytest.approx(score.logprob, abs=1e-3)
    for row in rows:
        assert row.logprob == pytest.approx(row.top_logprobs[0].logprob)
        assert len(row.top_logprobs) == 3
        assert sum(math.exp(top.logprob) for top in row.top_logprobs) <= 1.0001


def test_streamed_logprobs_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    fields = {"model": "tiny", "messages": user_messages(NAME[0]), "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(**fields)  # type: ignore[call-overload]
    rows = []
    for chunk in client.chat.completions.create(**fields, stream=True):  # type: ignore[call-overload]
        if chunk.choices[0].logprobs:
            rows += chunk.choices[0].logprobs.content
    assert [row.token for row in rows] == [row.token for row in answer.choices[0].logprobs.content]
    assert [row.logprob for row in rows] == pytest.approx([row.logprob for row in answer.choices[0].logprobs.content])


# ------------------------------------------------------------------------------------------------------- completions


def test_a_completion_continues_text_and_ids_alike(client: openai.OpenAI, model: LoadedEngine) -> None:
    ids = model.load_template().render([Message("user", NAME[0])], prompt=True).ids
    answer = client.completions.create(model="tiny", prompt=list(ids))
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        NAME[1],
        "stop",
    )
    text = client.completions.create(model="tiny", prompt="翰林院", max_tokens=5, logprobs=2, seed=1)
    bos = model.tokenizer.bos_id
    begin = [bos] if bos is not None and model.tokenizer.adds_bos else []
    same = client.completions.create(
        model="tiny", prompt=[*begin, *model.tokenizer.encode("翰林院")], max_tokens=5, seed=1
    )
    assert text.choices[0].text == same.choices[0].text
    assert text.choices[0].logprobs is not None and len(text.choices[0].logprobs.top_logprobs[0]) == 2  # type: ignore[index]


def test_a_special_token_typed_into_a_completion_stays_text(client: openai.OpenAI, model: LoadedEngine) -> None:
    answer = client.completions.create(model="tiny", prompt="<|eot_id|>", max_tokens=1)
    assert answer.usage is not None and answer.usage.prompt_tokens > 5


def test_several_prompts_are_completed_in_order_with_echo_and_stream(client: openai.OpenAI) -> None:
    prompts = ["one two", "春天"]
    answer = client.completions.create(model="tiny", prompt=prompts, n=2, max_tokens=4, temperature=0, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith(prompts[choice.index // 2]) for choice in answer.choices] == [True] * 4
    texts = [""] * 4
    for chunk in client.completions.create(
        model="tiny", prompt=prompts, n=2, max_tokens=4, temperature=0, echo=True, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in answer.choices]


# --------------------------------------------------------------------------------------------------------- embeddings


def test_embeddings_have_length_one_and_equal_texts_equal_ones(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny", input=["春天", "翰林院在城东", "春天"])
    rows = np.array([row.embedding for row in answer.data])
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1], abs=1e-4)
    assert rows[0] == pytest.approx(rows[2]) and rows[0] @ rows[1] < 0.999
    plain = client.embeddings.create(model="tiny", input="春天", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(rows[0].tolist(), abs=1e-5)


@pytest.mark.parametrize(("texts", "param"), [("", "input"), (["春天", ""], "input.1")])
def test_an_empty_text_has_no_embedding(client: openai.OpenAI, texts: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError, match="the text is empty") as error:
        client.embeddings.create(model="tiny", input=texts)
    assert error.value.param == param


def test_both_engines_embed_alike(taught_model: Path, taught_gguf: Path) -> None:
    one, other = load_engine(taught_model), load_engine(taught_gguf, "F32")
    texts = [one.tokenizer.encode(text) for text in ("春天的时候院子里开满了花。" * 4, "Count")]
    rows = [opened.engine.embed(texts) for opened in (one, other)]
    one.engine.close()
    other.engine.close()
    assert rows[0] == pytest.approx(rows[1], abs=5e-3)


# --------------------------------------------------------------------------------------------- response formats


SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"town": {"enum": ["东", "西"]}, "year": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "year"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_an_answer_fits_the_schema(client: openai.OpenAI, temperature: float) -> None:
    response_format: ResponseFormatJSONSchema = {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=user_messages("?"),
        response_format=response_format,
        temperature=temperature,
        seed=3,
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert value["town"] in "东西" and 1 <= value["year"] <= 9 and set(value) == {"town", "year"}
    assert answer.choices[0].finish_reason == "stop"


def test_a_json_object_begins_as_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=user_messages("?"), response_format={"type": "json_object"}, max_tokens=30
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"type": "string", "pattern": "(?=a)"},
        {"$ref": "file:///etc/passwd"},
        {"enum": ["x" * 70_000]},
    ],
    ids=["type", "lookahead", "remote", "large"],
)
def test_a_schema_that_cannot_be_used_is_refused_soon(client: openai.OpenAI, schema: dict) -> None:
    response_format: ResponseFormatJSONSchema = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.with_options(timeout=300).chat.completions.create(
            model="tiny",
            messages=user_messages("?"),
            response_format=response_format,
            max_tokens=5,
        )
    assert caught.value.body["param"] == "response_format.json_schema.schema"  # type: ignore[index]


@pytest.mark.parametrize("pattern", ["(.{1,3000}x){1,3000}", "(a|aa|b*)*c{2000}", "(.*a.{400}){9}"])
def test_a_costly_pattern_costs_no_long_time(client: openai.OpenAI, pattern: str) -> None:
    response_format: ResponseFormatJSONSchema = {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "string", "pattern": pattern}},
    }
    with contextlib.suppress(openai.BadRequestError):
        client.with_options(timeout=300).chat.completions.create(
            model="tiny",
            messages=user_messages("?"),
            response_format=response_format,
            max_tokens=5,
        )


# ------------------------------------------------------------------------------------------ several models, other ways


def test_several_models_answer_by_their_names(opened: LoadedEngine) -> None:
    with run_server(opened, names=("small", "large")) as server:
        client = server.client()
        assert [model.id for model in client.models.list()] == ["small", "large"]
        for name in ("small", "large"):
            answer = client.chat.completions.create(model=name, messages=user_messages(NAME[0]))
            assert (answer.model, answer.choices[0].message.content) == (name, NAME[1])
        with pytest.raises(openai.NotFoundError, match="there are 'small', 'large'"):
            client.chat.completions.create(model="medium", messages=user_messages("?"))


def test_the_asynchronous_client_gets_the_same_whole_and_streamed(server: LiveServer) -> None:
    async def ask() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
            answer = await client.chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
            stream = await client.chat.completions.create(model="tiny", messages=user_messages(NAME[0]), stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return answer.choices[0].message.content, "".join(pieces)

    assert asyncio.run(ask()) == (NAME[1], NAME[1])


def test_the_plain_route_takes_a_history_or_a_prompt(server: LiveServer, opened: LoadedEngine) -> None:
    history = [
        {"role": "Human", "content": COUNT[0]},
        {"role": "Assistant", "content": COUNT[1]},
        {"role": "Human", "content": ENGLISH[0]},
    ]
    one = httpx.post(
        f"{server.address}/generate", json={"history": history[2:], "max_new_tokens": 30}, timeout=300
    ).json()
    assert (one["response"], one["status"]) == (ENGLISH[1], 200)
    assert (
        httpx.post(
            f"{server.address}/generate", json={"history": history, "max_new_tokens": 3}, timeout=300
        ).status_code
        == 200
    )
    raw = httpx.post(f"{server.address}/generate", json={"prompt": "one two", "max_tokens": 3}, timeout=300).json()
    assert raw["text"] == ["one two" + raw["response"]]
    streamed = httpx.post(
        f"{server.address}/generate", json={"prompt": "one two", "max_tokens": 3, "stream": True}, timeout=300
    )
    assert json.loads(streamed.content.split(b"\0")[-2])["text"] == raw["text"]
    wrong = httpx.post(f"{server.address}/generate", json={"prompt": "x", "history": history}, timeout=300)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "prompt")
    wrong = httpx.post(f"{server.address}/generate", json={"prompt": "x", "system_prompt": "y"}, timeout=300)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "system_prompt")


def test_metrics_count_requests_and_tokens_and_hold_no_text(server: LiveServer) -> None:
    answer = server.client().chat.completions.create(model="tiny", messages=user_messages(NAME[0]))
    assert answer.usage is not None
    text = httpx.get(f"{server.address}/metrics", timeout=300).text
    assert f'hanlin_generated_tokens_total{{model="tiny"}} {float(answer.usage.completion_tokens)}' in text
    assert 'hanlin_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'hanlin_answers_running{model="tiny"} 0.0' in text
    assert NAME[0] not in text and NAME[1] not in text
