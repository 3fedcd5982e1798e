"""ReAct's traces under headings, in English or Chinese: read into calls, results and answers wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations
from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop
from stage_runs import Made

ASK = Message("user", "北京天气如何？")
CALL = ToolCall("weather", {"city": "北京"})
RESULT = Message("tool", "晴，二十度", name="weather")
TELL = Message("assistant", "北京晴。", reasoning="知道了。")
TRACE = (ASK, Message("assistant", "", (CALL,), reasoning="要查。"), RESULT, TELL)
EN = """Thought: 要查。
Action: weather
Action Input: {"city": "北京"}
Observation: 晴，二十度
Thought: 知道了。
Final Answer: 北京晴。"""
ZH = """思考：要查。
行动：weather
行动输入：{"city": "北京"}
观察：晴，二十度
思考：知道了。
最终答案：北京晴。"""


def read_answer(text: str, **beside: Any) -> ParsedChat | Drop:
    row = {"instruction": ASK.text, "output": text, **beside}
    (item,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    return item


def turns_of(text: str, **beside: Any) -> tuple[Message, ...]:
    chat = read_answer(text, **beside)
    assert isinstance(chat, ParsedChat), chat
    return chat.messages


@pytest.mark.parametrize(
    "text",
    [
        EN,
        ZH,
        ZH.replace("行动", "动作").replace("观察", "观察结果").replace("最终答案", "最终回答"),
        ZH.replace("思考", "想法")
        .replace("行动：", "工具：")
        .replace("行动输入", "工具输入")
        .replace("观察", "工具返回"),
        ZH.replace("：", ": ").replace("行动输入", "行动参数"),
        EN.replace("Thought:", "**Thought:**").replace("Action Input:", "**Action Input:**"),
        EN.replace('{"city": "北京"}', '```json\n{"city": "北京"}\n```'),
        EN.replace(
            'weather\nAction Input: {"city": "北京"}', '{"action": "weather", "action_input": {"city": "北京"}}'
        ),
    ],
)
def test_a_trace_in_one_answer_is_read_into_turns_so_that_its_observation_is_not_learned(text: str) -> None:
    assert turns_of(text) == TRACE


def test_the_first_form_of_react_numbers_its_steps_and_ends_with_finish() -> None:
    steps = ["要查。", "weather[北京]", "晴，二十度", "知道了。", "Finish[北京晴。]"]
    names = ["Thought 1", "Action 1", "Observation 1", "Thought 2", "Action 2"]
    text = "\n".join(f"{name}: {step}" for name, step in zip(names, steps, strict=True))
    call = Message("assistant", "", (ToolCall("weather", {"input": "北京"}),), reasoning="要查。")
    assert turns_of(text) == (ASK, call, RESULT, TELL)


def test_the_only_parameter_of_a_known_tool_names_an_input_that_is_plain_text() -> None:
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    assert turns_of(ZH.replace('{"city": "北京"}', "北京"), tools=[tool]) == TRACE


def test_several_actions_before_their_observations_are_calls_of_one_turn() -> None:
    actions = "\n".join(f"行动：weather\n行动输入：{city}" for city in ("北京", "上海"))
    text = f"思考：都查。\n{actions}\n观察：晴\n观察：雨\n最终答案：北京晴。"
    calls = (ToolCall("weather", {"input": "北京"}), ToolCall("weather", {"input": "上海"}))
    assert turns_of(text) == (
        *(ASK, Message("assistant", "", calls, reasoning="都查。"), Message("tool", "晴"), Message("tool", "雨")),
        Message("assistant", "北京晴。"),
    )


def test_reasoning_before_a_trace_stays_with_its_first_call() -> None:
    turns = turns_of(f"<think>\n先想想。\n</think>\n\n{ZH}")
    assert turns[1].reasoning == "先想想。\n要查。" and turns[2:] == TRACE[2:]


def test_without_a_final_answer_the_last_thought_is_it() -> None:
    assert turns_of(ZH.removesuffix("\n最终答案：北京晴。"))[-1] == Message("assistant", "知道了。")


@pytest.mark.parametrize(("observed", "call"), [("观察：晴，二十度", ZH), ("Observation: 晴，二十度", EN)])
def test_an_observation_that_the_user_says_is_the_result(observed: str, call: str) -> None:
    before, _, after = call.partition(observed)
    turns = [("user", ASK.text), ("assistant", before), ("user", observed), ("assistant", after.strip())]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (chat,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    assert isinstance(chat, ParsedChat)
    assert chat.messages == (*TRACE[:2], Message("tool", "晴，二十度"), TELL)


def test_a_question_that_begins_as_an_observation_does_makes_no_call_of_the_answer_before_it() -> None:
    turns = [
        ("user", "写一段。"),
        ("assistant", "```python\nf(1)\n```"),
        ("user", "观察：报错了。"),
        ("assistant", "改好了。"),
    ]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (chat,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    assert isinstance(chat, ParsedChat) and [(turn.role, turn.text) for turn in chat.messages] == turns


@pytest.mark.parametrize(
    "text",
    [
        "观察：水会流。\n思考：为什么？\n行动：做实验。",
        "思考：孩子喜欢什么？\n行动：带他去看鸟\n观察：鸟飞走了。",
        "写法如下：\n\n" + ZH,
        "工具：锤子\n参数：一公斤\n说明：结果要看手法。",
        "这个问题的结果要看行动和观察。",
    ],
)
def test_prose_under_such_headings_and_text_about_traces_stay_text(text: str) -> None:
    assert turns_of(text) == (ASK, Message("assistant", text))


def test_a_trace_with_a_broken_call_is_dropped_by_name() -> None:
    item = read_answer(ZH.replace('"北京"}', "北京"))
    assert isinstance(item, Drop) and item.reason == "broken_tool_call"


def test_a_trace_of_more_steps_than_an_answer_has_is_dropped_by_name() -> None:
    item = read_answer("行动：weather\n行动输入：北京\n观察：晴\n" * 100)
    assert isinstance(item, Drop) and item.reason == "broken_tool_call"


def test_a_call_that_waits_for_its_result_is_a_call_if_its_tool_is_known() -> None:
    text = ZH.partition("晴")[0].strip()
    assert turns_of(text, tools=[{"name": "weather"}]) == TRACE[:2]
    assert turns_of(text) == (ASK, Message("assistant", text))


@pytest.mark.parametrize("question", ["Question", "问题"])
def test_a_text_of_a_question_and_its_trace_is_a_conversation(question: str) -> None:
    row = {"text": f"{question}: {ASK.text}\n{ZH}"}
    reader = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row))
    (chat,) = reader.read(row)
    assert reader.name == "tagged_text" and isinstance(chat, ParsedChat) and chat.messages == TRACE


PARAMETERS = [{"name": "city", "description": "城市", "required": True, "schema": {"type": "string"}}]
LISTED = f"weather: Call this tool to interact with the weather API. What is the weather API useful for? 查天气 \
Parameters: {json.dumps(PARAMETERS, ensure_ascii=False)} Format the arguments as a JSON object."
PROMPT = f"""Answer the following questions as best you can. You have access to the following APIs:

