"""Every format of conversations gives the same messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.calls import read_calls
from hanlin.data.formats.content.tool_lists import read_tools
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.questions import read_math
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

Put = Callable[[str, Any], Path]
ASKED = (Message("user", "你是谁？"), Message("assistant", "我是小翰。"))
TWICE = (*ASKED, Message("user", "多大了？"), Message("assistant", "一岁。"))


def read(path: Path, **source: Any) -> tuple[str, list[ParsedChat | Drop]]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        reader = open_records(file, input_file, CHAT_FORMATS)
        return reader.format.partition(": ")[2], [found.item for found in reader.rows]


def read_only_chat(put: Put, row: Any, **source: Any) -> tuple[str, ParsedChat]:
    name, (chat,) = read(put("a.jsonl", [row]), **source)
    assert isinstance(chat, ParsedChat), chat
    return name, chat


@pytest.mark.parametrize(
    ("name", "row", "messages"),
    [
        ("alpaca", {"instruction": "你是谁？", "input": "", "output": "我是小翰。"}, ASKED),
        ("alpaca", {"instruction": "你是谁？", "context": "", "response": "我是小翰。\n"}, ASKED),
        ("alpaca", {"instruction": "多大了？", "output": "一岁。", "history": [["你是谁？", "我是小翰。"]]}, TWICE),
        ("alpaca", {"instruction": "你是谁？", "output": ["我是小翰。", "多大了？", "一岁。"]}, TWICE),
        ("prompt_response", {"kind": "QA", "input": "你是谁？", "target": "我是小翰。"}, ASKED),
        ("prompt_response", {"prompt": "你是谁？", "response": "我是小翰。"}, ASKED),
        ("prompt_response", {"question": "你是谁？", "answer": "我是小翰。"}, ASKED),
        ("prompt_response", {"问": "你是谁？", "答": "我是小翰。"}, ASKED),
        (
            "firefly",
            {
                "conversation_id": 1,
                "conversation": [
                    {"human": "你是谁？", "assistant": "我是小翰。"},
                    {"human": "多大了？", "assistant": "一岁。"},
                ],
            },
            TWICE,
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "你是谁？"}, {"from": "gpt", "value": "我是小翰。"}]},
            ASKED,
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "你是谁？"}, {"role": "assistant", "content": "我是小翰。"}]},
            ASKED,
        ),
        (
            "messages",
            [{"role": "user", "content": "你是谁？"}, {"role": "assistant", "content": "我是小翰。"}],
            ASKED,
        ),
        (
            "messages",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "value": "你是谁？"}], "loss_weight": 0.0},
                    {"role": "assistant", "content": [{"type": "text", "text": "我是小翰。"}], "loss_weight": 1.0},
                ]
            },
            (ASKED[0], replace(ASKED[1], train=True)),
        ),
        (
            "messages",
            {"messages": [{"role": "user", "text": "你是谁？"}, {"role": "assistant", "text": "我是小翰。"}]},
            ASKED,
        ),
        (
            "messages",
            {
                "prompt": [{"role": "user", "content": "你是谁？"}],
                "completion": [{"role": "assistant", "content": "我是小翰。"}],
            },
            ASKED,
        ),
        ("self_instruct", {"instruction": "你是谁？", "instances": [{"input": "", "output": "我是小翰。"}]}, ASKED),
        ("tagged_text", {"text": "<s>Human: 你是谁？\n</s><s>Assistant: 我是小翰。\n</s>"}, ASKED),
        ("tagged_text", {"text": "<s>Human: 你是谁？</s>\n<s>Assistant: 我是小翰。</s>"}, ASKED),
        ("tagged_text", {"text": "\n\nHuman: 你是谁？\n\nAssistant: 我是小翰。"}, ASKED),
        ("dialogues", ["你是谁？", "我是小翰。", "多大了？", "一岁。"], TWICE),
        ("dialogues", {"dialog": ["你 是 谁 ？", "我 是 小翰 。"]}, ASKED),
        (
            "moss",
            {
                "chat": {
                    "turn_1": {
                        "Human": "<|Human|>: 你是谁？<eoh>\n",
                        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                        "Commands": "<|Commands|>: None<eoc>\n",
                        "Tool Responses": "<|Results|>: None<eor>\n",
                        "MOSS": "<|MOSS|>: 我是小翰。<eom>\n",
                    },
                    "turn_2": {"Human": "<|Human|>: 多大了？<eoh>", "MOSS": "<|MOSS|>: 一岁。<eom>"},
                }
            },
            TWICE,
        ),
        ("moss", {"plain_text": "[Human]: 你是谁？<eoh> [MOSS]: 我是小翰。<eoa>"}, ASKED),
        (
            "moss",
            {
                "plain_text": "<|Human|>: 你是谁？<eoh>\n<|MOSS|>: 我是小翰。<eom>\n"
                "<|Human|>: 多大了？<eoh>\n<|MOSS|>: 一岁。<eom>"
            },
            TWICE,
        ),
    ],
)
def test_every_format_gives_the_same_messages(put: Put, name: str, row: Any, messages: tuple[Message, ...]) -> None:
    found, chat = read_only_chat(put, row)
    assert found == name
    assert chat.messages == messages


def test_the_input_follows_the_instruction(put: Put) -> None:
    _, chat = read_only_chat(put, {"instruction": "翻译：", "input": "hello", "output": "你好"})
    assert chat.messages[0].text == "翻译：\nhello"


@pytest.mark.parametrize(
    "row", [{"instruction": "问", "output": "答"}, {"conversation": [{"human": "问", "assistant": "答"}]}]
)
def test_a_system_field_becomes_the_first_turn(put: Put, row: dict[str, Any]) -> None:
    _, chat = read_only_chat(put, {**row, "system": "你是助手。"})
    assert chat.messages[0] == Message("system", "你是助手。")


def test_each_instance_is_a_conversation(put: Put) -> None:
    row = {"instruction": "近义词", "instances": [{"input": "高兴", "output": "愉快"}, {"input": "大", "output": ""}]}
    _, (first, second) = read(put("a.jsonl", [row]))
    assert isinstance(first, ParsedChat) and first.messages[0].text == "近义词\n高兴"
    assert second == Drop("no_answer")


def test_csv_with_input_and_target_is_a_conversation(put: Put) -> None:
    name, chats = read(put("a.csv", "input,target\n你是谁？,我是小翰。\n"))
    assert name == "prompt_response" and [chat.messages for chat in chats] == [ASKED]  # type: ignore[union-attr]


def test_math23k_answers_with_equation_and_result(put: Put) -> None:
    data = '{\n "id": "1",\n "original_text": "三加四？",\n "equation": "x=3+4",\n "ans": "7"\n}\n'
    name, chats = read(put("a.json", data + data))
    assert name == "math" and len(chats) == 2
    assert chats[0].messages[1].text == "x=3+4\n答案：7"  # type: ignore[union-attr]
    assert list(read_math({"original_text": "？", "equation": "x=1", "ans": ""})) == [Drop("no_answer")]


def test_lccc_is_a_list_of_dialogues(put: Put) -> None:
    name, chats = read(put("a.json", '[["火锅 我 在 重庆 吃 了 七八 顿", "哈哈 ！ 嘴巴 要 烂掉 ！", "不会 的"]]'))
    assert name == "dialogues"
    assert [m.text for m in chats[0].messages] == ["火锅我在重庆吃了七八顿", "哈哈！嘴巴要烂掉！", "不会的"]  # type: ignore[union-attr]


def test_blanks_between_english_words_of_a_dialogue_stay(put: Put) -> None:
    _, chat = read_only_chat(put, ["你 喜欢 hello world 吗", "喜欢 hello world"])
    assert chat.messages[0].text == "你喜欢hello world吗"


TOOLS = '[{"name": "add", "description": "加", "parameters": {"type": "object", "properties": {}}}]'


def test_sharegpt_tool_calls_become_calls_and_results(put: Put) -> None:
    turns = [
        {"from": "human", "value": "三加四？"},
        {"from": "gpt", "value": "我算一下。"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 3, "b": 4}}'},
        {"from": "observation", "value": '{"sum": 7}'},
        {"from": "gpt", "value": "是七。"},
    ]
    _, chat = read_only_chat(put, {"conversations": turns, "tools": TOOLS})
    assert chat.messages[1] == Message("assistant", "我算一下。", (ToolCall("add", {"a": 3, "b": 4}),))
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.tools[0]["name"] == "add"


def test_openai_tool_calls_are_read(put: Put) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}
    turns = [
        {"role": "developer", "content": "你是助手。"},
        {"role": "user", "content": "算"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "name": "add", "content": "7"},
        {"role": "assistant", "content": "七"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    _, chat = read_only_chat(put, {"messages": turns, "tools": tools})
    assert chat.messages[0].role == "system"
    assert chat.messages[2].tool_calls == (ToolCall("add", {"a": 3}, "1"), ToolCall("add", {"a": 3}, "1"))
    assert chat.messages[3].name == "add" and chat.tools == ({"name": "add", "parameters": {}},)


def test_our_own_conversations_are_read_back(put: Put) -> None:
    turns = [
        {"role": "user", "text": "算"},
        {"role": "assistant", "text": "", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
        {"role": "tool", "text": "2", "name": "add"},
        {"role": "assistant", "text": "二"},
    ]
    row = {"id": "a#1", "messages": turns, "tools": [{"name": "add"}], "source": "a:1", "meta": {"kind": "数学"}}
    _, chat = read_only_chat(put, row)
    assert [message.to_json() for message in chat.messages] == turns
    assert chat.tools == ({"name": "add"},) and chat.meta == {"kind": "数学"}


MOSS_PLUGIN = {
    "meta_instruction": "You are MOSS.\n- Calculator: enabled. API: Calculate(expression)\n- Web search: disabled.",
    "chat": {
        "turn_1": {
            "Human": "<|Human|>: 三加四再乘二？<eoh>\n",
            "Inner Thoughts": "<|Inner Thoughts|>: 先加后乘<eot>\n",
            "Commands": '<|Commands|>: Calculate("3+4"), Calculate("7*2")<eoc>\n',
            "Tool Responses": '<|Results|>:\nCalculate("3+4") => 7\n<eor>\n',
            "MOSS": "<|MOSS|>: 十四。<eom>\n",
        }
    },
}


def test_glaive_calls_have_their_arguments_and_functions_leave_the_system_text(put: Put) -> None:
    functions = '{"name": "add", "parameters": {}}\n\n{"name": "now", "parameters": {}}'
    chat_text = (
        "USER: It's 1 and 2?\n\n\nASSISTANT: Let me see. <functioncall> "
        """{"name": "add", "arguments": '{"note": "it\\'s", "terms": [1, 2]}'} <|endoftext|>\n\n\n"""
        'FUNCTION RESPONSE: {"sum": 3}\n\n\nASSISTANT: Three. <|endoftext|>\n\n\nUSER: USER: is a word\n\n\n'
        "ASSISTANT: Yes. <|endoftext|>\n\n\n"
    )
    _, chat = read_only_chat(put, {"system": f"SYSTEM: Use these -\n{functions}\n", "chat": chat_text})
    assert [message.role for message in chat.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]
    assert chat.messages[0].text == "Use these -" and [tool["name"] for tool in chat.tools] == ["add", "now"]
    assert chat.messages[2].text == "Let me see."
    assert chat.messages[2].tool_calls == (ToolCall("add", {"note": "it's", "terms": [1, 2]}),)
    assert chat.messages[3].text == '{"sum": 3}' and chat.messages[4].text == "Three."


