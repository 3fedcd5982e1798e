"""Reasoning and tools in chat templates: nothing is lost or doubled, and each answer follows its own prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.chat.examples import render_answer
from hanlin.chat.packaged import packaged_names
from hanlin.chat.reasoning import split_reasoning
from hanlin.chat.rendering.loss_rules import LossRules, mask_answers
from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.chat.turn_order import order_tool_results
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer

WITH_TOOLS = ("hermes", "llama3.1", "llama3.2", "qwen3")
TOOLS = [{"name": "opening_hours", "description": "查询开放时间", "parameters": {"type": "object", "properties": {}}}]
CALLS = (ToolCall("opening_hours", {"place": "阅览室"}, "a"), ToolCall("opening_hours", {"place": "档案室"}, "b"))
SUMS = [
    Message("user", "十七加二十五等于几？"),
    Message("assistant", "等于四十二。", reasoning="先算个位：七加五得十二，进一。"),
    Message("user", "再加八呢？"),
    Message("assistant", "等于五十。", reasoning="四十二加八得五十。"),
]
CALLING = [
    Message("user", "阅览室和档案室几点关门？"),
    Message("assistant", "我查一下。", CALLS, reasoning="要查两处。"),
    Message("tool", "17:00", name="opening_hours", tool_call_id="b"),
    Message("tool", "21:00", name="opening_hours", tool_call_id="a"),
    Message("assistant", "二十一点和十七点。", reasoning="结果都有了。"),
]


@pytest.fixture(scope="session")
def template_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatTemplate]:
    """Any packaged template over a tiny byte-level tokenizer that has its special tokens."""
    made: dict[str, ChatTemplate] = {}

    def find(name: str) -> ChatTemplate:
        if name not in made:
            texts = [message.text + message.reasoning for message in (*SUMS, *CALLING)] * 4
            tokenizer = train_tokenizer(texts, 340, name, tmp_path_factory.mktemp("template"))
            made[name] = ChatTemplate.from_packaged(name, tokenizer)
        return made[name]

    return find


def shown(template: ChatTemplate, example: TokenizedExample) -> str:
    """An example as text, targets in ⟦ ⟧."""
    runs = groupby(zip(example.ids, example.loss_mask, strict=True), key=lambda row: row[1])
    parts = [(learned, template.tokenizer.decode([number for number, _ in run], False)) for learned, run in runs]
    return "".join(f"⟦{text}⟧" if learned else text for learned, text in parts)


def all_shown(template: ChatTemplate, messages: Sequence[Message], rules: LossRules = LossRules()) -> list[str]:  # noqa: B008
    return [shown(template, example) for example in template.render_examples(messages, (), None, rules)]


# ------------------------------------------------------------------------------------------------- nothing is lost

PIECES = st.sampled_from(
    ["好", "一\n二", " ", "<think>", "</think>", "<tool_response>x</tool_response>", "1 + 1", "。"]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map("".join)


@st.composite
def thinking_chats(draw: st.DrawFn, calls: bool) -> list[Message]:
    """Conversations whose thoughts and answers can be told apart: each has a number of its own."""
    turns = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    count = 0

    def answer(made: tuple[ToolCall, ...] = ()) -> Message:
        nonlocal count
        count += 1
        thought = f"thought{count}: {draw(TEXTS)} ." if draw(st.booleans()) else ""
        return Message("assistant", f"answer{count}: {draw(TEXTS)} .", made, reasoning=thought)

    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", draw(TEXTS)))
        if calls and draw(st.booleans()):
            made = CALLS[: draw(st.integers(1, 2))]
            turns.append(answer(made))
            turns += [Message("tool", draw(TEXTS), name=call.name, tool_call_id=call.id) for call in made]
        turns.append(answer())
    return turns


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", packaged_names())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_reasoning_is_never_lost_or_doubled(
    name: str, keep: bool, template_for: Callable[[str], ChatTemplate], data: st.DataObject
) -> None:
    """Each thought and each answer is learned exactly once, after the prompt that is served."""
    template = template_for(name).with_past_reasoning("keep" if keep else "template")
    messages = data.draw(thinking_chats(calls=name in WITH_TOOLS))
    examples = template.render_examples(messages, TOOLS if name in WITH_TOOLS else ())
    learned = "".join(part.partition("⟧")[0] for one in examples for part in shown(template, one).split("⟦")[1:])
    for message in messages:
        if message.role == "assistant":
            assert learned.count(message.text.strip()) == 1
            assert not message.reasoning or learned.count(message.reasoning.strip()) == 1
    ends = set(template.turn_end_ids)
    for example in examples:
        assert example.ids[example.loss_mask.rindex(b"\1")] in ends


@pytest.mark.parametrize("name", packaged_names())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_answer_is_learned_after_the_prompt_that_is_served(
    name: str, template_for: Callable[[str], ChatTemplate], data: st.DataObject
) -> None:
    template = template_for(name)
    tools = TOOLS if name in WITH_TOOLS else ()
    messages = data.draw(thinking_chats(calls=bool(tools)))
    examples = template.render_examples(messages, tools)
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    starts = [(example, index) for example in examples for index in stretch_starts(example)]
    assert len(starts) == len(answers)
    for (example, start), index in zip(starts, answers, strict=True):
        thinking = bool(messages[index].reasoning)
        assert example.ids[:start] == template.render(messages[:index], tools, prompt=True, thinking=thinking).ids


def stretch_starts(example: TokenizedExample) -> list[int]:
    mask = b"\0" + example.loss_mask
    return [index for index in range(len(example.loss_mask)) if mask[index : index + 2] == b"\0\1"]


@pytest.mark.parametrize("name", ["chatml", "deepseek_r1", "gemma2", "llama2", "plain"])
def test_a_template_without_tools_refuses_them_by_name(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    with pytest.raises(TemplateRefusal, match="no form for tools") as caught:
        template_for(name).render_examples(CALLING, TOOLS)
    assert caught.value.reason == "template_lacks_tools"


# ------------------------------------------------------------------------------------------------ how it is rendered


def test_old_reasoning_is_left_out_as_it_is_served(template_for: Callable[[str], ChatTemplate]) -> None:
    head, tail = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
    question = "<|begin_of_text|>" + head.format("user") + "十七加二十五等于几？" + tail + head.format("assistant")
    assert all_shown(template_for("llama3"), SUMS) == [
        question + f"⟦<think>\n先算个位：七加五得十二，进一。\n</think>\n\n等于四十二。{tail}⟧",
        f"{question}等于四十二。{tail}{head.format('user')}再加八呢？{tail}{head.format('assistant')}"
        f"⟦<think>\n四十二加八得五十。\n</think>\n\n等于五十。{tail}⟧",
    ]


def test_kept_reasoning_gives_one_example_and_is_kept_by_every_program(
    template_for: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    kept = template_for("llama3").with_past_reasoning("keep")
    (example,) = kept.render_examples(SUMS)
    assert shown(kept, example).count("⟦<think>") == 2
    kept.save(tmp_path)
    loaded = ChatTemplate.load(tmp_path)
    assert loaded.render_examples(SUMS) == [example]
    assert loaded.with_past_reasoning("strip").render_examples(SUMS) == template_for("llama3").render_examples(SUMS)


def test_an_opened_thinking_block_belongs_to_the_prompt(template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for("deepseek_r1")
    assert template.opens_thinking
    assert all_shown(template, SUMS[:2]) == [
        "<|begin_of_text|><｜User｜>十七加二十五等于几？<｜Assistant｜><think>\n"
        "⟦先算个位：七加五得十二，进一。\n</think>\n\n等于四十二。<｜end▁of▁sentence｜>⟧"
    ]


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
def test_an_empty_thinking_block_is_part_of_the_prompt(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    plain = [Message("user", "你好"), Message("assistant", "你好！")]
    (text,) = all_shown(template, plain)
    assert text.partition("⟦")[0].endswith("<think>\n\n</think>\n\n")
    assert text.partition("⟦")[2].startswith("你好！")


def test_an_empty_block_that_a_template_always_writes_is_not_learned(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<think>' + (m.reasoning_content or '') + '</think>' "
        "+ m.content + eos_token }}{% else %}{{ m.content + ':' }}{% endif %}{% endfor %}"
    )
    template = ChatTemplate(source, tokenizer, "always")
    (text,) = all_shown(template, [Message("user", "a"), Message("assistant", "b")])
    assert text.endswith("<think></think>⟦b<|end_of_text|>⟧")
    (text,) = all_shown(template, [Message("user", "a"), Message("assistant", "b", reasoning="c")])
    assert text.endswith("a:⟦<think>c</think>b<|end_of_text|>⟧")


@pytest.mark.parametrize("name", packaged_names())
def test_reasoning_that_is_only_read_carries_no_loss(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    read = template.render_examples(SUMS, (), None, LossRules(reasoning="read"))
    assert [one.ids for one in read] == [one.ids for one in template.render_examples(SUMS)]
    for example, answer in zip(read, (SUMS[1], SUMS[3]), strict=True):
        before, _, after = shown(template, example).partition("⟦")
        assert before.endswith("</think>\n\n") and answer.reasoning in before
        assert after.startswith(answer.text)


@pytest.mark.parametrize("name", packaged_names())
def test_a_thought_that_is_a_word_of_the_tag_before_it_carries_no_loss(
    name: str, template_for: Callable[[str], ChatTemplate]
) -> None:
    messages = [Message("user", "?"), Message("assistant", "think", reasoning="think")]
    (text,) = all_shown(template_for(name), messages, LossRules(reasoning="read"))
    before, _, after = text.partition("⟦")
    assert before.rstrip().endswith("</think>") and after.startswith("think")


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_the_field_that_a_template_reads_is_found(field: str, tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ ':' + (m.FIELD or '') + '|' + m.content + eos_token }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    template = ChatTemplate(source.replace("FIELD", field), tokenizer, "own")
    assert (template.reasoning_form.field, template.reasoning_form.keeps_past) == (field, True)
    assert all_shown(template, SUMS[:2])[0].endswith(
        "：⟦先算".replace("：", ":") + SUMS[1].reasoning[2:] + "|等于四十二。<|end_of_text|>⟧"
    )


OWN = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A:' + TEXT + eos_token }}"
    "{% else %}{{ 'U:' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def test_a_template_without_a_field_gets_reasoning_within_the_text(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(OWN.replace("TEXT", "m.content"), tokenizer, "own")
    assert template.reasoning_form.inline
    (text,) = all_shown(template, SUMS)
    assert "A:⟦<think>\n四十二加八得五十。\n</think>\n\n等于五十。<|end_of_text|>⟧" in text
    assert len(all_shown(template.with_past_reasoning("strip"), SUMS)) == 2


def test_a_template_that_throws_reasoning_away_refuses_to_learn_it(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(OWN.replace("TEXT", "m.content.split('</think>')[-1]"), tokenizer, "own")
    with pytest.raises(TemplateRefusal, match="no form for reasoning") as caught:
        template.render_examples(SUMS)
    assert caught.value.reason == "template_lacks_reasoning"
    assert len(template.render_examples([SUMS[0], Message("assistant", "四十二。")])) == 1


def test_a_template_that_cannot_keep_reasoning_says_so(tokenizer: Tokenizer) -> None:
    stripping = OWN.replace("TEXT", "(m.reasoning_content if loop.last and m.reasoning_content else '') + m.content")
    with pytest.raises(UserError, match="cannot be told what to do with earlier reasoning"):
        ChatTemplate(stripping, tokenizer, "own").with_past_reasoning("keep")


def test_tags_that_are_tokens_are_written_by_the_template_and_never_typed(
    template_for: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    tokenizer = template_for("llama3").tokenizer
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    again.backend.add_special_tokens(["<think>", "</think>"])
    template = ChatTemplate.from_packaged("llama3", Tokenizer(again.backend, again.config, tmp_path))
    begin = template.tokenizer.token_id("<think>")
    assert begin is not None
    (example,) = template.render_examples(SUMS[:2])
    assert example.ids.count(begin) == 1 and example.loss_mask[example.ids.index(begin)]
    (spelled,) = template.render_examples([SUMS[0], Message("assistant", "<think>\n好\n</think>\n\n四十二。")])
    assert begin not in spelled.ids


# ------------------------------------------------------------------------------------------------------------- tools

CALLED = {
    "llama3.1": '我查一下。\n\n{"name": "opening_hours", "parameters": {"place": "阅览室"}}; '
    '{"name": "opening_hours", "parameters": {"place": "档案室"}}<|eot_id|>',
    "llama3.2": '我查一下。\n\n[opening_hours(place="阅览室"), opening_hours(place="档案室")]<|eot_id|>',
    "hermes": '我查一下。\n<tool_call>\n{"name": "opening_hours", "arguments": {"place": "阅览室"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "opening_hours", "arguments": {"place": "档案室"}}\n</tool_call><|im_end|>',
}
CALLED["qwen3"] = CALLED["hermes"]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_several_calls_are_learned_with_the_text_beside_them(
    name: str, template_for: Callable[[str], ChatTemplate]
) -> None:
    template = template_for(name)
    (example,) = template.render_examples(CALLING, TOOLS)
    text = shown(template, example)
    assert f"⟦<think>\n要查两处。\n</think>\n\n{CALLED[name]}⟧" in text
    assert text.index("21:00") < text.index("17:00")


def test_python_values_are_written_as_python_writes_them(template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for("llama3.2")
    call = ToolCall("f", {"a": None, "b": True, "c": 1.5, "d": ["x"], "e": 'y"\n'})
    turns = [Message("user", "?"), Message("assistant", "", (call,)), Message("tool", "1", name="f"), SUMS[1]]
    (example,) = template.render_examples(turns, TOOLS)
    assert '⟦[f(a=None, b=True, c=1.5, d=["x"], e="y\\"\\n")]<|eot_id|>⟧' in shown(template, example)


def test_results_are_put_in_the_order_of_their_calls_and_named() -> None:
    results = [Message("tool", "17:00", tool_call_id="b"), Message("tool", "21:00", tool_call_id="a")]
    ordered = order_tool_results([*CALLING[:2], *results, CALLING[4]])
    assert [(turn.text, turn.name) for turn in ordered[2:4]] == [("21:00", "opening_hours"), ("17:00", "opening_hours")]
    unknown = [CALLING[0], Message("assistant", "", (ToolCall("f", {}),)), Message("tool", "1"), CALLING[4]]
    assert list(order_tool_results(unknown)) == unknown


def test_text_beside_a_call_that_a_template_leaves_out_is_refused(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{{ m.role + ':' }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% else %}"
        "{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    template = ChatTemplate(source, tokenizer, "own")
    turns = [Message("user", "?"), Message("assistant", "查", CALLS[:1]), Message("tool", "1", name="f"), SUMS[1]]
    with pytest.raises(TemplateRefusal, match="beside a tool call") as caught:
        template.render_examples(turns)
    assert caught.value.reason == "template_loses_text"


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tools_are_told_in_the_prompt_of_a_preference(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    rendered = render_answer(CALLING[:1], CALLING[1], template, "p1", TOOLS)
    assert "查询开放时间" in shown(template, rendered).partition("⟦")[0]


# ------------------------------------------------------------------------------------------------- masks of each turn


@pytest.mark.parametrize("name", packaged_names())
def test_an_answer_that_is_marked_as_read_carries_no_loss(
    name: str, template_for: Callable[[str], ChatTemplate]
) -> None:
    template = template_for(name)
    turns = [SUMS[0], Message("assistant", "错了。", train=False), SUMS[2], Message("assistant", "对了。")]
    (text,) = all_shown(template, turns)
    assert "错了。" in text.partition("⟦")[0]
    assert text.count("⟦") == 1 and "对了。" in text.partition("⟦")[2]
    assert all_shown(template, [SUMS[0], Message("assistant", "错了。", train=False)]) == []


def test_only_the_last_answer_is_learned_if_that_is_set(template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for("chatml")
    turns = [Message("user", "一"), Message("assistant", "二"), Message("user", "三"), Message("assistant", "四")]
    (text,) = all_shown(template, turns, LossRules("last"))
    assert text.count("⟦") == 1 and "⟦四" in text
    marked = [turns[0], Message("assistant", "二", train=True), *turns[2:]]
    assert all_shown(template, marked, LossRules("last")) == all_shown(template, turns)


@pytest.mark.parametrize("name", ["chatml", "llama3", "llama3.1", "plain", "qwen3"])
def test_a_greeting_that_is_not_learned_may_come_first(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    greeting = Message("assistant", "我是小翰。", train=False)
    (text,) = all_shown(template, [greeting, Message("user", "你好"), Message("assistant", "你好！")])
    assert "我是小翰。" in text.partition("⟦")[0] and text.count("⟦") == 1
    unmarked = replace(greeting, train=None)
    assert all_shown(template, [unmarked, Message("user", "你好"), Message("assistant", "你好！")]) == [text]


def test_a_format_that_begins_with_the_user_refuses_a_greeting(template_for: Callable[[str], ChatTemplate]) -> None:
    turns = [Message("assistant", "我是小翰。", train=False), Message("user", "你好"), Message("assistant", "你好！")]
    for name in ("llama2", "alpaca2", "gemma2"):
        with pytest.raises(TemplateRefusal, match="begins with the user"):
            template_for(name).render_examples(turns)


def test_a_mask_loses_whole_stretches() -> None:
    assert mask_answers(b"\0\0\1\1\1\0\0\1\1", [False, True]) == b"\0\0\0\0\0\0\0\1\1"
    with pytest.raises(ValueError):
        mask_answers(b"\0\1\0", [True, True])


# ------------------------------------------------------------------------------------------------- what a model wrote


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("<think>\n想\n</think>\n\n答", False, ("想", "答")),
        ("想\n</think>\n\n答", True, ("想", "答")),
        ("<think>\n想\n</think>\n\n答", True, ("想", "答")),
        ("<think>\n\n</think>\n\n答", False, ("", "答")),
        ("答 <think>x</think>", False, ("", "答 <think>x</think>")),
        ("<think>没有完", False, ("", "<think>没有完")),
        ("没有完", True, ("", "没有完")),
    ],
)
def test_reasoning_at_the_start_of_an_answer_is_split_off(text: str, is_open: bool, expected: tuple[str, str]) -> None:
    assert split_reasoning(text, is_open) == expected


def test_a_whole_answer_that_is_an_unfinished_thought_is_reasoning_alone() -> None:
    assert split_reasoning("<think>\n先想", is_complete=True) == ("先想", "")
    assert split_reasoning("先想", is_open=True, is_complete=True) == ("先想", "")
    assert split_reasoning("先想</think>\n好", is_open=True, is_complete=True) == ("先想", "好")
    assert split_reasoning("好 <think>", is_complete=True) == ("", "好 <think>")
    assert split_reasoning("<think>\n先想") == ("", "<think>\n先想")  # of a request it stays what it is
