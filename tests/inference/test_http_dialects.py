"""What vLLM and llama-server are sent for a request, and what is refused because they cannot do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.inference.backends.http.llama_server import LlamaServerDialect
from hanlin.inference.backends.http.vllm import VllmDialect
from hanlin.inference.protocol import GenerationRequest, SamplingParams


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
