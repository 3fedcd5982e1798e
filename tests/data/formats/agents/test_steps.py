"""What an agent did for a task, as LangChain and ToolAlpaca keep it, is read as calls with their results."""

from __future__ import annotations

from typing import Any

from hanlin.data.formats.agents.steps import has_steps, read_steps
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop

LOG = '\nThought: I have to look it up.\nAction: get_hours\nAction Input: {"day": 1}'
STEP = [["get_hours", '{"day": 1}', LOG], "Status Code: 200. Response: 9"]
DESCRIBED = {
    "get_hours": 'The hours of a day.\nParameters: {"day": "Required. Integer. The day."}\nOutput: Object{hours}',
    "components": "",
}


def read(row: dict[str, Any]) -> list[ParsedChat | Drop]:
    assert has_steps(row)
    return list(read_steps(row))


def test_each_instance_is_a_conversation_with_the_tools_of_the_row() -> None:
    instance = {
        "input": "几点开门？\nHint: day is 1",
        "output": "九点。",
        "Final Thought": "I know.",
        "intermediate_steps": [STEP],
    }
    first, second = read(
        {
            "Name": "图书馆",
            "Function_Description": DESCRIBED,
            "Instances": [instance, {"input": "x", "output": "", "intermediate_steps": []}],
        }
    )
    assert isinstance(first, ParsedChat)
    asked, called, result, answer = first.messages
    assert (asked.role, asked.text) == ("user", "几点开门？")
    assert called.reasoning == "I have to look it up." and called.tool_calls[0].name == "get_hours"
    assert called.tool_calls[0].arguments == {"day": 1}
    assert (result.role, result.text) == ("tool", "Status Code: 200. Response: 9")
    assert (answer.text, answer.reasoning) == ("九点。", "I know.")
    (tool,) = first.tools
    function = tool.get("function", tool)
    assert function["parameters"]["properties"]["day"]["type"] == "integer"
    assert function["parameters"]["required"] == ["day"]
    assert first.meta["Name"] == "图书馆"
    assert isinstance(second, Drop) and second.reason == "no_answer"


def test_a_run_of_langchain_is_a_conversation() -> None:
    action = {"tool": "get_hours", "tool_input": {"day": 1}, "log": "", "type": "AgentAction"}
    (chat,) = read({"input": "几点？", "intermediate_steps": [[action, "9"]], "output": "九点。"})
    assert isinstance(chat, ParsedChat) and [turn.role for turn in chat.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_step_that_cannot_be_read_drops_its_task_by_name() -> None:
    for step in (["x"], [["get_hours", "{broken", ""], "9"], "text"):
        (drop,) = read({"input": "几点？", "intermediate_steps": [STEP, step], "output": "九点。"})
        assert isinstance(drop, Drop) and drop.reason == "broken_tool_call"


def test_rows_without_steps_are_of_other_formats() -> None:
    assert not has_steps({"instruction": "x", "instances": [{"input": "", "output": "y"}]})
    assert not has_steps({"input": "x", "output": "y", "intermediate_steps": ["a", "b"]})
