"""Calls, results and tools are read alike, whichever public set of agent data writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop
from waiting import hang_limit

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "查询天气",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASK = Message("user", "北京和上海天气如何？")
CALLS = (ToolCall("get_weather", {"city": "北京"}), ToolCall("get_weather", {"city": "上海"}))
RESULTS = (Message("tool", "晴"), Message("tool", "雨"))
TELL = Message("assistant", "北京晴，上海雨。")
TRACE = (ASK, Message("assistant", "", CALLS), *RESULTS, TELL)
ONE = (ASK, Message("assistant", "", CALLS[:1]), RESULTS[0], TELL)

BEIJING, SHANGHAI = ({"name": "get_weather", "arguments": {"city": city}} for city in ("北京", "上海"))
HUMAN, GPT = {"from": "human", "value": ASK.text}, {"from": "gpt", "value": TELL.text}
USER, ANSWER = {"role": "user", "content": ASK.text}, {"role": "assistant", "content": TELL.text}
OPENAI_TOOLS: list[dict[str, Any]] = [{"type": "function", "function": WEATHER}]


def text_of(*calls: Any) -> str:
    return "\n".join(json.dumps(call, ensure_ascii=False) for call in calls)


def read_row(row: Any) -> tuple[str, ParsedChat | Drop]:
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row))
    (item,) = chosen.read(row)
    return chosen.name, item


def read_chat(row: Any) -> ParsedChat:
    item = read_row(row)[1]
    assert isinstance(item, ParsedChat), item
    return item


def tagged(*calls: Any) -> str:
    return "\n".join(f"<tool_call>\n{text_of(call)}\n</tool_call>" for call in calls)


def call_trace(answer: dict[str, Any], role: str = "tool", count: int = 2) -> list[dict[str, Any]]:
    """The question, an answer that calls, `count` results in turns of `role`, and the answer after them."""
    return [USER, answer, *({"role": role, "content": result.text} for result in RESULTS[:count]), ANSWER]


SHAPES: dict[str, list[dict[str, Any]]] = {
    "function_call turns": [
        HUMAN,
        *({"from": "function_call", "value": text_of(call)} for call in (BEIJING, SHANGHAI)),
        {"from": "observation", "value": "晴"},
        {"from": "observation", "value": "雨"},
        GPT,
    ],
    "function_call with a list": [
        HUMAN,
        {"from": "function_call", "value": json.dumps([BEIJING, SHANGHAI], ensure_ascii=False)},
        {"from": "observation", "value": "晴"},
        {"from": "observation", "value": "雨"},
        GPT,
    ],
    "tool_call and tool_response roles": [
        USER,
        {"role": "tool_call", "content": text_of(BEIJING)},
        {"role": "tool_call", "content": text_of(SHANGHAI)},
        {"role": "tool_response", "content": "晴"},
        {"role": "tool_response", "content": "雨"},
        ANSWER,
    ],
    "tool_call roles with the call in fields": [
        USER,
        {"role": "tool_call", **BEIJING},
        {"role": "tool_call", **SHANGHAI},
        {"role": "tool", "content": "晴"},
        {"role": "tool", "content": "雨"},
        ANSWER,
    ],
    "tool_calls as JSON text": call_trace(
        {"role": "assistant", "content": "", "tool_calls": json.dumps([BEIJING, SHANGHAI])}
    ),
    "OpenAI with arguments as text": [
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": {**call, "arguments": json.dumps(call["arguments"])}}
                for call in (BEIJING, SHANGHAI)
            ],
        },
        {"role": "tool", "content": "晴"},
        {"role": "tool", "content": [{"type": "text", "text": "雨"}]},
        ANSWER,
    ],
    "Hermes, results in one turn": [
        HUMAN,
        {"from": "gpt", "value": tagged(BEIJING, SHANGHAI)},
        {"from": "tool", "value": "<tool_response>\n晴\n</tool_response>\n<tool_response>\n雨\n</tool_response>"},
        GPT,
    ],
    "Hermes with single quotes, results of the user": [
        HUMAN,
        {
            "from": "gpt",
            "value": "".join(f"<tool_call>\n{call!r}\n</tool_call>\n" for call in (BEIJING, SHANGHAI)),
        },
        {"from": "human", "value": "<tool_response>\n晴\n</tool_response>\n<tool_response>\n雨\n</tool_response>"},
        GPT,
    ],
    "Qwen3-Coder's markup": call_trace(
        {
            "role": "assistant",
            "content": "".join(
                f"<tool_call>\n<function=get_weather>\n<parameter=city>\n{city}\n</parameter>\n</function>\n</tool_call>\n"
                for city in ("北京", "上海")
            ),
        }
    ),
    "GLM's keys and values": call_trace(
        {
            "role": "assistant",
            "content": "".join(
                f"<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>{city}</arg_value>\n</tool_call>"
                for city in ("北京", "上海")
            ),
        }
    ),
    "ToolACE": [
        {"from": "user", "value": ASK.text},
        {"from": "assistant", "value": "[get_weather(city=\"北京\"), get_weather(city='上海')]"},
        {"from": "tool", "value": "晴"},
        {"from": "tool", "value": "雨"},
        {"from": "assistant", "value": TELL.text},
    ],
    "JSON in the text before its results": call_trace(
        {"role": "assistant", "content": f"```json\n{json.dumps([BEIJING, SHANGHAI], ensure_ascii=False)}\n```"},
        role="observation",
    ),
    "Mistral": call_trace(
        {"role": "assistant", "content": f"[TOOL_CALLS] {json.dumps([BEIJING, SHANGHAI], ensure_ascii=False)}</s>"}
    ),
    "typed parts of LLaMA-Factory": [
        {"role": "user", "content": [{"type": "text", "value": ASK.text}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_call", "value": text_of(call)} for call in (BEIJING, SHANGHAI)],
        },
        {"role": "tool", "content": [{"type": "text", "value": "晴"}]},
        {"role": "tool", "content": [{"type": "text", "value": "雨"}]},
        {"role": "assistant", "content": [{"type": "text", "value": TELL.text}]},
    ],
}


@pytest.mark.parametrize("turns", SHAPES.values(), ids=SHAPES.keys())
def test_several_calls_and_their_results_are_read_from_every_shape(turns: list[dict[str, Any]]) -> None:
    name = "conversations" if "from" in turns[0] else "messages"
    chat = read_chat({name: turns, "tools": OPENAI_TOOLS})
    assert chat.messages == TRACE and chat.tools == (WEATHER,) and chat.unread == ()


ONE_CALL: dict[str, list[dict[str, Any]]] = {
    "glaive's tag in a turn": [
        HUMAN,
        {
            "from": "gpt",
            "value": '<functioncall> {"name": "get_weather", "arguments": \'{"city": "北京"}\'} <|endoftext|>',
        },
        {"from": "function response", "value": "晴"},
        GPT,
    ],
    "ChatGLM3: call and result in one turn": [
        USER,
        {"role": "tool", "name": "get_weather", "parameters": {"city": "北京"}, "observation": "晴"},
        ANSWER,
    ],
    "GLM-4: name and arguments on two lines": call_trace(
        {"role": "assistant", "content": 'get_weather\n{"city": "北京"}'}, role="observation", count=1
    ),
    "GLM-4: the name as metadata": call_trace(
        {"role": "assistant", "metadata": "get_weather", "content": '{"city": "北京"}'}, role="observation", count=1
    ),
    "Llama 3.1's JSON": call_trace(
        {
            "role": "assistant",
            "content": '<|python_tag|>{"name": "get_weather", "parameters": {"city": "北京"}}<|eom_id|>',
        },
        role="ipython",
        count=1,
    ),
    "Llama 3.1's function tag": call_trace(
        {"role": "assistant", "content": '<function=get_weather>{"city": "北京"}</function>'}, role="ipython", count=1
    ),
    "MiniMax's tag around an invoke": call_trace(
        {
            "role": "assistant",
            "content": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">北京</parameter>\n'
            "</invoke>\n</minimax:tool_call>",
        },
        count=1,
    ),
    "InternLM's action": call_trace(
        {
            "role": "assistant",
            "content": "<|action_start|><|plugin|>\n"
            '{"name": "get_weather", "parameters": {"city": "北京"}}<|action_end|>',
        },
        role="environment",
        count=1,
    ),
    "DeepSeek's marks": call_trace(
        {
            "role": "assistant",
            "content": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
            '```json\n{"city": "北京"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        },
        count=1,
    ),
    "Kimi's marks": call_trace(
        {
            "role": "assistant",
            "content": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
            '<|tool_call_argument_begin|>{"city": "北京"}<|tool_call_end|><|tool_calls_section_end|>',
        },
        count=1,
    ),
    "Command R's action": call_trace(
        {
            "role": "assistant",
            "content": 'Action: ```json\n[{"tool_name": "get_weather", "parameters": {"city": "北京"}}]\n```',
        },
        count=1,
    ),
    "Mistral's marks around the result": [
        USER,
        {"role": "assistant", "content": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "北京"}}]</s>'},
        {"role": "tool", "content": "[TOOL_RESULTS] 晴[/TOOL_RESULTS]"},
        ANSWER,
    ],
    "OpenAI's function_call": call_trace(
        {"role": "assistant", "content": "", "function_call": {"name": "get_weather", "arguments": '{"city": "北京"}'}},
        role="function",
        count=1,
    ),
    "api_name and parameters": call_trace(
        {"role": "assistant", "content": '{"api_name": "get_weather", "parameters": {"city": "北京"}}'}, count=1
    ),
}


@pytest.mark.parametrize("turns", ONE_CALL.values(), ids=ONE_CALL.keys())
def test_one_call_and_its_result_are_read_from_every_shape(turns: list[dict[str, Any]]) -> None:
    name = "conversations" if "from" in turns[0] else "messages"
    chat = read_chat({name: turns, "tools": json.dumps(OPENAI_TOOLS)})
    assert [message.tool_calls for message in chat.messages] == [message.tool_calls for message in ONE]
    assert [message.text for message in chat.messages] == [message.text for message in ONE]
    assert chat.unread == ()


def test_anthropic_parts_keep_thinking_ids_and_results() -> None:
    turns = [
        {"role": "user", "content": ASK.text},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "要查两地。", "signature": "x"},
                {"type": "text", "text": "我查一下。"},
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "北京"}},
                {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"city": "上海"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": "雨"},
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "晴"}]},
            ],
        },
        {"role": "assistant", "content": TELL.text},
    ]
    chat = read_chat({"messages": turns})
    assert chat.unread == ("turn.content.signature",)
    calls = (ToolCall("get_weather", {"city": "北京"}, "a"), ToolCall("get_weather", {"city": "上海"}, "b"))
    assert chat.messages[1] == Message("assistant", "我查一下。", calls, reasoning="要查两地。")
    assert chat.messages[2:4] == (Message("tool", "晴", tool_call_id="a"), Message("tool", "雨", tool_call_id="b"))


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [("f", "g", ["1", "2"]), ("f", "f", ["2", "1"])],
    ids=["put_in_the_order_of_their_calls", "that_cannot_be_told_apart_stay"],
)
def test_results_with_names_are(first: str, second: str, order: list[str]) -> None:
    calls = [{"name": first, "arguments": {}}, {"name": second, "arguments": {"x": 1}}]
    turns = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "name": second, "content": "2"},
        {"role": "tool", "name": first, "content": "1"},
        ANSWER,
    ]
    assert [turn.text for turn in read_chat({"messages": turns}).messages[2:4]] == order


def test_the_results_of_all_calls_in_one_list_are_split_by_name() -> None:
    results = [{"name": "now", "results": "八点"}, {"name": "get_weather", "results": "晴"}]
    turns = [
        HUMAN,
        {"from": "gpt", "value": '[now(), get_weather(city="北京")]'},
        {"from": "tool", "value": json.dumps(results, ensure_ascii=False)},
        GPT,
    ]
    chat = read_chat({"conversations": turns})
    assert [turn.name for turn in chat.messages] == ["", "", "now", "get_weather", ""]
    assert json.loads(chat.messages[3].text) == results[1]


# --- rows with calls of their own form --------------------------------------------------------------------------------


def test_xlam_answers_a_query_with_calls() -> None:
    tools = [
        {
            "name": "get_weather",
            "description": "查询天气",
            "parameters": {
                "city": {"type": "str", "description": "城市"},
                "days": {"type": "int, optional", "description": "天数"},
            },
        }
    ]
    row = {"id": 3, "query": ASK.text, "answers": text_of([BEIJING, SHANGHAI]), "tools": text_of(tools)}
    name, chat = read_row(row)
    assert name == "xlam" and isinstance(chat, ParsedChat)
    assert chat.messages == (ASK, Message("assistant", "", CALLS))
    (tool,) = chat.tools
    assert tool["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "城市"},
            "days": {"type": "integer", "description": "天数"},
        },
        "required": ["city"],
    }


TOOLBENCH_TOOL: dict[str, Any] = {
    "name": "search_for_maps",
    "description": "查地点",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "optional": []},
}
TOOLBENCH_SYSTEM = f"""You can use many tools for the task.
Your output should follow this format:
Thought:
Action
Action Input:

