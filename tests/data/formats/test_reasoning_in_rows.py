"""The reasoning of an answer goes to the message once, whatever field or mark holds it."""

from __future__ import annotations

from typing import Any

import pytest

from hanlin.core.records import Message
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.reasoning import split_reasoning
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop

ASK, THOUGHT, TELL = "三加四？", "三加四得七。", "等于七。"
THINKING = (Message("user", ASK), Message("assistant", TELL, reasoning=THOUGHT))
PLAIN = (Message("user", ASK), Message("assistant", TELL))


def read_row(row: Any) -> ParsedChat | Drop:
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row))
    (item,) = chosen.read(row)
    return item


def messages_of(row: Any) -> tuple[Message, ...]:
    item = read_row(row)
    assert isinstance(item, ParsedChat), item
    return item.messages


def answer(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": ASK}, {"role": "assistant", **fields}]}


TAGGED = f"<think>\n{THOUGHT}\n</think>\n\n{TELL}"

ROWS: dict[str, Any] = {
    "reasoning_content": answer(reasoning_content=THOUGHT, content=TELL),
    "reasoning": answer(reasoning=THOUGHT, content=TELL),
    "thinking": answer(thinking=THOUGHT, content=TELL),
    "think tags": answer(content=TAGGED),
    "think tags in a field": answer(reasoning_content=f"<think>{THOUGHT}</think>", content=TELL),
    "think tags, begun by the prompt": answer(content=f"{THOUGHT}\n</think>\n\n{TELL}"),
    "thinking tags": answer(content=f"<thinking>{THOUGHT}</thinking>{TELL}"),
    "reasoning_details": answer(reasoning_details=[{"type": "reasoning.text", "text": THOUGHT}], content=TELL),
    "channels of gpt-oss": answer(
        content=f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{TELL}<|return|>"
    ),
    "OpenThoughts": answer(
        content=f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n"
        f"<|begin_of_solution|>\n\n{TELL}\n\n<|end_of_solution|>"
    ),
    "AM-DeepSeek-R1": answer(content=f"<think>{THOUGHT}</think>\n<answer>{TELL}</answer>"),
    "an answer whose thinking began in the prompt": answer(
        content=f"{THOUGHT}\n</think>\n\n<answer>\n{TELL}\n</answer>\n"
    ),
    "field and tags, the same": answer(reasoning_content=THOUGHT, content=TAGGED),
    "details, as OpenRouter gives them": answer(
        reasoning_details=[{"type": "reasoning.text", "text": THOUGHT}], content=TELL
    ),
    "blocks, as LiteLLM gives them": answer(
        thinking_blocks=[{"type": "thinking", "thinking": THOUGHT, "signature": "x"}], content=TELL
    ),
    "Chinese tags": answer(content=f"<思考>\n{THOUGHT}\n</思考>\n<回答>\n{TELL}\n</回答>"),
    "Chinese headings": answer(content=f"【思考过程】{THOUGHT}\n【回答】{TELL}"),
    "the channels of gpt-oss": answer(
        content=f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{TELL}"
    ),
    "beside the turns": {**answer(content=TELL), "reasoning": THOUGHT},
    "beside a prompt of turns": {
        "input": [{"role": "user", "content": ASK}],
        "output": TELL,
        "reasoning_content": THOUGHT,
    },
    "a typed reasoning part": answer(
        content=[{"type": "reasoning", "value": THOUGHT}, {"type": "text", "value": TELL}]
    ),
    "a typed part with a summary": answer(
        content=[
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]},
            {"type": "text", "text": TELL},
        ]
    ),
    "medical R1 columns beside the question that they were made of": {
        "Question": ASK,
        "Complex_CoT": THOUGHT,
        "Response": TELL,
        "answer": "7",
        "question": "三加四等于几？",
        "options": {"A": "7", "B": "8"},
    },
    "a typed thinking part": answer(
        content=[{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": TELL}]
    ),
    "a turn of reasoning": {
        "messages": [
            {"role": "user", "content": ASK},
            {"role": "reasoning", "content": f"<think>{THOUGHT}</think>"},
            {"role": "answer", "content": TELL},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": TAGGED}]},
    "alpaca": {"instruction": ASK, "output": TAGGED},
    "alpaca with a field": {"instruction": ASK, "output": TELL, "reasoning": THOUGHT},
    "prompt and response": {"prompt": ASK, "response": TAGGED},
    "R1 columns": {"input": ASK, "reasoning_content": THOUGHT, "content": TELL},
    "medical R1 columns": {"Question": ASK, "Complex_CoT": THOUGHT, "Response": TELL},
    "s1 columns": {"question": ASK, "deepseek_thinking_trajectory": THOUGHT, "deepseek_attempt": TELL, "solution": "7"},
    "columns of a problem": {"problem": ASK, "deepseek_reasoning": THOUGHT, "deepseek_solution": TELL},
    "Chinese columns": {"问题": ASK, "思考过程": THOUGHT, "回答": TELL},
    "firefly": {"conversation": [{"human": ASK, "assistant": TAGGED}]},
    "turns with reasoning": {"conversation": [{"human": ASK, "reasoning": THOUGHT, "assistant": TELL}]},
    "a prompt that is a list": {"input": [{"role": "user", "content": ASK}], "output": TAGGED, "reasoning": "on"},
    "dialogue": [ASK, TAGGED],
    "our own record": {"messages": [{"role": "user", "text": ASK}, THINKING[1].to_json()]},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_reasoning_is_read_once(row: Any) -> None:
    assert messages_of(row) == THINKING


@pytest.mark.parametrize(
    "fields",
    [
        {"content": f"<think>\n\n</think>\n\n{TELL}"},
        {"content": f"<think></think>{TELL}"},
        {"content": TELL, "reasoning_content": ""},
        {"content": TELL, "reasoning_content": None},
        {"content": TELL, "thinking": True},
        {"content": TELL, "reasoning": "off"},
    ],
)
def test_an_empty_block_or_a_switch_is_no_reasoning(fields: dict[str, Any]) -> None:
    assert messages_of(answer(**fields)) == PLAIN


def test_different_reasoning_in_field_and_text_is_kept_both() -> None:
    message = messages_of(answer(reasoning_content="先想。", content=TAGGED))[1]
    assert message.reasoning == f"先想。\n\n{THOUGHT}" and message.text == TELL


def test_blocks_in_a_row_are_all_reasoning() -> None:
    assert split_reasoning("<think>一</think>\n<think>二</think>三") == ("一\n\n二", "三")


@pytest.mark.parametrize(
    "text", ["用 <think> 和 </think> 包住思考。", "<thinking> 是一个标签", "[think] 再说", "先答。<think>后想</think>"]
)
def test_a_tag_that_is_talked_of_stays_text(text: str) -> None:
    assert split_reasoning(text) == ("", text)


@pytest.mark.parametrize("text", [f"<think>{THOUGHT}", f"<|begin_of_thought|>{THOUGHT}"])
def test_reasoning_without_an_end_is_dropped_by_name(text: str) -> None:
    item = read_row(answer(content=text))
    assert isinstance(item, Drop) and item.reason == "unclosed_reasoning"


def test_reasoning_before_a_call_stays_with_it() -> None:
    turns = [
        {"from": "human", "value": ASK},
        {"from": "function_call", "value": f'<think>\n{THOUGHT}\n</think>\n\n{{"name": "add", "arguments": {{}}}}'},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": TELL},
    ]
    call = messages_of({"conversations": turns})[1]
    assert call.reasoning == THOUGHT and call.text == "" and call.tool_calls[0].name == "add"


def test_an_answer_of_an_exam_keeps_its_analysis_beside_it() -> None:
    item = read_row({"question": ASK, "answer": TELL, "analysis": "个位相加。"})
    assert isinstance(item, ParsedChat) and item.messages == PLAIN and item.meta == {"analysis": "个位相加。"}


def test_reasoning_beside_several_answers_is_not_given_to_one_of_them() -> None:
    turns = [
        *answer(content=TELL)["messages"],
        {"role": "user", "content": "再加一？"},
        {"role": "assistant", "content": "八。"},
    ]
    item = read_row({"messages": turns, "reasoning": THOUGHT})
    assert isinstance(item, ParsedChat) and item.meta == {"reasoning": THOUGHT}
    assert not any(message.reasoning for message in item.messages)


def test_a_channel_that_is_no_answer_is_dropped_by_name() -> None:
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    item = read_row(answer(content=f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant{call}"))
    assert isinstance(item, Drop) and item.reason == "broken_tool_call"


@pytest.mark.parametrize(
    "rest",
    ["<answer>七</answer>，对吗？", "在 HTML 里写 <answer>七</answer>", "<answer>六</answer><answer>七</answer>"],
)
def test_tags_of_an_answer_that_are_not_all_around_it_stay(rest: str) -> None:
    assert split_reasoning(f"<think>{THOUGHT}</think>{rest}") == (THOUGHT, rest)


def test_tags_of_an_answer_without_reasoning_stay() -> None:
    assert split_reasoning(f"<answer>{TELL}</answer>") == ("", f"<answer>{TELL}</answer>")