@pytest.mark.parametrize(
    "functions", ['{"name": "add", ', '{"name": NaN}', '{"call": "add"}', '{"name": "add"} and more']
)
def test_glaive_functions_that_are_not_json_are_dropped_with_a_reason(put: Put, functions: str) -> None:
    row = {"system": f"SYSTEM: Use -\n{functions}", "chat": "USER: 问\n\n\nASSISTANT: 答"}
    _, (found,) = read(put("a.jsonl", [row]))
    assert isinstance(found, Drop) and found.reason == "broken_tools"


def test_moss_commands_become_calls_and_thoughts_their_reasoning(put: Put) -> None:
    _, chat = read_only_chat(put, MOSS_PLUGIN)
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert chat.messages[2].tool_calls == (
        ToolCall("Calculate", {"expression": "3+4"}),
        ToolCall("Calculate", {"expression": "7*2"}),
    )
    assert chat.messages[3].text == 'Calculate("3+4") => 7'
    assert chat.tools[0]["name"] == "Calculate"
    assert [message.reasoning for message in chat.messages] == ["", "", "先加后乘", "", ""]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": [{"from": "human", "value": "问"}, {"from": "martian", "value": "答"}]}, "unknown_role"),
        (
            {"conversations": [{"from": "human", "value": "问"}, {"from": "function_call", "value": "{"}]},
            "broken_tool_call",
        ),
        ({"conversations": [{"from": "human", "value": "问"}], "tools": "{"}, "broken_tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]}, "media"),
        (
            {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "weight": 0.5}]},
            "loss_weight",
        ),
        ({"instruction": "", "output": "答"}, "no_question"),
        ({"instruction": "问", "output": " "}, "no_answer"),
        ({"prompt": "问", "response": ""}, "no_answer"),
        ({"conversation": [{"human": "问", "assistant": None}]}, "no_answer"),
        ({"text": "<s>Human: 问</s>忘了标签<s>Assistant: 答</s>"}, "unparsed_tags"),
        (
            {"chat": {"turn_1": {"Human": "问", "Commands": "<|Commands|>: 先想想 Calculate(1)<eoc>"}}},
            "broken_tool_call",
        ),
        (["只有一句"], "no_answer"),
    ],
)
def test_an_untrainable_conversation_is_dropped_with_a_reason(put: Put, row: Any, reason: str) -> None:
    _, (chat,) = read(put("a.jsonl", [row]))
    assert isinstance(chat, Drop) and chat.reason == reason


