"""The chat in the terminal: pieces as they come, several turns, forgetting, and one-shot answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.engines import Sampling
from hanlin.errors import UserError
from hanlin.evaluate.opening import Opened
from hanlin.serve.terminal import Chat, chat
from taught_model import LESSONS, RARE

GREEDY = Sampling(max_new_tokens=40)


class Typist:
    """Types lines and remembers what was shown; the end of the lines is the end of input."""

    def __init__(self, *lines: str) -> None:
        self._lines: Iterator[str] = iter(lines)
        self.shown: list[str] = []

    def ask(self, prompt: str) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None

    def show(self, piece: str) -> None:
        self.shown.append(piece)

    @property
    def text(self) -> str:
        return "".join(self.shown)


def talk(model: Path | str, *lines: str, **options) -> Typist:
    typist = Typist(*lines)
    chat(model, ask=typist.ask, show=typist.show, **options)
    return typist


def test_one_message_gets_one_answer_and_nothing_else(taught_model: Path) -> None:
    assert talk(taught_model, once=LESSONS[0][0]).text == "我叫小翰。\n"


def test_characters_appear_one_by_one_and_whole(taught_model: Path) -> None:
    assert talk(taught_model, once=LESSONS[2][0]).shown == [*RARE, "\n"]


def test_quit_ends_and_what_follows_is_not_asked(taught_model: Path) -> None:
    assert "我叫小翰" not in talk(taught_model, "/quit", LESSONS[0][0]).text


def test_reset_makes_the_next_question_the_first(taught_model: Path) -> None:
    answers = talk(taught_model, LESSONS[0][0], "/reset", LESSONS[1][0]).text.splitlines()
    assert answers[1:4] == ["我叫小翰。", "forgotten", "七"]


def test_the_answers_so_far_are_part_of_the_next_prompt(opened: Opened) -> None:
    conversation = Chat(opened.engine, opened.template(), "你是小翰。", GREEDY)
    conversation.say(LESSONS[0][0], lambda piece: None)
    conversation.say(LESSONS[1][0], lambda piece: None)
    assert [message.role for message in conversation.messages] == ["system", *["user", "assistant"] * 2]


def test_a_long_conversation_forgets_its_oldest_turns_but_never_the_system_text(untaught: Opened) -> None:
    conversation = Chat(untaught.engine, untaught.template(), "你是小翰。", Sampling(max_new_tokens=30))
    for number in range(12):
        conversation.say(f"问题{number}", lambda piece: None)
    assert conversation.forgotten > 0
    assert conversation.messages[0].text == "你是小翰。"
    assert conversation.messages[-2].text == "问题11"
    assert conversation.messages[1].role == "user"


def test_an_interrupted_answer_is_kept_as_far_as_it_came(untaught: Opened) -> None:
    conversation = Chat(untaught.engine, untaught.template(), "", GREEDY)
    shown: list[str] = []

    def show(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 3:
            raise KeyboardInterrupt

    assert conversation.say("?", show) == "".join(shown)
    assert conversation.messages[-1].text == "".join(shown)


def test_a_message_that_does_not_fit_is_told_and_the_chat_goes_on(taught_model: Path) -> None:
    shown = talk(taught_model, "长" * 300, LESSONS[0][0]).text
    assert "tokens long" in shown and "我叫小翰。" in shown


def test_one_message_that_does_not_fit_is_an_error(taught_model: Path) -> None:
    with pytest.raises(UserError, match="tokens long"):
        talk(taught_model, once="长" * 300)


def test_one_of_several_gguf_files_is_named_after_a_colon(taught_gguf: Path) -> None:
    assert talk(f"{taught_gguf}:Q8_0", once=LESSONS[0][0]).text == "我叫小翰。\n"
