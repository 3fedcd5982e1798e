"""Completions that score their prompt: `echo` with `logprobs`, over every engine that gives log probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine, load_engine
from live_server import LiveServer, run_server
from taught_model import LESSONS

TEXT = "翰林院在城东，the library"


@pytest.fixture(scope="module", params=["transformers", "llama_cpp", "process"])
def model(request: pytest.FixtureRequest, taught_model: Path, taught_gguf: Path) -> Iterator[LoadedEngine]:
    if request.param == "transformers":
        opened = load_engine(taught_model)
    else:
        opened = load_engine(taught_gguf, "F32", separate_process=request.param == "process")
    yield opened
    opened.engine.close()


@pytest.fixture(scope="module")
def server(model: LoadedEngine) -> Iterator[LiveServer]:
    with run_server(model) as live:
        yield live


def encode(model: LoadedEngine, text: str) -> list[int]:
    bos = model.tokenizer.bos_id
    return [*([bos] if model.tokenizer.adds_bos and bos is not None else []), *model.tokenizer.encode(text)]


def ask(server: LiveServer, prompt: Any = TEXT, **fields: Any) -> Any:
    fields = {"model": "tiny", "echo": True, "logprobs": 1, "max_tokens": 0, **fields}
    return server.client().completions.create(prompt=prompt, **fields)


def test_every_token_of_the_prompt_has_the_log_probability_that_the_engine_scores(
    server: LiveServer, model: LoadedEngine
) -> None:
    ids = encode(model, TEXT)
    answer = ask(server, logprobs=2)
    (choice,) = answer.choices
    logprobs = choice.logprobs
    scores = model.engine.score([(ids[:place], ids[place : place + 1]) for place in range(1, len(ids))])
    assert (choice.text, choice.finish_reason) == (TEXT, "length")
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == pytest.approx([score.logprob for score in scores], abs=2e-3)
    for score, value, top in zip(scores, logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
        assert len(top) <= 2 and (value == max(top.values())) == score.greedy
        assert sum(math.exp(other) for other in top.values()) <= 1.0001
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)
    assert [len(row) for row in (logprobs.tokens, logprobs.text_offset)] == [len(ids)] * 2
    for token_id, token, offset in zip(ids, logprobs.tokens, logprobs.text_offset, strict=True):
        is_text = token_id not in model.tokenizer.special_ids and not token.startswith("bytes:")
        assert not is_text or choice.text.startswith(token, offset)


def test_one_token_more_is_the_one_that_greedy_decoding_writes(server: LiveServer, model: LoadedEngine) -> None:
    written = server.client().completions.create(model="tiny", prompt=TEXT, max_tokens=1, temperature=0, logprobs=1)
    (choice,) = ask(server, max_tokens=1, temperature=0).choices
    assert choice.text == TEXT + written.choices[0].text
    assert len(choice.logprobs.tokens) == len(encode(model, TEXT)) + 1
    assert choice.logprobs.tokens[-1] in choice.logprobs.top_logprobs[-1]
    assert choice.logprobs.token_logprobs[-1] == max(choice.logprobs.top_logprobs[-1].values())


def test_the_token_that_ends_an_answer_has_an_entry_and_no_text(server: LiveServer, model: LoadedEngine) -> None:
    """Clients cut the last entry off, whatever it is."""
    template = model.load_template()
    question, answer = LESSONS[0]
    ids = [*template.render_request([Message("user", question)])[0], *model.tokenizer.encode(answer, continuation=True)]
    (choice,) = ask(server, ids, max_tokens=1).choices
    assert (choice.finish_reason, len(choice.logprobs.tokens)) == ("stop", len(ids) + 1)
    assert choice.text == model.tokenizer.decode(ids)


def test_tokens_are_named_by_their_ids_if_they_are_wanted_so(server: LiveServer, model: LoadedEngine) -> None:
    named = {"extra_body": {"return_tokens_as_token_ids": True}}
    (choice,), (plain,) = ask(server, **named).choices, ask(server).choices
    assert choice.logprobs.tokens == [f"token_id:{token_id}" for token_id in encode(model, TEXT)]
    assert all(name.startswith("token_id:") for top in choice.logprobs.top_logprobs[1:] for name in top)
    assert choice.logprobs.text_offset == plain.logprobs.text_offset
    (written,) = ask(server, echo=False, max_tokens=2, temperature=0, **named).choices
    assert all(name.startswith("token_id:") for name in written.logprobs.tokens)


def test_prompts_of_texts_and_of_ids_are_scored_alike_and_in_order(server: LiveServer, model: LoadedEngine) -> None:
    texts = [f"{index} 春天" for index in range(20)]
    from_texts, from_ids = ask(server, texts), ask(server, [encode(model, text) for text in texts])
    assert [choice.index for choice in from_texts.choices] == list(range(20))
    for text, one, other in zip(texts, from_texts.choices, from_ids.choices, strict=True):
        assert one.text.endswith(text)
        assert one.logprobs.token_logprobs[1:] == pytest.approx(other.logprobs.token_logprobs[1:], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 2}, "set max_tokens to 0 or 1"),
        ({"max_tokens": None}, "set max_tokens to 0 or 1"),
        ({"max_tokens": 1, "temperature": 0.7}, "temperature has no meaning"),
        ({"n": 2}, "n has no meaning"),
        ({"stop": ["。"]}, "stop has no meaning"),
        ({"logit_bias": {"3": 5}}, "logit_bias has no meaning"),
        ({"presence_penalty": 1.0}, "presence_penalty has no meaning"),
        ({"suffix": "x"}, "suffix has no meaning"),
        ({"stream": True}, "stream has no meaning"),
        ({"extra_body": {"guided_regex": "a"}}, "guided_regex has no meaning"),
        ({"prompt": [[1, 2**30]]}, "outside the model's vocabulary"),
        ({"prompt": "春天" * 1500}, "the model's context holds"),
        ({"prompt": ["春天" * 40] * 128, "logprobs": 20}, "send fewer prompts"),
        ({"echo": False}, "must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(server: LiveServer, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        ask(server, **fields)


def test_a_prompt_that_the_engine_cannot_score_is_refused_with_both_lengths(
    server: LiveServer, model: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VLLM writes a token behind whatever it scores."""
    monkeypatch.setattr(type(model.engine), "max_scored_length", property(lambda self: 3))
    with pytest.raises(openai.BadRequestError, match="4 tokens long, but at most 3 can be scored") as error:
        ask(server, prompt=[[3, 4, 5, 6]])
    assert (error.value.param, error.value.code) == ("prompt", "context_length_exceeded")


def test_an_engine_without_scores_says_so(
    server: LiveServer, model: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(requests: object) -> None:
        raise UserError("llama-server cannot score a given text", hint="use the engine llama_cpp")

    monkeypatch.setattr(model.engine, "score_prompts", refuse)
    with pytest.raises(openai.BadRequestError, match="cannot score a given text"):
        ask(server)
