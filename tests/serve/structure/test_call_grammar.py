"""The grammar of answers with calls: what a model may write, token by token, in the form of each template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hanlin.chat.call_form import CallForm, find_call_form
from hanlin.chat.packaged import read_packaged_template
from hanlin.chat.template import ChatTemplate
from hanlin.serve.api.structure.output_format import JsonSchemaFormat, OutputFormat, choose_answer_format
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.serve.registry import Thought
from hanlin.tokenizer.tokenizer import Tokenizer

FORMS = {
    "llama3.1": CallForm(False, "parameters", "", "; ", ""),
    "llama3.2": CallForm(True, "", "[", ", ", "]"),
    "hermes": CallForm(False, "arguments", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
}
FORMS["qwen3"] = FORMS["hermes"]
TOWN = {
    "type": "object",
    "properties": {"town": {"enum": ["东", "西"]}, "wet": {"type": "boolean"}, "days": {"$ref": "#/$defs/Days"}},
    "required": ["town"],
    "$defs": {"Days": {"type": "array", "items": {"type": "integer"}}},
}
QUERY = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": TOWN}},
    {"type": "function", "function": {"name": "查询", "parameters": QUERY}},
]
CALLS = {
    "llama3.1": (
        '{"name": "weather", "parameters": {"town": "东"}}',
        '{"name": "查询", "parameters": {"q": "a{b"}}',
        '{"name": "weather", "parameters": {"town": "北"}}',
        '{"name": "weather", "parameters": {"town": "东", "x": 1}}',
    ),
    "llama3.2": (
        '[weather(town="东", wet=True, days=[1, 2])]',
        '[查询(q="a)b")]',
        '[weather(town="北")]',
        '[weather(town="东", x=1)]',
    ),
    "hermes": (
        '<tool_call>\n{"name": "weather", "arguments": {"town": "东", "days": [3]}}\n</tool_call>',
        '<tool_call>\n{"name": "查询", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {"town": 1}}\n</tool_call>',
        '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
    ),
}
"""In the form of each template: two calls that fit, and two that do not."""


@pytest.fixture(scope="module")
def model(tiny_tokenizer: Path) -> Iterator[Any]:
    """What a format asks of a model; `call_form` is set by `allows`."""
    tokenizer = Tokenizer.load(tiny_tokenizer)
    compiler = GrammarCompiler((tokenizer.eos_id or 0,), tiny_tokenizer)
    yield SimpleNamespace(grammar_compiler=compiler, tokenizer=tokenizer, has_own_grammars=False)
    compiler.close()


def allows(
    model: Any, answer_format: OutputFormat | None, form: CallForm, text: str, thought: Thought = "none"
) -> bool:
    """Whether an answer may be this text, and end there."""
    assert answer_format is not None
    model.call_form = form
    constraint: Any = answer_format(model, thought)
    for token_id in model.tokenizer.encode(text, continuation=True):
        if not constraint.allowed_tokens()[token_id]:
            return False
        constraint.accept_token(token_id)
    assert not constraint.failed
    return bool(constraint.allowed_tokens()[model.tokenizer.eos_id])


def test_the_form_of_calls_is_read_off_the_template(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    for name, form in FORMS.items():
        assert find_call_form(ChatTemplate(read_packaged_template(name), tokenizer, name)) == form, name
    assert find_call_form(ChatTemplate(read_packaged_template("plain"), tokenizer, "plain")) == CallForm()


def join_calls(form: CallForm, calls: Sequence[str]) -> str:
    inner = [call.removeprefix(form.begin).removesuffix(form.end) for call in calls]
    return form.begin + str(form.between).join(inner) + form.end


@pytest.mark.parametrize("name", CALLS)
def test_demanded_calls_are_one_or_several_in_the_form_of_the_template(model: Any, name: str) -> None:
    form = FORMS[name]
    several = choose_answer_format((), None, TOOLS, TOOLS)
    one = choose_answer_format((), None, TOOLS, TOOLS, max_calls=1)
    first, second, *wrong = CALLS[name]
    two = join_calls(form, [first, second])
    for text in (first, second, two, join_calls(form, [first] * 16)):
        assert allows(model, several, form, text), text
    assert allows(model, one, form, second) and not allows(model, one, form, two)
    assert not allows(model, several, form, join_calls(form, [first] * 17))
    for text in (*wrong, "好", "", first + "好", join_calls(form, [first, wrong[0]])):
        assert not allows(model, several, form, text), text
    assert not allows(model, several, form._replace(between=None), two)
    thinking = f"想{first}</think>\n\n{first}"
    assert allows(model, several, form, thinking, "open") and not allows(model, several, form, first, "open")
    for text in (f"<think>\n{thinking}", first):
        assert allows(model, several, form, text, "free")


@pytest.mark.parametrize("name", CALLS)
def test_calls_or_a_format_are_either(model: Any, name: str) -> None:
    form = FORMS[name]
    answer = {"type": "object", "properties": {"name": {"type": "integer"}}, "required": ["name"]}
    both = choose_answer_format((), JsonSchemaFormat(answer, "text.format.schema", False), TOOLS)
    first, _, *wrong = CALLS[name]
    for text in (first, '{"name": 3}', '{"name":3}'):
        assert allows(model, both, form, text), text
        assert allows(model, both, form, f"想</think>\n{text}", "open")
    for text in (*wrong, '{"name": "3"}', "好"):
        assert not allows(model, both, form, text), text


@pytest.mark.parametrize("name", CALLS)
def test_text_is_free_until_a_call_begins_and_then_held_to_its_schema(model: Any, name: str) -> None:
    form = FORMS[name]
    strict = choose_answer_format((), None, TOOLS, (), {"weather"})
    first, second, *wrong = CALLS[name]
    free = ["", "好。", '{"a": [1]} <b> [x] `y`', '{"name": "other"', "<tool", "<think>\n想\n</think>\n\n好", "```x"]
    called = [first, f"好。\n\n{first}", f"{first}\n{second} 然后 {first}", f"```\n{wrong[0]}\n```{first}"]
    for text in (*free, *called):
        assert allows(model, strict, form, text), text
    for text in (*wrong, f"好。{wrong[0]}", f"{first}; {wrong[0]}", f"```\n```{wrong[0]}", first[:-14]):
        assert not allows(model, strict, form, text), text
    assert allows(model, strict, form, f"{wrong[0]}</think>{first}", "open")
    assert not allows(model, strict, form, f"想</think>{wrong[0]}", "open")


def test_bare_json_is_held_under_every_template_and_so_are_other_spellings(model: Any) -> None:
    strict = choose_answer_format((), None, TOOLS, (), {"weather"})
    for form in FORMS.values():
        for head in ('{"name":"weather","arguments":', '{ "type": "function", "name" : "weather", "parameters" : '):
            assert allows(model, strict, form, f'好 {head}{{"town":"西"}} }}')
            assert not allows(model, strict, form, f'好 {head}{{"town":"北"}} }}')
        assert allows(model, strict, form, '{"name": "查询", "parameters": {"anything": [1, {"a": 2}]}}')


@pytest.mark.parametrize("name", CALLS)
def test_without_parallel_calls_an_answer_ends_after_its_first(model: Any, name: str) -> None:
    form = FORMS[name]
    one = choose_answer_format((), None, TOOLS, (), {"weather"}, max_calls=1)
    first, second, *_ = CALLS[name]
    for text in (first, f"好。{first}", "好", f"```\n{first}\n```{first}"):
        assert allows(model, one, form, text), text
    for text in (join_calls(form, [first, second]), f"{first}\n{second}", f"{first} 好"):
        assert not allows(model, one, form, text), text


def test_a_tool_that_is_not_strict_may_be_called_with_anything_in_a_list(model: Any) -> None:
    strict = choose_answer_format((), None, TOOLS, (), {"weather"})
    text = '[查询(q="a)]", 甲=f(1, [2]), {"b": \'c\'}), weather(town="西")]'
    assert allows(model, strict, FORMS["llama3.2"], text)
    assert not allows(model, strict, FORMS["llama3.2"], text.replace("西", "北"))


def test_a_schema_that_keyword_arguments_cannot_obey_is_refused_or_called_in_json(model: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"anyOf": [QUERY]}}}]
    with pytest.raises(ApiError, match="cannot be held") as caught:
        allows(model, choose_answer_format((), None, tools, (), {"f"}), FORMS["llama3.2"], "")
    assert caught.value.param == "tools.0.function.strict"
    demanded = choose_answer_format((), None, tools, tools)
    assert allows(model, demanded, FORMS["llama3.2"], '{"name": "f", "parameters": {"q": "东"}}')


@pytest.mark.parametrize("name", CALLS)
def test_names_may_be_alike_odd_or_the_same_and_other_tools_large(model: Any, name: str) -> None:
    large = {"type": "object", "properties": {f"p{index}": {"description": "长" * 900} for index in range(90)}}
    odd = ["weather_now", 'a/b"[c]{2}\\d']
    tools = [
        *TOOLS,
        TOOLS[0],
        *({"type": "function", "function": {"name": other, "parameters": large}} for other in odd),
    ]
    strict = choose_answer_format((), None, tools, (), {"weather"})
    form = FORMS[name]
    first, second, *wrong = CALLS[name]
    assert allows(model, strict, form, first + second) and not allows(model, strict, form, wrong[0])
    for other in odd:
        call = f'{{"name": {json.dumps(other)}, "parameters": {{"p1": 1}}}}'
        assert allows(model, strict, form, call) and not allows(model, strict, form, call[:-2])


def test_nothing_is_held_without_a_strict_tool_or_a_demand() -> None:
    assert choose_answer_format((), None, TOOLS) is None
    assert choose_answer_format((), None, TOOLS, (), {"other"}) is None


@pytest.mark.parametrize("kind", ["regex", "choice", "grammar"])
def test_a_thought_comes_before_every_kind_of_format(model: Any, kind: Any) -> None:
    value = {"regex": "是|否", "choice": ["是", "否"], "grammar": 'root ::= "是" | "否"'}[kind]
    answer_format = OutputFormat(kind, value, "x")
    assert allows(model, answer_format, CallForm(), "想\n</think>\n\n是", "open")
    assert allows(model, answer_format, CallForm(), "<think>想</think>否", "free")
    assert allows(model, answer_format, CallForm(), "否", "free")
    assert not allows(model, answer_format, CallForm(), "想</think>好", "open")
