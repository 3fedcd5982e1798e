"""Answers that must fit a schema, pattern, choice or grammar, by every field that clients of other servers use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from hanlin.serve.api.tool_calls import build_call_schema
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.serve.json_schema import SchemaError, rewrite_schema
from hanlin.tokenizer.tokenizer import Tokenizer

TOKENIZERS: dict[Path, Tokenizer] = {}
ITEM = {"type": "object", "properties": {"号": {"type": "integer", "maximum": 9}}, "required": ["号"]}


def with_reference(reference: str, **definitions: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"单": {"$ref": reference}}, "required": ["单"], **definitions}


REFERENCES: dict[str, dict[str, Any]] = {
    "local": with_reference("#/$defs/Item", **{"$defs": {"Item": ITEM}}),
    "older keyword": with_reference("#/definitions/Item", definitions={"Item": ITEM}),
    "chinese": with_reference("#/$defs/订单", **{"$defs": {"订单": ITEM}}),
    "chinese encoded": with_reference("#/$defs/%E8%AE%A2%E5%8D%95", **{"$defs": {"订单": ITEM}}),
    "space": with_reference("#/$defs/My Item", **{"$defs": {"My Item": ITEM}}),
    "space encoded": with_reference("#/$defs/My%20Item", **{"$defs": {"My Item": ITEM}}),
    "percent sign": with_reference("#/$defs/50%", **{"$defs": {"50%": ITEM}}),
    "slash": with_reference("#/$defs/a~1b", **{"$defs": {"a/b": ITEM}}),
    "nested": with_reference("#/$defs/A/$defs/B", **{"$defs": {"A": {"$defs": {"B": ITEM}}}}),
    "chain": with_reference("#/$defs/A", **{"$defs": {"A": {"$ref": "#/$defs/B"}, "B": ITEM}}),
    "in an array": with_reference("#/$defs/A/anyOf/1", **{"$defs": {"A": {"anyOf": [True, ITEM]}}}),
    "anchor": with_reference("#item", **{"$defs": {"Item": {**ITEM, "$anchor": "item"}}}),
    "anchor, not that of a value": with_reference(
        "#item", **{"$defs": {"A": {"enum": [{"$anchor": "item"}]}, "enum": {**ITEM, "$anchor": "item"}}}
    ),
    "own address": with_reference("x:y#/$defs/Item", **{"$defs": {"Item": ITEM}, "$id": "x:y"}),
}


@pytest.mark.parametrize("schema", REFERENCES.values(), ids=REFERENCES)
def test_a_reference_is_found_however_it_is_written(schema: dict[str, Any], compiler: GrammarCompiler) -> None:
    assert accepts(compiler, schema, '{"单": {"号": 3}}')
    assert not accepts(compiler, schema, '{"单": {"号": "3"}}')
    calls = build_call_schema([{"name": "a", "parameters": schema}, {"name": "b", "parameters": REFERENCES["local"]}])
    assert accepts(compiler, calls, '{"name": "a", "parameters": {"单": {"号": 3}}}')
    assert not accepts(compiler, calls, '{"name": "a", "parameters": {"单": 3}}')
    jsonschema.Draft202012Validator.check_schema(rewrite_schema(schema))


def test_a_recursive_schema_stays_recursive_in_a_call(compiler: GrammarCompiler) -> None:
    tree = {"type": "object", "properties": {"子": {"type": "array", "items": {"$ref": "#"}}}, "required": ["子"]}
    other = {
        "$ref": "#/$defs/节点",
        "$defs": {
            "节点": {"type": "object", "properties": {"下": {"anyOf": [{"$ref": "#/$defs/节点"}, {"type": "null"}]}}}
        },
    }
    calls = build_call_schema([{"name": "树", "parameters": tree}, {"name": "链", "parameters": other}])
    assert accepts(compiler, calls, '{"name": "树", "parameters": {"子": [{"子": []}]}}')
    assert not accepts(compiler, calls, '{"name": "树", "parameters": {"子": [{"下": null}]}}')
    assert accepts(compiler, calls, '{"name": "链", "parameters": {"下": {"下": null}}}')


def test_a_reference_to_nothing_is_an_error() -> None:
    with pytest.raises(SchemaError, match="#/\\$defs/无"):
        rewrite_schema({"$ref": "#/$defs/无"})
    with pytest.raises(ApiError, match="points to nothing") as caught:
        build_call_schema([{"name": "a", "parameters": {"$ref": "#/x"}}])
    assert caught.value.param == "tools.0.function.parameters"


@pytest.mark.parametrize(
    ("schema", "fits", "fits_not"),
    [
        ({"type": "object", "properties": {"a": {"type": "null"}}}, '{"a": null}', '{"b": null}'),
        ({"properties": {"a": {"type": "null"}}}, '{"a": null}', '"a"'),
        ({"type": "object", "properties": {}, "additionalProperties": True}, '{"b": 1}', "[]"),
        ({"type": "object"}, '{"b": 1}', "[]"),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"properties": {"b": {}}}]},
            '{"a": null, "b": 1}',
            '{"a": 1}',
        ),
        ({"type": "string", "format": "date"}, '"2026-01-31"', '"31.1."'),
        ({"type": "string", "format": "phone"}, '"110"', "110"),
        ({"type": "array", "items": [{"type": "null"}], "additionalItems": False}, "[null]", "[null, null]"),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"k": {"const": kind}}, "required": ["k"]} for kind in ("甲", "乙")
                ]
            },
            '{"k": "乙"}',
            '{"k": "丙"}',
        ),
        ({"type": "object", "properties": {"$ref": {"type": "null"}}}, '{"$ref": null}', '{"$ref": 1}'),
        ({"const": {"properties": {"a": 1}}}, '{"properties": {"a": 1}}', '{"properties": {"a": 2}}'),
    ],
)
def test_a_keyword_means_what_json_schema_says(
    compiler: GrammarCompiler, schema: dict[str, Any], fits: str, fits_not: str
) -> None:
    assert accepts(compiler, schema, fits) and not accepts(compiler, schema, fits_not)


def test_white_space_is_at_most_one_space(compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "null"}}}}
    for text in ('{"a":[null,null]}', '{ "a": [ null , null ] }', '{"a": [null, null]}'):
        assert accepts(compiler, schema, text)
    for text in ('{  "a":[null]}', '{\n"a":[null]}', ' {"a": [  null]}'):
        assert not accepts(compiler, schema, text)


def test_a_choice_and_a_grammar_are_taken_literally(compiler: GrammarCompiler) -> None:
    odd = ["是.", "a|b", "(", '"', "\\n", "a/b", "换\n行"]
    constraint = compiler.compile_choice(odd, "guided_choice")
    for text in odd:
        assert matches(compiler, constraint.spec, text), text
    assert not matches(compiler, constraint.spec, "是x")
    for grammar in ('root ::= "是" | "否"', 'start: "是" | "否"'):
        assert compiler.compile_grammar(grammar, "grammar").spec == {"grammar": grammar}
    for grammar in ("root ::= (", "", "x", 'bad ::= "x"'):
        with pytest.raises(ApiError, match="cannot be used"):
            compiler.compile_grammar(grammar, "grammar")


def test_what_cannot_be_used_is_refused_with_its_reason(compiler: GrammarCompiler) -> None:
    with pytest.raises(ApiError, match=r"\(\?=x\)x.*look-around, including look-ahead.*not supported"):
        compiler.compile_regex("(?=x)x", "guided_regex")
    with pytest.raises(ApiError, match="cannot be used: no text fits it"):
        compiler.compile_regex("[a&&b]", "guided_regex")
    with pytest.raises(ApiError, match="cannot be used: line 2 of the grammar: `\\)` is missing"):
        compiler.compile_grammar('root ::= a\na ::= ("x"', "grammar")


# ------------------------------------------------------------------------------------------------------- over HTTP

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"镇": {"enum": ["东", "西"]}}, "required": ["镇"]}
FITTING = r'\{ ?"镇" ?: ?"[东西]" ?\}'


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_choice": ["是", "否"]}, "是|否"),
        ({"structured_outputs": {"choice": ["是", "否"]}}, "是|否"),
        ({"guided_regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, "[0-9]{3}"),
        ({"regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"guided_json": SCHEMA}, FITTING),
        ({"guided_json": json.dumps(SCHEMA)}, FITTING),
        ({"structured_outputs": {"json": SCHEMA}}, FITTING),
        ({"json_schema": SCHEMA}, FITTING),
        ({"json_schema": json.dumps(SCHEMA)}, FITTING),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, FITTING),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, FITTING),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, FITTING),
        ({"grammar": 'root ::= "是" | "否"'}, "是|否"),
        ({"guided_grammar": 'start: "是" | "否"'}, "是|否"),
        ({"structured_outputs": {"grammar": 'root ::= "是"'}}, "是"),
        ({"ebnf": 'root ::= "是"'}, "是"),
    ],
    ids=str,
)
def test_every_field_that_constrains_is_honored(server: Any, fields: dict[str, Any], pattern: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 60, **fields}
    answer = httpx.post(server.address + CHAT, json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert re.fullmatch(pattern, choice["message"]["content"]) and choice["finish_reason"] == "stop"


def test_two_fields_that_constrain_are_refused(server: Any) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "grammar": 'root ::= "a"', "regex": "b"}
    answer = httpx.post(server.address + CHAT, json=body, timeout=300)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grammar")


def test_ollamas_format_takes_references_with_chinese_names(server: Any) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "?"}],
        "stream": False,
        "format": REFERENCES["chinese"],
        "options": {"num_predict": 60},
    }
    answer = httpx.post(f"{server.address}/api/chat", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    jsonschema.validate(json.loads(answer.json()["message"]["content"]), REFERENCES["chinese"])


@pytest.fixture(scope="module")
def compiler(taught_model: Path) -> Iterator[GrammarCompiler]:
    tokenizer = TOKENIZERS[taught_model] = Tokenizer.load(taught_model)
    assert tokenizer.eos_id is not None
    yield GrammarCompiler((tokenizer.eos_id,), taught_model)


def accepts(compiler: GrammarCompiler, schema: dict[str, Any], text: str) -> bool:
    return matches(compiler, {"json": schema}, text)


def matches(compiler: GrammarCompiler, spec: Any, text: str) -> bool:
    """Whether the constraint of a spec lets `text` be written, and end there."""
    constraint: Any
    if "json" in spec:
        constraint = compiler.compile_schema(spec["json"], "x")
    else:
        constraint = compiler.compile_choice(spec["choice"], "x")
    tokenizer = TOKENIZERS[compiler.folder]
    for token_id in tokenizer.encode(text, continuation=True):
        if not constraint.allowed_tokens()[token_id]:
            return False
        constraint.accept_token(token_id)
    return bool(constraint.allowed_tokens()[compiler.stop_ids[0]])