def test_one_row_of_another_format_does_not_stop_the_others(put: Put) -> None:
    rows = [{"instruction": "问", "output": "答"}, {"messages": []}, {"instruction": "再问", "output": "再答"}]
    _, chats = read(put("a.jsonl", rows))
    assert [isinstance(chat, ParsedChat) for chat in chats] == [True, False, True]


def test_fields_are_renamed(put: Put) -> None:
    _, chat = read_only_chat(put, {"甲": "你是谁？", "乙": "我是小翰。"}, fields={"prompt": "甲", "response": "乙"})
    assert chat.messages == ASKED


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"问题": "你是谁？", "回复": "我是小翰。"}, {"instruction": "问题", "output": "回复"}),
        ({"对话": [{"谁": "user", "说": "你是谁？"}, {"谁": "gpt", "说": "我是小翰。"}]}, None),
        (
            {"conversation": [{"q": "你是谁？", "a": "我是小翰。"}]},
            {"human": "q", "assistant": "a"},
        ),
    ],
)
def test_fields_are_named_in_one_line_also_those_of_turns(put: Put, row: Any, fields: dict[str, str] | None) -> None:
    _, chat = read_only_chat(put, row, fields=fields or {"messages": "对话", "role": "谁", "content": "说"})
    assert chat.messages == ASKED


