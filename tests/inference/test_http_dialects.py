"""What vLLM and llama-server are sent for a request, and what is refused because they cannot do it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.inference.backends.http.client import HttpStream
from hanlin.inference.backends.http.llama_server import LlamaServerDialect
from hanlin.inference.backends.http.vllm import VllmDialect
from hanlin.inference.protocol import GenerationRequest, PromptScoreRequest, SamplingParams, TokenLogprobs


class FixedConstraint:
    """A constraint that only says what it is."""

    failed = ""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec

    def is_ready(self, seconds: float = 0.0) -> bool:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError

    def allowed_tokens(self) -> NDArray[np.bool_]:
        raise AssertionError

    def accept_token(self, token_id: int) -> None:
        raise AssertionError


def request(spec: Mapping[str, Any] | None = None, **sampling: Any) -> GenerationRequest:
    constraint = FixedConstraint(spec) if spec is not None else None
    return GenerationRequest((1, 2), (3,), SamplingParams(**sampling), constraint)


@pytest.mark.parametrize("spec", [{"json": {"type": "object"}}, {"regex": "a"}, {"choice": ["是"]}, {"grammar": "x"}])
def test_vllm_gets_every_constraint_as_it_is(spec: dict[str, Any]) -> None:
    assert VllmDialect("m").request_body(request(spec), 9)["structured_outputs"] == spec


def test_llama_server_gets_schemas_choices_and_gbnf() -> None:
    dialect = LlamaServerDialect(512)
    assert dialect.request_body(request({"json": {"type": "null"}}), 9)["json_schema"] == {"type": "null"}
    assert dialect.request_body(request({"choice": ["是", '"']}), 9)["grammar"] == 'root ::= "是" | "\\""'
    assert dialect.request_body(request({"grammar": 'root ::= "a"'}), 9)["grammar"] == 'root ::= "a"'
    for spec in ({"regex": "a"}, {"grammar": 'start: "a"'}):
        with pytest.raises(UserError, match="GBNF"):
            dialect.request_body(request(spec), 9)


def test_a_field_that_an_engine_has_is_sent_and_another_refused() -> None:
    assert VllmDialect("m").request_body(request(min_tokens=20), 9)["min_tokens"] == 9
    for fields in ({"typical_p": 0.5}, {"repeat_last_n": 64}):
        with pytest.raises(UserError, match="typical_p"):
            VllmDialect("m").request_body(request(**fields), 9)
    body = LlamaServerDialect(512).request_body(request(typical_p=0.5, repeat_last_n=64), 9)
    assert (body["typical_p"], body["repeat_last_n"]) == (0.5, 64)
    assert LlamaServerDialect(512).request_body(request(), 9)["repeat_last_n"] == 512
    with pytest.raises(UserError, match="min_tokens"):
        LlamaServerDialect(512).request_body(request(min_tokens=2), 9)


def test_llama_server_is_told_the_order_of_the_sampler() -> None:
    dialect = LlamaServerDialect(512)
    plain = dialect.request_body(request(temperature=1.0), 9)["samplers"]
    typical = dialect.request_body(request(temperature=1.0, typical_p=0.9), 9)["samplers"]
    assert plain.index("temperature") < plain.index("top_k") and "typ_p" not in plain
    assert typical == ["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"]


def test_vllm_scores_a_prompt_and_tells_the_next_token() -> None:
    asked: list[dict[str, Any]] = []

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        rows = [
            None,
            {"7": {"logprob": -0.5, "rank": 1}, "5": {"logprob": -2.0, "rank": 3}},
            {"6": {"logprob": -0.1, "rank": 1}},
        ]
        following = {"tokens": ["token_id:8"], "token_logprobs": [-0.2], "top_logprobs": [{"token_id:8": -0.2}]}
        return {"choices": [{"prompt_logprobs": rows, "logprobs": following}]}

    score = VllmDialect("m").score_prompt(PromptScoreRequest((4, 5, 6), 1, "style"), post)
    assert score.logprobs == (TokenLogprobs(-2.0, ((7, -0.5),)), TokenLogprobs(-0.1, ((6, -0.1),)))
    assert (score.next_id, score.next_logprobs) == (8, TokenLogprobs(-0.2, ((8, -0.2),)))
    assert (asked[0]["model"], asked[0]["prompt"], asked[0]["prompt_logprobs"]) == ("style", [4, 5, 6], 1)


def test_llama_server_scores_nothing() -> None:
    with pytest.raises(UserError, match="cannot score a given text"):
        LlamaServerDialect(512).score_prompt(PromptScoreRequest((1, 2)), lambda path, body: {})


def test_of_vllms_likeliest_tokens_no_more_are_told_than_were_asked_for() -> None:
    """It adds the chosen token if that is none of them."""

    class Events:
        def events(self) -> Iterator[str]:
            likeliest = {"token_id:7": -0.5, "token_id:8": -1.0, "token_id:9": -5.0}
            logprobs = {"token_logprobs": [-5.0], "top_logprobs": [likeliest]}
            yield json.dumps({"choices": [{"finish_reason": "length", "token_ids": [9], "logprobs": logprobs}]})

        def close(self) -> None: ...

    class Released:
        def _release(self, replica: object, reply: object) -> None: ...

    reply, engine = Events(), Released()
    asked = request(top_logprobs=2)
    stream = HttpStream(engine, VllmDialect("m"), asked, 1, None, reply)  # type: ignore[arg-type]
    assert list(stream) == [9]
    assert stream.logprobs == [TokenLogprobs(-5.0, ((7, -0.5), (8, -1.0)))]
