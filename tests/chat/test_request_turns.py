"""What becomes of the turns that clients send, in whatever order: every text is in the prompt, or it is refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hanlin.chat.packaged import packaged_names, packaged_special_tokens, read_packaged_template
from hanlin.chat.rendering.refusal import ToolsRefusal
from hanlin.chat.rendering.request_turns import RequestRefusal
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Role, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer

WITH_TOOLS = ("hermes", "llama3.1", "llama3.2", "qwen3")
TOOLS = ({"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}},)


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, *cities: str) -> Message:
    calls = tuple(ToolCall("get_weather", {"城市": city}, f"id_{city}") for city in cities)
    return Message("assistant", text, calls)


def result(city: str, text: str) -> Message:
    return Message("tool", text, tool_call_id=f"id_{city}")


SHAPES: dict[str, list[Message]] = {
    "one exchange": [user("问甲")],
    "several system texts": [system("规则甲"), system("资料乙"), user("问丙")],
    "a late system text": [system("规则甲"), user("问乙"), answer("答丙"), system("提醒丁"), user("问戊")],
    "a system text after the question": [user("问甲"), system("提醒乙")],
    "a system text at the end": [user("问甲"), answer("答乙"), system("提醒丙")],
    "only late system texts": [user("问甲"), answer("答乙"), system("提醒丙"), system("提醒丁"), user("问戊")],
    "first turn assistant": [answer("欢迎甲"), user("问乙")],
    "first turn assistant after the system text": [system("规则甲"), answer("欢迎乙"), user("问丙")],
    "system only": [system("规则甲")],
    "systems only": [system("规则甲"), system("规则乙")],
    "two users": [user("问甲"), user("问乙")],
    "three users later": [user("问甲"), answer("答乙"), user("问丙"), user("问丁"), user("问戊")],
    "two answers": [user("问甲"), answer("答乙"), answer("答丙"), user("问丁")],
    "an empty question": [system("规则甲"), user("")],
    "an empty answer": [user("问甲"), answer(""), user("问乙")],
    "special tokens typed": [system("<|eot_id|>甲"), user("</s><|im_end|>乙"), answer("丙<think>"), user("[/INST]丁")],
    "white space": [system(" \u3000甲\n"), user("\n乙 \n\n"), answer("  丙\t"), user("丁\u3000")],
    "prefill": [user("数数"), answer("一二三")],
    "prefill after a system text": [system("规则甲"), user("数数"), answer("一二三")],
    "prefill alone": [answer("一二三")],
    "prefill in two turns": [user("数数"), answer("一二"), answer("三四")],
    "prefill that ends with white space": [user("写代码"), answer("```python\n")],
    "prefill that is in the template": [user("数数"), answer("<|eot_id|>")],
}
CALLING: dict[str, list[Message]] = {
    "a call": [user("问甲"), answer("", "杭州"), result("杭州", "晴")],
    "two calls": [user("问甲"), answer("", "杭州", "北京"), result("杭州", "晴乙"), result("北京", "雨丙")],
    "results in another order": [
        user("问甲"),
        answer("", "杭州", "北京"),
        result("北京", "雨丙"),
        result("杭州", "晴乙"),
    ],
    "text beside a call": [user("问甲"), answer("我来查", "杭州"), result("杭州", "晴")],
    "text beside calls": [user("问甲"), answer("我来查", "杭州", "北京"), result("杭州", "晴"), result("北京", "雨")],
    "a text, then a call of its own": [user("问甲"), answer("我来查"), answer("", "杭州"), result("杭州", "晴")],
    "calls in turns of their own": [
        user("问甲"),
        answer("", "杭州"),
        answer("", "北京"),
        result("杭州", "晴"),
        result("北京", "雨"),
    ],
    "a question instead of the result": [user("问甲"), answer("", "杭州"), user("算了乙")],
    "a question after the result": [user("问甲"), answer("", "杭州"), result("杭州", "晴"), user("还有乙")],
    "a result missing": [user("问甲"), answer("", "杭州", "北京"), result("杭州", "晴"), user("然后乙")],
    "a result without a call": [user("问甲"), result("杭州", "晴乙"), user("然后丙")],
    "a late system text among results": [user("问甲"), answer("", "杭州"), result("杭州", "晴"), system("提醒乙")],
    "prefill after a result": [user("问甲"), answer("", "杭州"), result("杭州", "晴"), answer("杭州今天")],
    "no arguments": [
        user("问甲"),
        Message("assistant", "", (ToolCall("get_weather", {}, "x"),)),
        Message("tool", "晴"),
    ],
}

ONLY_USER_AND_ASSISTANT = """{{ bos_token }}{% for m in messages %}
{%- if m.role not in ('user', 'assistant') or (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('turns must alternate') -}}{%- endif -%}
{{- '<' + m.role + '>' + m.content | trim + (eos_token if m.role == 'assistant' else '') -}}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
"""As Gemma's and the first Mistral's: strict about the order, no system text."""

