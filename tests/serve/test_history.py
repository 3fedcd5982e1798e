"""What is forgotten when a conversation outgrows the context: the oldest whole turns, never the system text."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.errors import UserError
from hanlin.records import Message, ToolCall
from hanlin.serve.history import fit, turns
from hanlin.tokens.chat_template import ChatTemplate

SYSTEM = Message("system", "你是小翰。")


def talk(count: int) -> list[Message]:
    said = [SYSTEM]
    for number in range(count):
        said += [Message("user", f"问题{number}"), Message("assistant", f"回答{number}")]
    return [*said, Message("user", "最后一问")]


@pytest.fixture(scope="module")
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)


def length(template: ChatTemplate, messages: list[Message]) -> int:
    return len(template.render(messages, prompt=True).ids)


def test_what_fits_is_kept_whole(template: ChatTemplate) -> None:
    messages = talk(7)
    fitted = fit(messages, template, length(template, messages))
    assert (list(fitted.messages), fitted.dropped) == (messages, 0)


def test_one_token_too_many_drops_the_oldest_turn_and_no_more(template: ChatTemplate) -> None:
    messages = talk(7)
    fitted = fit(messages, template, length(template, messages) - 1)
    assert fitted.dropped == 1
    assert list(fitted.messages) == [SYSTEM, *messages[3:]]


def test_the_newest_turns_and_the_system_text_survive(template: ChatTemplate) -> None:
    messages = talk(50)
    fitted = fit(messages, template, 100)
    assert fitted.messages[0] == SYSTEM
    assert fitted.messages[1].role == "user"
    assert list(fitted.messages[1:]) == messages[-len(fitted.messages) + 1 :]
    assert len(fitted.ids) <= 100 < length(template, [SYSTEM, *messages[1 + 2 * (fitted.dropped - 1) :]])


def test_the_ids_are_the_prompt_of_what_is_kept(template: ChatTemplate) -> None:
    fitted = fit(talk(50), template, 100)
    assert list(fitted.ids) == template.render(fitted.messages, prompt=True).ids


def test_a_last_turn_that_does_not_fit_is_refused_with_its_length(template: ChatTemplate) -> None:
    alone = length(template, [SYSTEM, Message("user", "最后一问")])
    with pytest.raises(UserError, match=f"{alone} tokens long.*only {alone - 1} fit"):
        fit(talk(3), template, alone - 1)


def test_a_tools_result_stays_with_the_question_it_serves() -> None:
    call = Message("assistant", "", (ToolCall("time", {}),))
    messages = [Message("user", "a"), call, Message("tool", "12", name="time"), Message("assistant", "b")]
    assert turns([SYSTEM, *messages, Message("user", "c")]) == ([SYSTEM], [messages, [Message("user", "c")]])