All the thought is short.
Specifically, you have access to the following APIs: {[TOOLBENCH_TOOL, {"name": "Finish", "parameters": {}}]!r}"""


def test_toolbench_traces_become_reasoning_calls_and_results() -> None:
    turns = [
        {"from": "system", "value": TOOLBENCH_SYSTEM},
        {"from": "user", "value": "书店在哪？\nBegin!\n"},
        {
            "from": "assistant",
            "value": '\nThought: 先查地图。\nAction: search_for_maps\nAction Input: {\n  "q": "书店"\n}',
        },
        {"from": "function", "value": '{"error": "", "response": "城东"}'},
        {
            "from": "assistant",
            "value": '\nThought: \nAction: Finish\nAction Input: {"final_answer": "城东。"}',
        },
    ]
    chat = read_chat({"conversations": turns})
    assert [turn.role for turn in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert chat.messages[0].text == "You can use many tools for the task.\n\nAll the thought is short."
    assert chat.messages[2] == Message(
        "assistant", "", (ToolCall("search_for_maps", {"q": "书店"}),), reasoning="先查地图。"
    )
    assert isinstance(chat.messages[4], Message) and [tool["name"] for tool in chat.tools] == [
        "search_for_maps",
        "Finish",
    ]
    assert chat.unread == ("system.call_format",)


def test_a_react_trace_ends_with_its_final_answer() -> None:
    turns = [
        USER,
        {"role": "assistant", "content": "Thought: 查天气。\nAction: get_weather\nAction Input: 北京\nObservation:"},
        {"role": "tool", "content": "晴"},
        {"role": "assistant", "content": f"Thought: 知道了。\nFinal Answer: {TELL.text}"},
    ]
    chat = read_chat({"messages": turns, "tools": OPENAI_TOOLS})
    assert chat.messages == (
        ASK,
        Message("assistant", "", CALLS[:1], reasoning="查天气。"),
        RESULTS[0],
        Message("assistant", TELL.text, reasoning="知道了。"),
    )


def test_a_trace_in_the_words_of_user_and_assistant_stays_text_and_its_flags_are_obeyed() -> None:
    turns: list[dict[str, Any]] = [
        {"from": "human", "loss": None, "value": "You are an agent in a house."},
        {"from": "gpt", "loss": False, "value": "OK."},
        {"from": "human", "loss": None, "value": "Put the cup away."},
        {"from": "gpt", "loss": True, "value": "Think: the shelf.\nAct: put cup"},
    ]
    chat = read_chat({"conversations": turns, "id": "house_1"})
    assert [turn.train for turn in chat.messages] == [None, False, None, True]
    assert chat.messages[3].text == turns[3]["value"] and chat.unread == ()


HERMES_SYSTEM = f"""You call functions. You are provided with function signatures within <tools></tools> XML tags.
<tools>
{json.dumps(OPENAI_TOOLS[0], ensure_ascii=False)}
</tools>
For each function call return a json object within <tool_call></tool_call> XML tags as follows:
<tool_call>
{{"arguments": <args-dict>, "name": <function-name>}}
</tool_call>"""


def test_a_users_turn_that_says_what_a_call_gave_is_its_result() -> None:
    call = "看。\n\n<function=bash>\n<parameter=command>ls</parameter>\n</function>"
    result = "EXECUTION RESULT of [bash]:\na.py"
    turns = [USER, {"role": "assistant", "content": call}, {"role": "user", "content": result}, ANSWER]
    chat = read_chat({"messages": turns})
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.messages[1].text == "看。" and chat.messages[2].text == result


@pytest.mark.parametrize("tools", [None, OPENAI_TOOLS])
def test_tools_in_the_system_text_are_read_once_and_leave_it(tools: Any) -> None:
    turns = [
        {"from": "system", "value": HERMES_SYSTEM},
        HUMAN,
        {"from": "gpt", "value": tagged(BEIJING)},
        {"from": "tool", "value": "<tool_response>\n晴\n</tool_response>"},
        GPT,
    ]
    chat = read_chat({"conversations": turns, "tools": tools})
    assert chat.tools == (WEATHER,)
    assert chat.messages[0] == Message("system", "You call functions.")
    assert chat.messages[1:] == ONE


TOOLACE_SYSTEM = f"""You are an expert in composing functions.
Here is a list of functions in JSON format that you can invoke:
{json.dumps([WEATHER, {**WEATHER, "name": "Market Trends API"}], ensure_ascii=False)}.
Should you decide to return the function call(s).
Put it in the format of [func1(params_name=params_value), func2(params)]