{LISTED}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [weather]
Action Input: the input to the action
Observation: the result of the action
Final Answer: the final answer to the original input question

Begin!

Question: {ASK.text}"""


def test_tools_and_question_are_taken_out_of_a_prompt_that_says_how_calls_are_written() -> None:
    """The chat template says it in the model's own way, in which the calls are rendered."""
    row = {"conversations": [{"from": "user", "value": PROMPT}, {"from": "assistant", "value": EN}]}
    (chat,) = CHAT_FORMATS[0].read(row)
    assert isinstance(chat, ParsedChat) and chat.messages == TRACE and chat.unread == ("prompt.call_format",)
    schema = {"type": "object", "properties": {"city": {"type": "string", "description": "城市"}}, "required": ["city"]}
    assert chat.tools == ({"name": "weather", "description": "查天气", "parameters": schema},)


def test_a_prompt_whose_tools_are_in_no_known_form_is_left_as_it_is() -> None:
    prompt = PROMPT.replace(LISTED, "weather 是查天气用的。")
    row = {"conversations": [{"from": "user", "value": prompt}, {"from": "assistant", "value": EN}]}
    (chat,) = CHAT_FORMATS[0].read(row)
    assert isinstance(chat, ParsedChat) and chat.messages == (Message("user", prompt), *TRACE[1:])


def test_what_is_kept_of_a_trace_has_no_heading_left(put: Callable[[str, Any], Path], run: Callable[..., Made]) -> None:
    row = {"instruction": ASK.text, "output": ZH}
    (kept,) = run(Conversations, put("a.jsonl", [row]), validation_fraction=0).kept
    assert [turn["role"] for turn in kept["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert not any("：" in turn["text"] for turn in kept["messages"])
