"""The one renderer: what is learned, where answers begin and end, and what cannot be typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.chat.packaged import packaged_names, packaged_special_tokens
from hanlin.chat.rendering import batches
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Message, Role, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer

CHAT = [
    Message("system", "你是助手。"),
    Message("user", "你叫什么名字？"),
    Message("assistant", "我叫小翰。"),
    Message("user", "What is your name?"),
    Message("assistant", "My name is Xiaohan."),
]
TOOLS = [{"name": "time_of", "description": "城市的时间", "parameters": {"type": "object", "properties": {}}}]
TOOL_CHAT = [
    Message("user", "北京几点？"),
    Message("assistant", "", tool_calls=(ToolCall("time_of", {"city": "北京"}),)),
    Message("tool", "八点", name="time_of"),
    Message("assistant", "八点。"),
]
CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TYPED = st.sampled_from(
    ["<|eot_id|>", "<|start_header_id|>", "<s>", "</s>", "<|", "<|eot", "_id|>", "<", "\ue000", "你好"]
)


@pytest.fixture(scope="session")
def template_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatTemplate]:
    """Any packaged template over a tiny byte-level tokenizer that has its special tokens."""
    made: dict[str, ChatTemplate] = {}

    def find(name: str) -> ChatTemplate:
        if name not in made:
            texts = [message.text for message in CHAT] * 4
            folder = tmp_path_factory.mktemp("template")
            tokenizer = train_tokenizer(texts, vocab_size=330, template=name, out=folder)
            made[name] = ChatTemplate.from_packaged(name, tokenizer)
        return made[name]

    return find


THINKING = ("deepseek_r1", "qwen3")
"""Templates whose prompts depend on thinking: earlier turns are rewritten, so that there are several examples."""
APPENDING = sorted({*packaged_names()} - {*THINKING})
WITH_TOOLS = ("hermes", "llama3.1", "llama3.2", "qwen3")


@pytest.fixture(scope="session", params=[*APPENDING, "llama2 in SentencePiece", "atom in SentencePiece", "unmarked"])
def any_template(
    request: pytest.FixtureRequest,
    template_for: Callable[[str], ChatTemplate],
    tiny_sentencepiece: Path,
    template: ChatTemplate,
) -> ChatTemplate:
    name = request.param
    if name.endswith("SentencePiece"):
        return ChatTemplate.from_packaged(name.split()[0], Tokenizer.load(tiny_sentencepiece))
    if name == "unmarked":
        return ChatTemplate(unmarked(template.source), template.tokenizer, "unmarked")
    return template_for(name)


def unmarked(source: str) -> str:
    return source.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")


def target_texts(template: ChatTemplate, rendered: TokenizedExample) -> list[str]:
    """The learned stretches as text, special tokens shown."""
    runs = groupby(zip(rendered.ids, rendered.loss_mask, strict=True), key=lambda row: row[1])
    return [template.tokenizer.decode([number for number, _ in run], False) for loss_mask, run in runs if loss_mask]


# --------------------------------------------------------------------------------------------------- the invariants


def test_only_assistant_tokens_are_targets(any_template: ChatTemplate) -> None:
    learned = target_texts(any_template, any_template.render(CHAT))
    assert len(learned) == 2
    for text, message in zip(learned, (CHAT[2], CHAT[4]), strict=True):
        assert text.strip().startswith(message.text)
        end = any_template.tokenizer.backend.id_to_token(any_template.turn_end_ids[0])
        assert end is not None
        assert text.removesuffix(end).strip() == message.text


def test_every_answer_learns_its_stop_token(any_template: ChatTemplate) -> None:
    rendered = any_template.render(CHAT)
    ends = [*rendered.loss_mask[1:], False]
    last = [
        number
        for number, loss_mask, more in zip(rendered.ids, rendered.loss_mask, ends, strict=True)
        if loss_mask and not more
    ]
    assert len(last) == 2
    assert set(last) <= set(any_template.stop_ids)


@pytest.mark.parametrize("name", sorted(set(APPENDING) - {"llama2", "alpaca2", "atom"}))
def test_exactly_one_bos(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    for rendered in (template.render(CHAT), template.render(CHAT[:4], prompt=True), template.render(CHAT[1:3])):
        assert rendered.ids[0] == template.tokenizer.bos_id
        assert rendered.ids.count(template.tokenizer.bos_id or 0) == 1


@pytest.mark.parametrize(("name", "count"), [("llama2", 2), ("alpaca2", 2), ("atom", 5)])
def test_formats_that_begin_every_exchange_have_one_bos_for_each(
    name: str, count: int, template_for: Callable[[str], ChatTemplate]
) -> None:
    template = template_for(name)
    assert template.render(CHAT).ids.count(template.tokenizer.bos_id or 0) == count


def test_training_prefix_equals_inference_prompt(any_template: ChatTemplate) -> None:
    rendered = any_template.render(CHAT)
    for place in (2, 4):
        prompt = any_template.render(CHAT[:place], prompt=True)
        assert rendered.ids[: len(prompt.ids)] == prompt.ids
        assert rendered.loss_mask[len(prompt.ids)] and not rendered.loss_mask[len(prompt.ids) - 1]
        assert not any(prompt.loss_mask)


@settings(max_examples=60, deadline=None)
@given(user=CONTENT, answer=CONTENT)
def test_training_prefix_equals_inference_prompt_whatever_is_said(
    any_template: ChatTemplate, user: str, answer: str
) -> None:
    messages = [Message("user", user), Message("assistant", answer)]
    prompt = any_template.render(messages[:1], prompt=True)
    assert any_template.render(messages).ids[: len(prompt.ids)] == prompt.ids


@settings(max_examples=60, deadline=None)
@given(typed=st.lists(TYPED | CONTENT, max_size=5).map("".join))
def test_typed_special_tokens_stay_text(any_template: ChatTemplate, typed: str) -> None:
    def specials(text: str, prompt: bool) -> list[int]:
        messages = [Message("system", text), Message("user", text), Message("assistant", text), Message("user", text)]
        ids = any_template.render(messages[:4] if prompt else messages[:3], prompt=prompt).ids
        return [number for number in ids if number in any_template.tokenizer.special_ids]

    for prompt in (True, False):
        assert specials(typed, prompt) == specials("好", prompt)


def test_typed_special_tokens_stand_in_the_text_as_they_were_typed(any_template: ChatTemplate) -> None:
    said = "说<|eot_id|>和</s>和<|im_end|>吧"
    ids = any_template.render([Message("user", said), Message("assistant", "好")]).ids
    assert said in any_template.tokenizer.decode(ids)


def test_two_texts_side_by_side_cannot_make_a_special_token(tokenizer: Tokenizer) -> None:
    template = ChatTemplate("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", tokenizer, "t")
    for cut in range(1, len("<|eot_id|>")):
        halves = [Message("user", "<|eot_id|>"[:cut]), Message("user", "<|eot_id|>"[cut:])]
        ids = template.render(halves, prompt=True).ids
        assert tokenizer.special_ids.intersection(ids) == {tokenizer.bos_id}
        assert tokenizer.decode(ids) == "<|eot_id|>"


@pytest.mark.parametrize("rule", ["each", "first", "none"])
@pytest.mark.parametrize("name", ["llama2", "atom", "plain"])
def test_ids_are_those_of_the_whole_text_whatever_the_rule_of_spaces(
    name: str, rule: str, tiny_sentencepiece: Path, tmp_path: Path
) -> None:
    Tokenizer.load(tiny_sentencepiece).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    if rule != "each":
        scheme = {"first": "first", "none": "never"}[rule]
        data["normalizer"] = None
        data["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    file.write_text(json.dumps(data), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.prefix_space == rule
    ids = ChatTemplate.from_packaged(name, tokenizer).render(CHAT).ids
    whole = EXACT[name].replace(BEGIN, "<s>").replace(END, "</s>")
    tokenizer.backend.encode_special_tokens = False
    assert ids == tokenizer.backend.encode(whole, add_special_tokens=False).ids


def test_special_tokens_typed_into_tools_stay_text(template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for("llama3.1")
    evil = "x<|eot_id|>"
    tools = [{"name": evil, "description": evil, "parameters": {"properties": {evil: {}}}}]
    messages = [
        Message("user", "?"),
        Message("assistant", "", tool_calls=(ToolCall(evil, {evil: [evil]}),)),
        Message("tool", evil, name=evil),
        Message("assistant", evil),
    ]
    stop = template.tokenizer.token_id("<|eot_id|>")
    assert template.render(messages, tools).ids.count(stop or 0) == 5  # the system's, and four turns'


# ------------------------------------------------------------------------------------------------ packaged templates

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
HEAD, TAIL = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
SHARED_SYSTEM = "你是助手。"
EXACT = {
    "llama3": BEGIN
    + HEAD.format("system") + "你是助手。" + TAIL + HEAD.format("user") + "你叫什么名字？" + TAIL
    + HEAD.format("assistant") + "我叫小翰。" + TAIL + HEAD.format("user") + "What is your name?" + TAIL
    + HEAD.format("assistant") + "My name is Xiaohan." + TAIL,
    "llama3.1": BEGIN
    + HEAD.format("system") + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n你是助手。" + TAIL
    + HEAD.format("user") + "你叫什么名字？" + TAIL + HEAD.format("assistant") + "我叫小翰。" + TAIL
    + HEAD.format("user") + "What is your name?" + TAIL + HEAD.format("assistant") + "My name is Xiaohan." + TAIL,
    "shareai_v1": BEGIN
    + "<<SYS>>\n你是助手。\n<</SYS>>\n\n" + HEAD.format("user") + "你叫什么名字？" + TAIL
    + HEAD.format("assistant") + "我叫小翰。" + END + "\n" + HEAD.format("user") + "What is your name?" + TAIL
    + HEAD.format("assistant") + "My name is Xiaohan." + END + "\n",
    "shareai_instruct": BEGIN
    + "<<SYS>>\n你是助手。\n<</SYS>>\n\n" + HEAD.format("user") + "你叫什么名字？" + TAIL
    + HEAD.format("assistant") + "我叫小翰。" + TAIL + HEAD.format("user") + "What is your name?" + TAIL
    + HEAD.format("assistant") + "My name is Xiaohan." + TAIL,
    "llama2": BEGIN
    + "[INST] <<SYS>>\n你是助手。\n<</SYS>>\n\n你叫什么名字？ [/INST] 我叫小翰。 " + END
    + BEGIN + "[INST] What is your name? [/INST] My name is Xiaohan. " + END,
    "alpaca2": BEGIN
    + "[INST] <<SYS>>\n你是助手。\n<</SYS>>\n\n你叫什么名字？ [/INST] 我叫小翰。" + END
    + BEGIN + "[INST] What is your name? [/INST] My name is Xiaohan." + END,
    "atom": BEGIN
    + "System: 你是助手。\n" + END + BEGIN + "Human: 你叫什么名字？\n" + END + BEGIN + "Assistant: 我叫小翰。\n" + END
    + BEGIN + "Human: What is your name?\n" + END + BEGIN + "Assistant: My name is Xiaohan.\n" + END,
    "chatml": BEGIN
    + "<|im_start|>system\n你是助手。<|im_end|>\n<|im_start|>user\n你叫什么名字？<|im_end|>\n"
    + "<|im_start|>assistant\n我叫小翰。<|im_end|>\n<|im_start|>user\nWhat is your name?<|im_end|>\n"
    + "<|im_start|>assistant\nMy name is Xiaohan.<|im_end|>\n",
    "gemma2": BEGIN
    + "<start_of_turn>user\n你是助手。\n\n你叫什么名字？<end_of_turn>\n<start_of_turn>model\n我叫小翰。<end_of_turn>\n"
    + "<start_of_turn>user\nWhat is your name?<end_of_turn>\n<start_of_turn>model\nMy name is Xiaohan.<end_of_turn>\n",
    "plain": BEGIN
    + "你是助手。\n\nUser:\n你叫什么名字？\n\nAssistant:\n我叫小翰。" + END + "\n\n"
    + "User:\nWhat is your name?\n\nAssistant:\nMy name is Xiaohan." + END + "\n\n",
    "deepseek_r1": BEGIN
    + "你是助手。<｜User｜>你叫什么名字？<｜Assistant｜>我叫小翰。<｜end▁of▁sentence｜><｜User｜>What is your name?"
    + "<｜Assistant｜><think>\n\n</think>\n\nMy name is Xiaohan.<｜end▁of▁sentence｜>",
}  # fmt: skip
EXACT["llama3.2"], EXACT["hermes"] = EXACT["llama3.1"], EXACT["chatml"]
EXACT["qwen3"] = EXACT["chatml"].replace("assistant\nMy", "assistant\n<think>\n\n</think>\n\nMy")


@pytest.mark.parametrize("name", packaged_names())
def test_a_packaged_template_writes_exactly_its_format(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    last = template.render_examples(CHAT)[-1]
    assert template.tokenizer.decode(last.ids, skip_special=False) == EXACT[name]


def test_a_default_system_text_is_written_only_where_the_format_has_one(
    template_for: Callable[[str], ChatTemplate],
) -> None:
    def written(name: str) -> str:
        template = template_for(name)
        return template.tokenizer.decode(template.render(CHAT[1:3]).ids, skip_special=False)

    assert "你是一个乐于助人的助手" in written("alpaca2")
    assert "smart assistant" in written("shareai_v1")
    assert "system" not in written("llama3")
    assert "SYS" not in written("llama2")


def test_llama31_tells_calls_and_answers_tools_in_metas_words(template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for("llama3.1")
    rendered = template.render(TOOL_CHAT, TOOLS)
    text = template.tokenizer.decode(rendered.ids, skip_special=False)
    assert "Environment: ipython\nCutting Knowledge Date: December 2023\n" in text
    wrapped = json.dumps({"type": "function", "function": TOOLS[0]}, ensure_ascii=False, indent=4)
    assert f"Do not use variables.\n\n{wrapped}\n\n北京几点？<|eot_id|>" in text
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n"八点"<|eot_id|>' in text
    assert target_texts(template, rendered) == [
        '{"name": "time_of", "parameters": {"city": "北京"}}<|eot_id|>',
        "八点。<|eot_id|>",
    ]


@pytest.mark.parametrize("name", packaged_names())
def test_a_template_that_has_no_tools_refuses_them(name: str, template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for(name)
    if name in WITH_TOOLS:
        return
    with pytest.raises(UserError, match="no form for tools"):
        template.render(CHAT, TOOLS)
    with pytest.raises(UserError, match="no form for tools"):
        template.render(TOOL_CHAT)


def test_a_template_that_is_not_packaged_is_answered_with_its_neighbor(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError) as caught:
        ChatTemplate.from_packaged("llama_3", tokenizer)
    assert "llama3" in (caught.value.hint or "")


def test_a_tokenizer_without_the_tokens_of_a_template_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"<\|im_start\|>"):
        ChatTemplate.from_packaged("chatml", tokenizer)


def test_the_special_words_of_a_template_are_found() -> None:
    assert packaged_special_tokens("llama3") == ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    assert packaged_special_tokens("llama2") == ()


# ------------------------------------------------------------------------------------------------- foreign templates


def write_folder(folder: Path, tokenizer: Tokenizer, source: str) -> Path:
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder


def test_marks_are_derived_for_a_template_without_them(template: ChatTemplate) -> None:
    bare = ChatTemplate(unmarked(template.source), template.tokenizer, "bare")
    assert bare.render(CHAT) == template.render(CHAT)
    assert bare.stop_ids == template.stop_ids


def test_text_after_the_end_of_turn_is_no_target(template_for: Callable[[str], ChatTemplate]) -> None:
    marked = template_for("chatml")
    bare = ChatTemplate(unmarked(marked.source), marked.tokenizer, "bare")
    assert bare.render(CHAT) == marked.render(CHAT)


REWRITING = """{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'assistant' and not loop.last -%}{{- 'A:' + m.content[:1] + eos_token -}}
{%- elif m.role == 'assistant' -%}{{- 'A:' + m.content + eos_token -}}
{%- else -%}{{- 'U:' + m.content -}}{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt -%}A:{%- endif -%}"""


def test_a_template_that_rewrites_earlier_answers_trains_each_after_its_own_prompt(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(REWRITING, tokenizer, "rewriting")
    examples = template.render_examples(CHAT[1:])
    learned = [target_texts(template, example) for example in examples]
    assert learned == [["我叫小翰。<|end_of_text|>"], ["My name is Xiaohan.<|end_of_text|>"]]
    for example, end in zip(examples, (2, 4), strict=True):
        prompt = template.render(CHAT[1:end], prompt=True).ids
        assert example.ids[: len(prompt)] == prompt
    with pytest.raises(UserError, match="differently in a prompt") as caught:
        template.render(CHAT[1:])
    assert "one answer each" in (caught.value.hint or "")
    assert len(target_texts(template, template.render(CHAT[1:3]))) == 1
    assert template.render(CHAT[1:4], prompt=True).ids  # but it can be answered with


def test_marks_that_miss_an_answer_are_found(tokenizer: Tokenizer) -> None:
    never = "{% if 0 %}{% generation %}{% endgeneration %}{% endif %}"
    source = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}" + never
    with pytest.raises(UserError, match="marks 0 of 1 answers"):
        ChatTemplate(source, tokenizer, "t").render(CHAT[1:3])


def test_marks_that_begin_after_the_prompt_are_found(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'Assistant:' }}"
        "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )  # the prompt lacks `Assistant:`
    with pytest.raises(UserError, match="differently in a prompt"):
        ChatTemplate(source, tokenizer, "t").render(CHAT[1:3])


UNASKED_HEAD = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content "
    "+ '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}"
)
"""Some templates begin a next answer behind every conversation, asked for a prompt or not (ToolACE's, Phi-4-mini's)."""


def test_the_head_of_a_next_answer_that_a_template_writes_unasked_is_not_learned(
    template_for: Callable[[str], ChatTemplate],
) -> None:
    tokenizer = template_for("llama3").tokenizer
    template = ChatTemplate(UNASKED_HEAD, tokenizer, "unasked")
    (example,) = template.render_examples(CHAT)
    assert target_texts(template, example) == ["我叫小翰。<|eot_id|>", "My name is Xiaohan.<|eot_id|>"]
    assert template.turn_end_ids == (tokenizer.token_id("<|eot_id|>"),)
    prompt = template.render(CHAT[:-1], prompt=True).ids
    assert example.ids[: len(prompt)] == prompt


def test_an_answer_in_two_marked_blocks_is_one_answer(template_for: Callable[[str], ChatTemplate]) -> None:
    """Phi-3's training template marks the last end token by itself, and marks the line end behind each answer."""
    tokenizer = template_for("chatml").tokenizer
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>' }}{% generation %}"
        "{{ m.content + '<|im_end|>\\n' }}{% endgeneration %}{% else %}{{ '<|im_start|>' + m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>' }}{% else %}{% generation %}{{ eos_token }}"
        "{% endgeneration %}{% endif %}"
    )
    template = ChatTemplate(source, tokenizer, "two blocks")
    first, last = target_texts(template, template.render(CHAT[1:]))
    assert first == "我叫小翰。<|im_end|>"
    assert last.startswith("My name is Xiaohan.<|im_end|>") and last.endswith(str(tokenizer.config["eos_token"]))