def test_belle_has_a_chat_of_several_turns_in_its_instruction(put: Put) -> None:
    told = "Human:你是谁？\nAssistant:我是小翰。\nHuman: 多大了？\nAssistant:"
    _, chat = read_only_chat(put, {"instruction": told, "input": "", "output": "一岁。"})
    assert chat.messages == TWICE
    _, chat = read_only_chat(put, {"instruction": "把 Human: 一词译成中文", "output": "人类"})
    assert len(chat.messages) == 2


def test_an_unknown_format_lists_fields_and_known_formats(put: Put) -> None:
    with pytest.raises(UserError, match="unknown format: jsonl with the fields foo, bar") as refusal:
        read(put("a.jsonl", [{"foo": 1, "bar": 2}]))
    assert "sharegpt" in str(refusal.value.hint) and "alpaca" in str(refusal.value.hint)


def test_unpaired_answers_are_not_read_as_conversations(put: Put) -> None:
    row = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "坏"}], "label": False}
    with pytest.raises(UserError, match="KTO"):
        read(put("a.jsonl", [row]))


def test_calls_are_read_from_text_lists_and_wrappings() -> None:
    call = ToolCall("f", {"x": 1})
    assert read_calls(['{"name": "f", "arguments": {"x": 1}}']) == (call,)
    assert read_calls(['[{"name": "f", "arguments": "{\\"x\\": 1}"}]']) == (call,)
    assert read_calls([{"function": {"name": "f", "parameters": {"x": 1}}}]) == (call,)
    assert isinstance(read_calls(["f(1)"]), Drop)


def test_no_tools_and_broken_tools_are_not_the_same() -> None:
    assert read_tools("") == () and read_tools("[]") == ()
    assert read_tools("[{") == Drop("broken_tools")


def test_the_indent_of_a_first_line_of_code_stays(put: Put) -> None:
    _, chat = read_only_chat(put, {"instruction": "写", "output": "\n    x = 1\n    y = 2\n"})
    assert chat.messages[1].text == "    x = 1\n    y = 2"
