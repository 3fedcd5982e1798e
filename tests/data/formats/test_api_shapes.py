"""Logs and data of the APIs of OpenAI and Google, and several conversations in one row, are read with all they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.cells import decode_cells
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.formats.turns import ParsedChat
from stage_runs import Made

USER = {"role": "user", "content": "几点开门？"}
ANSWER = {"role": "assistant", "content": "八点。"}


def read_all(row: Any) -> list[Any]:
    value = decode_cells(row)
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(value))
    return list(chosen.read(value))


def read(row: Any) -> ParsedChat:
    (chat,) = read_all(row)
    assert isinstance(chat, ParsedChat), chat
    return chat


def test_the_items_of_the_responses_api_are_turns() -> None:
    chat = read(
        {
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "几点开门？"}]},
                {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "查一下。"}]},
                {"type": "function_call", "call_id": "c1", "name": "hours", "arguments": '{"place": "馆"}', "extra": 1},
                {"type": "function_call_output", "call_id": "c1", "output": "8:00"},
            ],
            "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "八点。"}]}
            ],
        }
    )
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.messages[1].reasoning == "查一下。" and chat.messages[1].tool_calls[0].id == "c1"
    assert chat.messages[2].tool_call_id == "c1" and chat.messages[3].text == "八点。"
    assert chat.unread == ("turn.extra",)


def test_the_calls_results_and_thoughts_of_gemini_are_read() -> None:
    declared = {"functionDeclarations": [{"name": "hours", "description": "d", "parameters": {"type": "object"}}]}
    chat = read(
        {
            "tools": [declared],
            "contents": [
                {"role": "user", "parts": [{"text": "几点开门？"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "hours", "args": {"place": "馆"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "hours", "response": {"open": "8:00"}}}]},
                {"role": "model", "parts": [{"text": "查到了。", "thought": True}, {"text": "八点。"}]},
            ],
        }
    )
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert (chat.messages[1].tool_calls[0].name, chat.messages[2].name) == ("hours", "hours")
    assert (chat.messages[3].reasoning, chat.messages[3].text) == ("查到了。", "八点。")
    assert [tool["name"] for tool in chat.tools] == ["hours"]


def test_a_log_of_a_request_and_its_response_is_a_conversation() -> None:
    response = {"status_code": 200, "body": {"choices": [{"message": ANSWER, "finish_reason": "stop"}]}}
    chat = read({"request": {"model": "m", "messages": [USER]}, "response": response})
    assert [message.text for message in chat.messages] == ["几点开门？", "八点。"]
    assert chat.meta == {
        "request.model": "m",
        "response.finish_reason": "stop",
        "response.status_code": 200,
    }


def test_preferences_in_the_form_of_openai_are_pairs() -> None:
    bad = {"role": "assistant", "content": "不知道。"}
    row = {"input": {"messages": [USER], "tools": []}, "preferred_output": [ANSWER], "non_preferred_output": [bad]}
    (pair,) = PREFERENCE_FORMATS[0].read(decode_cells(row))
    assert (pair.prompt[0].text, pair.chosen.text, pair.rejected.text) == ("几点开门？", "八点。", "不知道。")  # type: ignore[union-attr]


def test_a_speaker_called_system_answers_where_there_is_only_a_user_beside_it() -> None:
    turns = [{"speaker": "USER", "utterance": "几点开门？"}, {"speaker": "SYSTEM", "utterance": "八点。"}]
    assert [message.role for message in read({"turns": turns}).messages] == ["user", "assistant"]
    first = [{"speaker": "SYSTEM", "utterance": "你是助手。"}, turns[0], {"speaker": "bot", "utterance": "八点。"}]
    assert [message.role for message in read({"turns": first}).messages] == ["system", "user", "assistant"]


def test_a_thought_that_repeats_the_answer_is_no_reasoning() -> None:
    chat = read({"messages": [USER, {**ANSWER, "thought": "八点。 "}]})
    assert (chat.messages[1].reasoning, chat.messages[1].text) == ("", "八点。")


def test_the_switch_of_the_chat_template_is_kept_with_the_conversation() -> None:
    chat = read({"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False, "python_tools": []}})
    assert chat.meta == {"enable_thinking": False} and chat.unread == ()


@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_several_conversations_in_one_row_are_read_each(field: str) -> None:
    chats = read_all({field: [[USER, ANSWER], [{"role": "user", "content": "几点关门？"}, ANSWER], 5]})
    assert [getattr(chat, "messages", (None,))[0] and chat.messages[0].text for chat in chats[:2]] == [
        "几点开门？", "几点关门？",
    ]  # fmt: skip
    assert chats[2].reason == "other_format"


def test_prompts_without_answers_are_dropped_by_name(put: Callable[..., Path], run: Callable[..., Made]) -> None:
    prompt_only = {"data_source": "math", "prompt": [USER], "reward_model": {"ground_truth": "8"}}
    path = put("prompts.jsonl", [prompt_only, {"messages": [USER, ANSWER]}])
    made = run(Conversations, path, validation_fraction=0, max_dropped=0.9)
    assert made.ledger["dropped"] == {"no_answer": 1}


def test_a_list_of_turns_that_a_task_is_about_stays_a_text() -> None:
    text = '[{"role": "user", "content": "你好"}]'
    chat = read({"instruction": "说说这段对话。", "input": text, "output": "一句问候。"})
    assert chat.messages[0].text == f"说说这段对话。\n{text}"


@pytest.mark.parametrize("field", ["data", "result"])
@pytest.mark.parametrize("name", ["messages", "conversations"])
def test_a_conversation_below_an_object_is_read(field: str, name: str) -> None:
    chat = read({"code": 200, field: {name: [USER, ANSWER], "score": [1]}})
    assert [turn.text for turn in chat.messages] == ["几点开门？", "八点。"] and chat.unread == (f"{field}.score",)