NO other text MUST be included."""


def test_toolace_calls_may_have_blanks_in_their_names_and_lists_as_values() -> None:
    row = {
        "system": TOOLACE_SYSTEM,
        "conversations": [
            {"from": "user", "value": "市场如何？"},
            {
                "from": "assistant",
                "value": (
                    '[Market Trends API(trend="UP", areas=["华东", "华南"], deep=true, limit=None, '
                    "range={'a': False})]"
                ),
            },
        ],
    }
    chat = read_chat(row)
    arguments = {"trend": "UP", "areas": ["华东", "华南"], "deep": True, "limit": None, "range": {"a": False}}
    assert chat.messages[2].tool_calls == (ToolCall("Market Trends API", arguments),)
    assert chat.messages[0].text == "You are an expert in composing functions."
    assert [tool["name"] for tool in chat.tools] == ["get_weather", "Market Trends API"]


def test_tools_beside_the_system_text_of_its_turn_are_read() -> None:
    turns = [
        {"role": "system", "content": "", "tools": json.dumps(OPENAI_TOOLS)},
        USER,
        {"role": "assistant", "content": "", "tool_calls": json.dumps([BEIJING])},
        {"role": "tool", "content": "晴"},
        {**ANSWER, "reasoning_content": ""},
    ]
    chat = read_chat({"conversations": turns})
    assert chat.tools == (WEATHER,) and chat.messages[1:] == ONE and chat.unread == ()


def test_a_described_tool_becomes_a_schema() -> None:
    tool = 'search: 查书\nParameters: {"q": "Required. string. 书名", "n": "Optional. integer. 数量"}\nOutput: 书单'
    chat = read_chat({"tools": [tool], "conversations": [USER, ANSWER]})
    (found,) = chat.tools
    assert found["name"] == "search" and found["parameters"]["required"] == ["q"]


def test_calls_and_results_inside_one_answer_become_turns() -> None:
    value = (
        f"我查一下。\n<|startofthink|>```JSON\n{text_of({'api_name': 'get_weather', 'parameters': {'city': '北京'}})}\n"
        f"```<|endofthink|>\n\n<|startofexec|>```JSON\n晴\n```<|endofexec|>\n{TELL.text}"
    )
    chat = read_chat({"conversations": [HUMAN, {"from": "assistant", "value": value, "loss": False}]})
    assert chat.messages == (
        ASK,
        Message("assistant", "我查一下。", CALLS[:1], train=False),
        Message("tool", "晴", name="get_weather"),
        Message("assistant", TELL.text, train=False),
    )


@pytest.mark.parametrize(
    "answers", ['[get_weather(city="北京")]', ['get_weather(city="北京")'], [BEIJING], json.dumps([BEIJING])]
)
def test_the_answers_of_a_query_may_be_written_in_any_way(answers: Any) -> None:
    _, chat = read_row(
        {"question": ASK.text, "functions": {"get_weather": {"description": "查询天气"}}, "answers": answers}
    )
    assert isinstance(chat, ParsedChat) and chat.messages == (ASK, Message("assistant", "", CALLS[:1]))
    assert chat.tools == ({"name": "get_weather", "description": "查询天气"},)


def test_objects_of_nulls_are_no_calls() -> None:
    nothing = {"name": None, "arguments": None}
    chat = read_chat({"messages": [USER, {**ANSWER, "function_call": nothing, "tool_calls": [nothing]}]})
    assert chat.messages == (ASK, TELL)


def test_the_query_of_a_call_may_be_several_turns() -> None:
    query = [USER, {"role": "agent", "content": "我查一下。"}]
    _, chat = read_row({"query": query, "tools": [WEATHER], "answers": [BEIJING]})
    assert isinstance(chat, ParsedChat)
    assert chat.messages == (ASK, Message("assistant", "我查一下。", CALLS[:1]))


def test_types_of_python_become_those_of_a_schema() -> None:
    parameters = {
        "type": "dict",
        "properties": {"a": {"type": "list", "items": {"type": "str"}}, "type": {"type": "int"}},
    }
    (tool,) = read_chat({"messages": [USER, ANSWER], "tools": [{"name": "f", "parameters": parameters}]}).tools
    assert tool["parameters"] == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string"}}, "type": {"type": "integer"}},
    }


def test_the_first_version_of_glaive_is_one_text() -> None:
    sample = (
        'SYSTEM: You are a helper. Use these -\n{"name": "add", "parameters": {}}\n\nUSER: 一加二？\n\n'
        'ASSISTANT: <functioncall> {"name": "add", "arguments": \'{"a": 1}\'} <|endoftext|>\n\n'
        "FUNCTION RESPONSE: 3\n\nASSISTANT: 三。 <|endoftext|>"
    )
    name, chat = read_row({"sample": sample})
    assert name == "glaive" and isinstance(chat, ParsedChat)
    assert [turn.role for turn in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert chat.tools == ({"name": "add", "parameters": {}},)


# --- what is no call --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[get_weather(city=北京)]",
        '{"name": "get_weather", "arguments": "北京"}',
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": \n</tool_call>',
        'Action: get_weather\nAction Input: {"city": ',
        "<tool_call>北京</tool_call>",
    ],
)
def test_a_malformed_call_is_dropped_by_name(text: str) -> None:
    turns = [USER, {"role": "assistant", "content": text}, {"role": "tool", "content": "晴"}, ANSWER]
    item = read_row({"messages": turns, "tools": OPENAI_TOOLS})[1]
    assert isinstance(item, Drop) and item.reason == "broken_tool_call"


def test_a_final_answer_outside_of_a_react_trace_stays_text() -> None:
    text = "两地都查了。\nFinal Answer: 北京晴。"
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": [BEIJING]}, {"role": "tool", "content": "晴"}]
    chat = read_chat({"messages": [*turns, {"role": "assistant", "content": text}]})
    assert chat.messages[3] == Message("assistant", text)


def test_a_system_text_keeps_who_the_assistant_is() -> None:
    system = f"You are a helper with access to the following functions. Use them if required -\n{text_of(WEATHER)}"
    value = '<functioncall> {"name": "get_weather", "arguments": \'{"city": "北京"}\'}'
    turns = [{"from": "system", "value": system}, HUMAN, {"from": "gpt", "value": value}]
    chat = read_chat({"conversations": [*turns, {"from": "tool", "value": "晴"}, GPT]})
    assert chat.messages[0].text == "You are a helper with access to the following functions. Use them if required -"
    assert chat.tools == (WEATHER,) and chat.messages[1:] == ONE


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "小明", "age": 3}',
        "[1, 2, 3]",
        "print(1)",
        '```json\n[{"name": "a", "arguments": {}}]\n```',
        "Action: 起立\nAction Input: 无",
        "用 `<tool_call>` 标签包住调用。",
        "<tool_call> 是一个标签。",
        "标签写成：\n```\n<tool_call>\n{...}\n</tool_call>\n```",
    ],
)
def test_an_answer_that_looks_like_a_call_of_no_tool_stays_text(text: str) -> None:
    tools = [] if "tool_call" in text else OPENAI_TOOLS
    chat = read_chat({"messages": [USER, {"role": "assistant", "content": text}], "tools": tools})
    assert chat.messages[1] == Message("assistant", text)


def test_a_system_text_without_a_way_to_call_stays_as_it_is() -> None:
    system = '你是助手。可用的数据：[{"name": "a", "description": "b"}]'
    chat = read_chat({"messages": [{"role": "system", "content": system}, USER, ANSWER]})
    assert chat.messages[0].text == system and chat.tools == ()


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 50_000,
        "<function=a>" * 5_000,
        "Action: a\nAction Input: x" + " " * 50_000 + "y",
        "a\n" * 20_000,
        "f(" * 20_000,
    ],
    ids=["lines", "tags", "blanks", "names", "brackets"],
)
@hang_limit()
def test_a_long_text_that_is_no_call_is_read_quickly(text: str) -> None:
    turns = [USER, {"role": "assistant", "content": text + "。"}, {"role": "tool", "content": "晴"}, ANSWER]
    read_row({"messages": turns, "tools": OPENAI_TOOLS})


@pytest.mark.parametrize("part", ["functions [{'name': 'a' ", "<tools>[", 'tools {"name": "a", '])
@hang_limit()
def test_a_long_system_text_without_tools_is_read_quickly(part: str) -> None:
    read_row({"messages": [{"role": "system", "content": f"in the format of [func {part * 2_000}"}, USER, ANSWER]})


def test_a_finish_without_a_tool_of_that_name_is_the_answer() -> None:
    turns = [
        {"from": "user", "value": "几点闭馆？"},
        {"from": "assistant", "value": "Thought: 要查。\nAction: f\nAction Input: {}"},
        {"from": "function", "value": "21:00"},
        {"from": "assistant", "value": 'Thought: \nAction: Finish\nAction Input: {"final_answer": "九点。"}'},
    ]
    assert read_chat({"conversations": turns}).messages[-1] == Message("assistant", "九点。")


def test_a_call_may_be_an_object_in_place_of_the_text() -> None:
    call = {"name": "f", "arguments": {"x": 1}}
    for content in (call, [call]):
        turns = [{"role": "user", "content": "问"}, {"role": "tool_call", "content": content}]
        assert read_chat({"messages": [*turns, {"role": "tool_response", "content": {"r": 1}}]}).messages[1:] == (
            Message("assistant", "", (ToolCall("f", {"x": 1}),)),
            Message("tool", '{"r": 1}'),
        )


@pytest.mark.parametrize("has_ids", [True, False])
def test_a_call_without_its_result_before_one_that_has_its_is_dropped_by_name(has_ids: bool) -> None:
    """A template that writes no ids would give the first call the result of the second."""
    names = ("first", "second")
    calls = [{**({"id": name} if has_ids else {}), "name": name, "arguments": {}} for name in names]
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    for answered, is_kept in (("first", True), ("second", False)):
        key = "tool_call_id" if has_ids else "name"
        row = {"messages": [USER, answer, {"role": "tool", key: answered, "content": "晴"}, ANSWER]}
        item = read_row(row)[1]
        assert isinstance(item, ParsedChat) if is_kept else item == Drop("missing_result", "first")
