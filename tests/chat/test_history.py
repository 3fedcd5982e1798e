"""What is forgotten when a conversation outgrows the context: the oldest whole turns, never the system text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.chat.history import split_turns, truncate
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer

SYSTEM = Message("system", "你是小翰。")


def talk(count: int) -> list[Message]:
    said = [SYSTEM]
    for number in range(count):
        said += [Message("user", f"问题{number}"), Message("assistant", f"回答{number}")]
    return [*said, Message("user", "最后一问")]


@pytest.fixture(scope="module")
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)


@pytest.fixture(scope="module")
def template31(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    folder = tmp_path_factory.mktemp("llama31")
    return ChatTemplate.load(folder, train_tokenizer(["三加四等于七"], vocab_size=300, template="llama3.1", out=folder))


def length(template: ChatTemplate, messages: list[Message]) -> int:
    return len(template.render(messages, prompt=True).ids)


def test_what_fits_is_kept_whole(template: ChatTemplate) -> None:
    messages = talk(7)
    fitted = truncate(messages, template, length(template, messages))
    assert (list(fitted.messages), fitted.dropped) == (messages, 0)


def test_one_token_too_many_drops_the_oldest_turn_and_no_more(template: ChatTemplate) -> None:
    messages = talk(7)
    fitted = truncate(messages, template, length(template, messages) - 1)
    assert fitted.dropped == 1
    assert list(fitted.messages) == [SYSTEM, *messages[3:]]


def test_the_newest_turns_and_the_system_text_survive(template: ChatTemplate) -> None:
    messages = talk(50)
    fitted = truncate(messages, template, 100)
    assert fitted.messages[0] == SYSTEM
    assert fitted.messages[1].role == "user"
    assert list(fitted.messages[1:]) == messages[-len(fitted.messages) + 1 :]
    assert len(fitted.ids) <= 100 < length(template, [SYSTEM, *messages[1 + 2 * (fitted.dropped - 1) :]])


def test_the_ids_are_the_prompt_of_what_is_kept(template: ChatTemplate) -> None:
    fitted = truncate(talk(50), template, 100)
    assert list(fitted.ids) == template.render(fitted.messages, prompt=True).ids


def test_a_last_turn_that_does_not_fit_is_refused_with_its_length(template: ChatTemplate) -> None:
    alone = length(template, [SYSTEM, Message("user", "最后一问")])
    with pytest.raises(UserError, match=f"{alone} tokens long.*only {alone - 1} fit"):
        truncate(talk(3), template, alone - 1)


def test_a_last_turn_is_cut_at_its_end_where_that_is_asked_for(template: ChatTemplate) -> None:
    question = "很长的问题：" + "三加四等于七。" * 100
    fitted = truncate([*talk(3)[:-1], Message("user", question)], template, 80, cut=True)
    kept = fitted.messages[-1].text
    assert fitted.messages[:-1] == (SYSTEM,)
    assert question.startswith(kept)
    assert fitted.cut == len(question) - len(kept) > 0
    assert len(fitted.ids) <= 80 < length(template, [SYSTEM, Message("user", question[: len(kept) + 1])])


def test_a_system_text_is_never_cut(template: ChatTemplate) -> None:
    with pytest.raises(UserError, match="tokens long"):
        truncate([Message("system", "你是小翰。" * 50), Message("user", "问")], template, 60, cut=True)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=12), st.integers(40, 200))
def test_a_tool_exchange_is_kept_whole_or_not_at_all(
    template31: ChatTemplate, exchanges: list[tuple[int, bool]], budget: int
) -> None:
    messages = [SYSTEM]
    for size, calls in exchanges:
        messages.append(Message("user", "问" * size))
        if calls:
            messages += [Message("assistant", "", (ToolCall("time", {}),)), Message("tool", "八点", name="time")]
        messages.append(Message("assistant", "答"))
    messages.append(Message("user", "完"))
    smallest = length(template31, [SYSTEM, messages[-1]])
    fitted = truncate(messages, template31, smallest + budget)
    _, groups = split_turns(messages)
    assert fitted.messages == (SYSTEM, *(message for group in groups[fitted.dropped :] for message in group))
    assert len(fitted.ids) <= smallest + budget
    if fitted.dropped:
        longer = [SYSTEM, *(message for group in groups[fitted.dropped - 1 :] for message in group)]
        assert length(template31, longer) > smallest + budget


def test_a_tools_result_stays_with_the_question_it_serves() -> None:
    call = Message("assistant", "", (ToolCall("time", {}),))
    messages = [Message("user", "a"), call, Message("tool", "12", name="time"), Message("assistant", "b")]
    assert split_turns([SYSTEM, *messages, Message("user", "c")]) == ([SYSTEM], [messages, [Message("user", "c")]])
