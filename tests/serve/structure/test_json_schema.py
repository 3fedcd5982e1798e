"""Schemas as clients must not send them: each is compiled or rejected with a reason, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.serve.json_schema import SchemaError, embed_schema, rewrite_schema
from hanlin.tokenizer.tokenizer import Tokenizer

KEYWORDS = (
    *("properties", "required", "$ref", "anyOf", "oneOf", "allOf", "items", "additionalItems", "additionalProperties"),
    *("format", "enum", "const", "type", "$defs", "$id", "$anchor", "discriminator", "prefixItems", "not", "a", "b"),
)
ATOMS: list[Any] = [None, True, False, 0, 1.5, "a", "#", "#/$defs/a", "#a", "object", "string", [], {}, [["a"]], [{}]]
ANYTHING = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, min_size=1, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYWORDS), ANYTHING, min_size=1, max_size=4))
def test_whatever_stands_in_a_schema_is_rewritten_or_refused(schema: dict[str, Any]) -> None:
    try:
        rewrite_schema(schema)
        embed_schema(schema, {})
    except SchemaError as error:
        assert str(error)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": [{"a": 1}]},
        {"properties": 3},
        {"allOf": True},
        {"oneOf": 1},
        {"type": "string", "format": {"pattern": "x"}},
        {"type": [["string"]]},
        {"anyOf": [{"oneOf": [{"required": [["x"]]}, {"required": [[]]}]}]},
    ],
    ids=lambda schema: next(reversed(schema)),
)
def test_a_malformed_keyword_is_refused_by_the_field_that_holds_the_schema(
    schema: dict[str, Any], tiny_tokenizer: Path
) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    assert tokenizer.eos_id is not None
    compiler = GrammarCompiler([tokenizer.eos_id], tiny_tokenizer)
    with pytest.raises(ApiError) as refusal:
        compiler.compile_schema(schema, "response_format")
    assert (refusal.value.status, refusal.value.param) == (400, "response_format")


def test_alternatives_that_exclude_each_other_are_compared_up_to_a_bound() -> None:
    def alternatives(count: int) -> dict[str, Any]:
        kinds = [{"type": "object", "required": ["k"], "properties": {"k": {"const": n}}} for n in range(count)]
        return {"oneOf": kinds}

    assert "anyOf" in rewrite_schema(alternatives(150))
    assert "oneOf" in rewrite_schema(alternatives(151))  # the grammar engine refuses it by name