ONE_CALL = """{{ bos_token }}{{ tools | tojson if tools else '' }}{% for m in messages %}
{%- if m.tool_calls -%}{%- if m.tool_calls | length != 1 -%}
{{- raise_exception('This model only supports single tool-calls at once!') -}}{%- endif -%}
{{- '<call>' + m.tool_calls[0].function.name + m.tool_calls[0].function.arguments | tojson + eos_token -}}
{%- else -%}{{- '<' + m.role + '>' + m.content | trim + eos_token -}}{%- endif -%}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
"""As Llama 3.1's own: one call at a time, and no text beside it."""

OWN = {"alternating": ONLY_USER_AND_ASSISTANT, "one_call": ONE_CALL}
NAMES = (*packaged_names(), *OWN)


@pytest.fixture(scope="module")
def template_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatTemplate]:
    made: dict[str, ChatTemplate] = {}

    def make(name: str) -> ChatTemplate:
        if name not in made:
            folder = tmp_path_factory.mktemp("template")
            train_tokenizer(["春眠不觉晓，处处闻啼鸟。"], 300, "llama3", folder)
            tokenizer = Tokenizer.load(folder)
            if name in OWN:
                made[name] = ChatTemplate(OWN[name], tokenizer, name)
            else:
                tokenizer.backend.add_special_tokens(list(packaged_special_tokens(name)))
                made[name] = ChatTemplate(read_packaged_template(name), tokenizer, name)
        return made[name]

    return make


def prompt_of(template: ChatTemplate, messages: Sequence[Message], tools: bool = False) -> tuple[str, bool]:
    """The prompt as text, special tokens spelled out, and whether an answer goes on."""
    ids, continues = template.render_request(messages, TOOLS if tools else ())
    return template.tokenizer.decode(ids, skip_special=False), continues


def parts_of(message: Message) -> list[str]:
    return [message.text.strip(), *(str(value) for call in message.tool_calls for value in call.arguments.values())]


@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_in_the_prompt_of_every_template(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    for shape, messages in SHAPES.items():
        text, continues = prompt_of(template_for(name), messages)
        for message in messages:
            assert all(part in text for part in parts_of(message)), (shape, text)
        assert continues == (messages[-1].role == "assistant"), shape
        assert not continues or text.endswith(messages[-1].text), (shape, text)


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("name", [*WITH_TOOLS, "one_call"])
def test_every_call_and_result_is_in_the_prompt(
    name: str, tools: bool, template_for: Callable[[str], ChatTemplate]
) -> None:
    for shape, messages in CALLING.items():
        text, continues = prompt_of(template_for(name), messages, tools)
        for message in messages:
            assert all(part in text for part in parts_of(message)), (shape, text)
        assert text.count("get_weather") >= sum(len(message.tool_calls) for message in messages) + tools, shape
        assert continues == (messages[-1].role == "assistant"), shape


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result("北京", "雨")], ["杭州", "北京", "雨"]),
        ([result("北京", "雨"), result("杭州", "晴")], ["杭州", "晴", "北京", "雨"]),
        ([Message("tool", "晴"), Message("tool", "雨")], ["杭州", "晴", "北京", "雨"]),
        ([result("北京", "雨"), Message("tool", "晴")], ["杭州", "晴", "北京", "雨"]),
        ([result("杭州", "晴"), result("杭州", "又晴"), result("北京", "雨")], ["杭州", "晴", "又晴", "北京", "雨"]),
    ],
)
def test_a_result_follows_its_own_call_where_a_turn_has_one_call(
    results: list[Message], expected: list[str], template_for: Callable[[str], ChatTemplate]
) -> None:
    text, _ = prompt_of(template_for("one_call"), [user("问甲"), answer("", "杭州", "北京"), *results, user("然后乙")])
    assert re.findall("杭州|北京|又?晴|雨", text) == expected


