"""What a template writes whatever is said: outlines are exact, and there is none where what is said matters."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.records import Message
from hanlin.tokens import chat_template
from hanlin.tokens.chat_template import ChatTemplate
from hanlin.tokens.outline import Hole, Unseen, filled
from hanlin.tokens.packaged_templates import packaged_source
from hanlin.tokens.template_language import FIRST_MARKS, Template
from hanlin.tokens.tokenizer import Tokenizer

LOOP = "{% for message in messages %}"
BLIND = {
    "as it is": LOOP + "<{{ message.role }}>{{ message['content'] }}{% endfor %}",
    "stripped": LOOP + "{{ message.role + ' ' + message.content | trim + '!' }}{% endfor %}",
    "stripped of some": LOOP + "{{ message.content.strip(' \\n') ~ 1 }}{% endfor %}",
    "stripped on one side": LOOP + "{{ message.content.rstrip() }}{% endfor %}",
    "kept": "{% set all = namespace(text='') %}"
    + LOOP
    + "{% set all.text = all.text + message.content %}{% endfor %}{{ all.text }}",
    "chosen by place": "{{ messages[0].content }}{% for m in messages[1:] %}{{ m.content ~ loop.index }}{% endfor %}",
    "told to be text": LOOP
    + "{% if message.content is string %}{{ message.content }}{% else %}?{% endif %}{% endfor %}",
    "generated": LOOP
    + "{% if message.role == 'user' %}{{ message.content }}{% else %}"
    + "{% generation %}{{ message.content }}|{% endgeneration %}{% endif %}{% endfor %}",
}
LOOKING = {
    "compared": LOOP + "{% if message.content == 'a' %}!{% endif %}{{ message.content }}{% endfor %}",
    "looked into": LOOP + "{{ 'x' if 'a' in message.content else message.content }}{% endfor %}",
    "measured": LOOP + "{{ message.content | length }}{% endfor %}",
    "empty or not": LOOP + "{{ message.content or 'nothing' }}{% endfor %}",
    "taken apart": LOOP + "{{ message.content.split('a')[-1] }}{% endfor %}",
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
ROLES = ("user", "assistant", "user")
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Co")) | st.sampled_from("a \n\u3000|<>"), max_size=12)


def variables(texts: list) -> dict:
    turns = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)]
    return {"messages": turns, "add_generation_prompt": False}


HOLES = variables([Unseen(Hole(place)) for place in range(len(ROLES))])


@pytest.mark.parametrize("name", BLIND)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT, min_size=3, max_size=3))
def test_an_outline_filled_is_what_the_template_writes(name: str, texts: list[str]) -> None:
    template = Template(BLIND[name])
    pieces = template.outline(FIRST_MARKS, HOLES)
    assert pieces is not None
    assert filled(pieces, texts) == template.render(FIRST_MARKS, variables(texts))


@pytest.mark.parametrize("name", LOOKING)
def test_a_template_that_looks_at_what_is_said_has_no_outline(name: str) -> None:
    assert Template(LOOKING[name]).outline(FIRST_MARKS, HOLES) is None


@pytest.mark.parametrize("name", ["llama3", "llama2", "chatml"])
def test_a_conversation_has_the_same_text_by_outline_and_without(
    name: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(packaged_source(name), tokenizer, name)
    said = [" 你好\n", f"{string.printable}<|eot_id|>", "<|eot", "\u3000。\ue000"]
    turns = [Message(role, text) for role, text in zip((*ROLES, "assistant"), said, strict=True)]
    cases = [(turns, False), (turns[:1], True), (turns[:2], False), (turns[:3], True)]
    outlined = [template._text(messages, (), prompt, None) for messages, prompt in cases]
    monkeypatch.setattr(chat_template, "_MOST_OUTLINES", 0)
    monkeypatch.setattr(ChatTemplate, "_outlined", lambda *_: None)
    assert [template._text(messages, (), prompt, None) for messages, prompt in cases] == outlined
