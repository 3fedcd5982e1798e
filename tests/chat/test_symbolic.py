"""What a template writes whatever is said: outlines are exact, and there is none where what is said matters."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.chat import template as chat_template
from hanlin.chat.packaged import packaged_names, read_packaged_template
from hanlin.chat.rendering.jinja import DEFAULT_MARKERS, JinjaTemplate
from hanlin.chat.rendering.loss_rules import LossRules
from hanlin.chat.rendering.symbolic import Placeholder, Segment, SymbolicText, fill, is_prefix
from hanlin.chat.rendering.template_cache import TemplateCache
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.rendering.training_texts import assistant_indices, training_texts
from hanlin.chat.template import ChatTemplate
from hanlin.chat.turn_order import check_order
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Role
from hanlin.tokenizer.tokenizer import Tokenizer

LOOP = "{% for message in messages %}"
TEXT_INDEPENDENT = {
    "as it is": LOOP + "<{{ message.role }}>{{ message['content'] }}{% endfor %}",
    "stripped": LOOP + "{{ message.role + ' ' + message.content | trim + '!' }}{% endfor %}",
    "stripped of some": LOOP + "{{ message.content.strip(' \\n') ~ 1 }}{% endfor %}",
    "stripped on one side": LOOP + "{{ message.content.rstrip() }}{% endfor %}",
    "kept": "{% set all = namespace(text='') %}"
    + LOOP
    + "{% set all.text = all.text + message.content %}{% endfor %}{{ all.text }}",
    "chosen by place": "{{ messages[0].content }}{% for m in messages[1:] %}{{ m.content ~ loop.index }}{% endfor %}",
    "made text": LOOP + "{% if message.content is string %}{{ message.content }}{% else %}?{% endif %}{% endfor %}",
    "generated": LOOP
    + "{% if message.role == 'user' %}{{ message.content }}{% else %}"
    + "{% generation %}{{ message.content }}|{% endgeneration %}{% endif %}{% endfor %}",
}
TEXT_DEPENDENT = {
    "compared": LOOP + "{% if message.content == 'a' %}!{% endif %}{{ message.content }}{% endfor %}",
    "looked into": LOOP + "{{ 'x' if 'a' in message.content else message.content }}{% endfor %}",
    "measured": LOOP + "{{ message.content | length }}{% endfor %}",
    "empty or not": LOOP + "{{ message.content or 'nothing' }}{% endfor %}",
    "split": LOOP + "{{ message.content.split('a')[-1] }}{% endfor %}",
    "cut": LOOP + "{{ message.content[:2] }}{% endfor %}",
    "in capitals": LOOP + "{{ message.content | upper }}{% endfor %}",
    "as JSON": "{{ messages | tojson }}",
    "joined": "{{ messages | map(attribute='content') | join(' ') }}",
    "selected": "{% for m in messages | selectattr('content', 'equalto', 'a') %}{{ m.content }}{% endfor %}",
    "formatted": LOOP + "{{ '%s!' % message.content }}{% endfor %}",
    "formatted in a tuple": LOOP + "{{ '%s!' % (message.content,) }}{% endfor %}",
    "formatted by name": LOOP + "{{ '{}!'.format(message.content) }}{% endfor %}",
    "formatted for nothing": LOOP + "{{ '!' % message.content }}{% endfor %}",
    "repeated": LOOP + "{{ message.content * 2 }}{% endfor %}",
    "a key": LOOP + "{{ {'a': 1}[message.content] }}{% endfor %}",
    "caught by a macro": "{% macro m(x) %}{{ x }}{% endmacro %}"
    + LOOP
    + "{{ m(message.content) | upper }}{% endfor %}",
    "caught by a block": LOOP + "{% set x %}{{ message.content }}{% endset %}{{ x | length }}{% endfor %}",
    "filtered in a block": LOOP + "{% filter upper %}{{ message.content }}{% endfilter %}{% endfor %}",
    "written as a list": LOOP + "{{ [message.content] }}{% endfor %}",
    "stripped after adding": LOOP + "{{ (' ' + message.content) | trim }}{% endfor %}",
    "a private character": "{{ '\\U00100000' }}" + LOOP + "{{ message.content }}{% endfor %}",
    "the like made by a number": "{{ '%c' % 1048576 }}" + LOOP + "{{ message.content }}{% endfor %}",
}
ROLES: tuple[Role, ...] = ("user", "assistant", "user")
TEXT = st.text(st.characters(exclude_categories=["Cs", "Co"]) | st.sampled_from("a \n\u3000|<>"), max_size=12)


def variables(texts: list) -> dict:
    turns = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)]
    return {"messages": turns, "add_generation_prompt": False}


PLACEHOLDERS = variables([SymbolicText(Placeholder(place)) for place in range(len(ROLES))])


@pytest.mark.parametrize("name", TEXT_INDEPENDENT)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT, min_size=3, max_size=3))
def test_an_outline_filled_is_what_the_template_writes(name: str, texts: list[str]) -> None:
    template = JinjaTemplate(TEXT_INDEPENDENT[name])
    segments = template.render_symbolic(DEFAULT_MARKERS, PLACEHOLDERS)
    assert segments is not None
    assert fill(segments, texts) == template.render(DEFAULT_MARKERS, variables(texts))


@pytest.mark.parametrize("name", TEXT_DEPENDENT)
def test_a_template_that_looks_at_what_is_said_has_no_outline(name: str) -> None:
    assert JinjaTemplate(TEXT_DEPENDENT[name]).render_symbolic(DEFAULT_MARKERS, PLACEHOLDERS) is None


@pytest.mark.parametrize("name", ["llama3", "llama2", "chatml"])
def test_a_conversation_has_the_same_text_by_outline_and_without(
    name: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(read_packaged_template(name), tokenizer, name)
    texts = [" 你好\n", f"{string.printable}<|eot_id|>", "<|eot", "\u3000。\ue000"]
    turns = [Message(role, text) for role, text in zip((*ROLES, "assistant"), texts, strict=True)]
    cases = [(turns, False), (turns[:1], True), (turns[:2], False), (turns[:3], True)]
    symbolic = [template._renderer.render_text(messages, (), prompt, None) for messages, prompt in cases]
    monkeypatch.setattr(TemplateCache, "render_text", lambda *_: None)
    assert [template._renderer.render_text(messages, (), prompt, None) for messages, prompt in cases] == symbolic


SAID = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("你好。 \n\u3000|<>_a1"), max_size=16)
"""Private characters too, which take the place of the marks."""


def render_uncached(template: ChatTemplate, turns: list[Message]) -> TokenizedExample | str:
    try:
        check_order(turns, False)
        learned = assistant_indices(turns)
        (marked,) = training_texts(template._renderer, turns, (), None, learned, LossRules(), template._is_packaged)
        return template._encode(marked, True)
    except UserError as error:
        return str(error)


def render_cached(template: ChatTemplate, turns: list[Message]) -> TokenizedExample | str:
    try:
        return template.render(turns)
    except UserError as error:
        return str(error)


@pytest.fixture(scope="module")
def template_for(tokenizer: Tokenizer) -> Callable[[str], ChatTemplate]:
    """Packaged templates, made once for all examples; skips where the tokenizer has not their tokens."""

    @functools.cache
    def made(name: str) -> ChatTemplate | None:
        try:
            return ChatTemplate.from_packaged(name, tokenizer)
        except UserError:
            return None

    def found(name: str) -> ChatTemplate:
        template = made(name)
        return template or pytest.skip(f"the tokenizer has not the tokens of {name}")

    return found


@pytest.mark.parametrize("name", packaged_names())
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(SAID, min_size=2, max_size=5))
def test_ids_joined_by_roles_equal_those_of_the_full_rendering(
    name: str, template_for: Callable[[str], ChatTemplate], texts: list[str]
) -> None:
    template = template_for(name)
    turns = [Message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts)]
    for messages in (turns, [Message("system", texts[0]), *turns]):
        assert render_cached(template, messages) == render_uncached(template, messages)


def test_most_conversations_take_the_form_of_their_roles(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(read_packaged_template("llama3"), tokenizer, "llama3")
    turns = [Message("user", "你好"), Message("assistant", "你好！")]
    whole = template.render(turns)
    monkeypatch.setattr(chat_template, "training_texts", lambda *_: pytest.fail("the whole way was taken"))
    assert template.render(turns) == whole
    assert template.render([Message("user", "再见"), Message("assistant", "再见。")]).loss_mask.count(True) > 0


@pytest.mark.parametrize(
    ("whole", "start", "fact"),
    [
        (("ab", Placeholder(0), "c"), ("a",), True),
        (("ab", Placeholder(0), "c"), ("a", "b", Placeholder(0)), True),
        (("ab", Placeholder(0), "c"), ("ab", Placeholder(0), "c"), True),
        (("ab", Placeholder(0)), ("ab", Placeholder(1)), False),
        (("ab", Placeholder(0)), ("ab", Placeholder(0, (("strip", None),))), False),
        (("ab", Placeholder(0)), ("ab", "c"), False),
        (("ab",), ("ab", Placeholder(0)), False),
        (("ab",), (), True),
    ],
)
def test_one_text_begins_another_whatever_is_said(
    whole: tuple[Segment, ...], start: tuple[Segment, ...], fact: bool
) -> None:
    assert is_prefix(whole, start) == fact