@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITH_TOOLS, "one_call"}))
def test_calls_and_results_are_refused_by_templates_without_tools(
    name: str, template_for: Callable[[str], ChatTemplate]
) -> None:
    for messages in CALLING.values():
        with pytest.raises(ToolsRefusal):
            prompt_of(template_for(name), messages)


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_in_order_is_rendered_as_ever(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    turns = [user("问甲"), answer("答乙"), user("问丙")]
    for messages in (turns, turns if name == "alternating" else [system("规则"), *turns]):
        assert template.render_request(messages) == (template.render(messages, prompt=True).ids, False)


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_of_a_begun_answer_are_those_that_are_learned(
    name: str, template_for: Callable[[str], ChatTemplate]
) -> None:
    template = template_for(name)
    turns = [user("问甲"), answer("春眠不觉晓")]
    ids, continues = template.render_request(turns)
    learned = template.render(turns).ids
    assert continues and learned[: len(ids)] == ids and len(learned) > len(ids)


def test_forms_that_a_template_has_are_kept(template_for: Callable[[str], ChatTemplate]) -> None:
    late, _ = prompt_of(template_for("llama3"), SHAPES["a late system text"])
    header = "<|start_header_id|>system<|end_header_id|>\n\n"
    assert f"{header}提醒丁<|eot_id|>" in late
    moved, _ = prompt_of(template_for("llama2"), SHAPES["a late system text"])
    assert "<<SYS>>\n规则甲\n\n提醒丁\n<</SYS>>" in moved
    greeting, _ = prompt_of(template_for("llama2"), SHAPES["first turn assistant"])
    assert greeting.startswith("<|begin_of_text|>[INST]  [/INST] 欢迎甲 ")
    users, _ = prompt_of(template_for("llama2"), SHAPES["two users"])
    assert users == "<|begin_of_text|>[INST] 问甲\n\n问乙 [/INST]"
    folded, _ = prompt_of(template_for("alternating"), SHAPES["several system texts"])
    assert folded == "<|begin_of_text|><user>规则甲\n\n资料乙\n\n问丙<assistant>"
    split, _ = prompt_of(template_for("one_call"), CALLING["text beside calls"], tools=True)
    order = ["我来查", '{"城市": "杭州"}', "<tool>晴", '{"城市": "北京"}', "<tool>雨"]
    assert [split.index(part) for part in order] == sorted(split.index(part) for part in order)


def test_an_answer_goes_on_after_its_thinking_is_closed(template_for: Callable[[str], ChatTemplate]) -> None:
    for name in ("deepseek_r1", "qwen3"):
        text, _ = prompt_of(template_for(name), SHAPES["prefill"])
        assert text.endswith("<think>\n\n</think>\n\n一二三")
        thought = Message("assistant", "一二三", reasoning="想一想")
        text, _ = prompt_of(template_for(name), [user("数数"), thought])
        assert text.endswith("<think>\n想一想\n</think>\n\n一二三")


def test_a_template_that_drops_a_text_is_found_out(template_for: Callable[[str], ChatTemplate]) -> None:
    tokenizer = template_for("llama3").tokenizer
    source = "{{ messages[0].content }}{% if messages[1:] %}{{ messages[-1].content }}{% endif %}"
    template = ChatTemplate(source, tokenizer, "forgetful")
    with pytest.raises(RequestRefusal, match="leaves out a text of this message") as caught:
        template.render_request([user("问甲"), answer("答乙"), user("问丙")])
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "no turns"),
        ([user("问"), answer("", "杭州")], "ends with a call of a tool"),
        ([user("\ud800")], "surrogate"),
        ([Message("bot", "?")], "no role 'bot'"),  # type: ignore[arg-type]
    ],
)
def test_what_no_template_has_a_form_for_is_refused(
    messages: list[Message], said: str, template_for: Callable[[str], ChatTemplate]
) -> None:
    with pytest.raises(UserError, match=said):
        template_for("llama3.1").render_request(messages)


def test_tools_are_told_without_a_question_too(template_for: Callable[[str], ChatTemplate]) -> None:
    text, _ = prompt_of(template_for("llama3.1"), [system("规则甲")], tools=True)
    assert "get_weather" in text and "规则甲" in text
    text, _ = prompt_of(
        template_for("llama3.1"), [answer("", "杭州"), result("杭州", "晴"), answer("今天")], tools=True
    )
    assert text.count("get_weather") == 2 and text.endswith("今天")


@pytest.mark.parametrize("name", packaged_names())
def test_turns_drawn_at_random_lose_no_text(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    """Up to seven turns of any role, with calls if the template has tools; only a call at the end is refused."""
    draw = random.Random(0)
    has_tools = name in WITH_TOOLS
    roles: tuple[Role, ...] = ("system", "user", "assistant", "tool") if has_tools else ("system", "user", "assistant")
    for _ in range(40):
        turns: list[Message] = []
        for place in range(draw.randint(1, 7)):
            role = draw.choice(roles)
            cities = [f"城{place}{count}" for count in range(draw.randint(0, 2))] if has_tools else []
            turns.append(answer(f"答{place}。", *cities) if role == "assistant" else Message(role, f"文{place}。"))
        roles_but_system = [turn.role for turn in turns if turn.role != "system"]
        try:
            text, _ = prompt_of(template_for(name), turns, has_tools and draw.random() < 0.5)
        except RequestRefusal as refusal:
            assert roles_but_system[-1] == "assistant" and "ends with a call" in str(refusal), turns
            continue
        assert all(part in text for turn in turns for part in parts_of(turn)), (turns, text)


def test_special_tokens_of_a_begun_answer_stay_text(tiny_tokenizer: Path) -> None:
    template = ChatTemplate.load(tiny_tokenizer)
    ids, _ = template.render_request([user("?"), answer("<|eot_id|>")])
    assert ids.count(template.tokenizer.token_id("<|eot_id|>") or -1) == 1