def test_a_begin_token_behind_white_space_is_not_written_twice(tokenizer: Tokenizer) -> None:
    source = "\n\n{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    assert tokenizer.bos_id is not None
    assert ChatTemplate(source, tokenizer, "t").render(CHAT[1:3]).ids.count(tokenizer.bos_id) == 1


def test_a_file_of_your_own_is_trained_with_in_its_portable_form(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Every program that reads the saved model renders what was trained: the same white space off, the same date."""
    file = tmp_path / "mine.jinja"
    source = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content | trim + eos_token }}{% endfor %}"
    file.write_text(source, encoding="utf-8")
    template = ChatTemplate.from_packaged(str(file), tokenizer)
    assert "strftime_now" not in template.source and "'26 Jul 2024'" in template.source
    assert "| trim" not in template.source
    chat = [Message("user", "你好\u3000"), Message("assistant", "好")]
    assert "26 Jul 2024你好\u3000" in template.render_text(chat)


def test_an_answer_that_would_never_learn_to_stop_is_refused(tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    source += "{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(UserError, match="never learns to stop"):
        ChatTemplate(source, tokenizer, "t").render(CHAT[1:3])


def test_a_template_without_bos_gets_the_one_that_its_tokenizer_adds(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    template = ChatTemplate(source, tokenizer, "t")
    assert template.render(CHAT[1:3]).ids[0] == tokenizer.bos_id
    template.save(tmp_path)
    assert ChatTemplate.load(tmp_path).render(CHAT[1:3]) == template.render(CHAT[1:3])


def test_two_bos_are_refused(tokenizer: Tokenizer) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ bos_token + m.content + eos_token }}{% endfor %}"
    with pytest.raises(UserError, match="two begin tokens"):
        ChatTemplate(source, tokenizer, "t").render(CHAT[1:3])


def test_a_begin_token_that_a_user_typed_is_not_taken_for_the_templates_own(tokenizer: Tokenizer) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    typed = [Message("system", tokenizer.decode([tokenizer.bos_id or 0], skip_special=False)), *CHAT[1:3]]
    template = ChatTemplate(source, tokenizer, "t")
    assert template.render(typed).ids.count(tokenizer.bos_id or 0) == 1
    for prompt in (True, False):
        assert template.render_unshielded(typed, prompt=prompt).ids[:2] == [tokenizer.bos_id] * 2


def test_added_tokens_that_the_template_writes_cannot_be_typed_though_they_are_not_special(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    other = Tokenizer.load(tmp_path)
    other.backend.add_tokens(["<call>", "小翰林"])
    source = "{% for m in messages %}{{ '<call>' + m.content + eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}<call>{% endif %}"
    template = ChatTemplate(source, other, "t")
    ids = template.render([Message("user", "<call>小翰林<call>"), Message("assistant", "x")]).ids
    assert ids.count(other.token_id("<call>") or 0) == 2
    assert ids.count(other.token_id("小翰林") or 0) == 1
    assert other.decode(ids).count("<call>") == 4


def test_tokens_that_swallow_spaces_beside_them_do_so_here_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] == "<|eot_id|>"
        token["lstrip"] = token["content"] == "<|start_header_id|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    source = "{% for m in messages %}{{ 'a <|start_header_id|> b' + m.content + '<|eot_id|>  c' }}{% endfor %}"
    other = Tokenizer.load(tmp_path)
    ours = ChatTemplate(source, other, "t").render([Message("user", "x")], prompt=True).ids
    other.backend.encode_special_tokens = False
    whole = other.backend.encode("<|begin_of_text|>a <|start_header_id|> bx<|eot_id|>  c", add_special_tokens=False).ids
    assert ours == whole


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "not Jinja"),
        ("你好 {{ bos_token }}", "it never reads `messages`"),
        ("{% if messages %}{{ raise_exception('only Latin') }}{% endif %}", "only Latin"),
        (
            "{{ messages }}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "200,000 loop turns",
        ),
        ("{{ messages.nothing.at_all }}", "no attribute 'nothing'"),
    ],
)
def test_a_bad_template_is_a_user_error(tokenizer: Tokenizer, tmp_path: Path, source: str, message: str) -> None:
    folder = write_folder(tmp_path, tokenizer, source)
    with pytest.raises(UserError, match=message) as caught:
        ChatTemplate.load(folder).render(CHAT, where="chats.jsonl:3")
    assert "chat_template.jinja" in str(caught.value)
    assert caught.value.hint


def test_a_folder_without_a_template_is_a_user_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template") as caught:
        ChatTemplate.load(tmp_path)
    assert "llama3" in (caught.value.hint or "")


def test_templates_in_the_configuration_are_read_in_both_forms(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    source = (tmp_path / "chat_template.jinja").read_text(encoding="utf-8")
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    for form in (source, [{"name": "rag", "template": "no"}, {"name": "default", "template": source}]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": form}), encoding="utf-8")
        assert ChatTemplate.load(tmp_path).source == source


def test_a_record_that_cannot_be_rendered_is_named(template: ChatTemplate) -> None:
    record = Conversation(tuple(CHAT[:4]), id="c7", source="chats.jsonl:3")
    with pytest.raises(UserError, match="ends with user") as caught:
        template.render_conversation(record)
    assert caught.value.where == "chats.jsonl:3#c7: message 4"


def test_a_record_is_rendered_with_its_tools(template_for: Callable[[str], ChatTemplate]) -> None:
    template = template_for("llama3.1")
    record = Conversation(tuple(TOOL_CHAT), id="1", tools=tuple(TOOLS))
    assert template.render_conversation(record) == [template.render(TOOL_CHAT, TOOLS)]


# ------------------------------------------------------------------------------------------------------ stops and files


def test_stop_ids_are_the_templates_the_tokenizers_and_the_models(template: ChatTemplate, tmp_path: Path) -> None:
    tokenizer = template.tokenizer
    assert template.turn_end_ids == (tokenizer.token_id("<|eot_id|>"),)
    assert set(template.stop_ids) == {tokenizer.token_id("<|eot_id|>"), tokenizer.eos_id}
    template.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}), encoding="utf-8")
    assert {7, 8} < set(ChatTemplate.load(tmp_path).stop_ids)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}), encoding="utf-8")
    assert 9 in ChatTemplate.load(tmp_path).stop_ids


def test_padding_is_no_stop(any_template: ChatTemplate) -> None:
    assert any_template.tokenizer.pad_id not in any_template.stop_ids


def test_every_stop_id_is_saved_and_other_generation_settings_stay(template: ChatTemplate, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.6}), encoding="utf-8")
    bare = Tokenizer(template.tokenizer.backend, template.tokenizer.config, tmp_path / "nowhere")
    ChatTemplate(template.source, bare, "t").save(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["temperature"] == 0.6
    assert saved["eos_token_id"] == list(template.stop_ids)
    assert saved["pad_token_id"] == template.tokenizer.pad_id


def test_a_saved_template_is_the_same_template(any_template: ChatTemplate, tmp_path: Path) -> None:
    any_template.save(tmp_path)
    again = ChatTemplate.load(tmp_path)
    assert again.render(CHAT) == any_template.render(CHAT)
    assert again.stop_ids == any_template.stop_ids
    assert not list(tmp_path.glob("*.writing"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.one_of(CONTENT, TYPED), min_size=2, max_size=4), min_size=1, max_size=4))
def test_conversations_rendered_together_have_the_ids_that_each_has_alone(
    any_template: ChatTemplate, texts: list[list[str]]
) -> None:
    roles: list[Role] = ["user", "assistant"] * 2
    chats = []
    for said in texts:
        turns = [Message(role, text) for text, role in zip(said, roles, strict=False)]
        chats.append(turns[: len(turns) // 2 * 2])
    alone = [any_template.render_examples(turns) for turns in chats]
    assert list(any_template.render_batch(chats, ["chat"] * len(chats))) == alone


def test_many_conversations_come_out_in_their_order(template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ENCODE_BATCH_SIZE", 4)
    chats = [[Message("user", f"{number}?"), Message("assistant", f"{number}!")] for number in range(19)]
    alone = [template.render_examples(turns) for turns in chats]
    assert list(template.render_batch(chats, ["chat"] * 19)) == alone
    assert list(template.render_batch([], [])) == []


def test_what_is_wrong_with_one_of_many_conversations_names_it(template: ChatTemplate) -> None:
    with pytest.raises(UserError, match="the second"):
        list(template.render_batch([CHAT, CHAT[:2]], ["the first", "the second"]))
