"""What an agent did for one task, as LangChain's executors return it and as ToolAlpaca keeps it: calls with results.

    {"input": "问", "intermediate_steps": [[["get_hours", {"day": 1}, "Thought: ..."], "九点"]], "output": "答"}
    {"Function_Description": {...}, "Instances": [the same, ...]}

An action is `[tool, input, log]` or `{tool, tool_input, log}`; what its log says before the call is reasoning.

Source: `AgentAction` of LangChain, and `build_dataset.py` of tangqiaoyu/ToolAlpaca.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import collect_meta, find_own_id, find_unread_fields, strip_turn
from hanlin.data.formats.content.calls import read_calls
from hanlin.data.formats.content.results import to_text
from hanlin.data.formats.content.tool_lists import Tools, read_tools
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_STEPS, _DESCRIPTIONS = "intermediate_steps", "Function_Description"
_QUESTIONS, _ANSWERS = ("input", "question", "query"), ("output", "answer", "final_answer")
_INSTANCES = ("Instances", "instances")
_NOT_A_TOOL = "components"
_THOUGHT = compile_on_use(
    r"\A\s*(?:(?:ASSISTANT )?Thought:)?\s*(.*?)\s*(?=\n\s*(?:ASSISTANT )?Action(?: Input)?:|\Z)", re.S
)
_FINAL = compile_on_use(r"\A.*?Final (?:Answer|Response):\s*", re.S)
_PARAMETERS = compile_on_use(r"\nParameters: (\{.*?\})(?:\n|\Z)")
_TYPES = ("string", "integer", "number", "boolean", "array", "object")
_HINT = "\nHint: "


def has_steps(value: Any) -> bool:
    """Whether a row, or one of its instances, has an agent's steps."""
    if not isinstance(value, dict):
        return False
    return _is_task(value) or any(map(_is_task, _find_instances(value)))


def _is_task(row: Any) -> bool:
    steps = row.get(_STEPS) if isinstance(row, dict) else None
    if not isinstance(steps, list) or not any(isinstance(row.get(name), str) for name in _QUESTIONS):
        return False
    return not steps or (isinstance(steps[0], list) and len(steps[0]) == 2)


def _find_instances(row: Mapping[str, Any]) -> Sequence[Any]:
    return next((row[name] for name in _INSTANCES if isinstance(row.get(name), list)), [])


def read_steps(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read the tasks of a row, each as a conversation; the tools are those that the row describes."""
    if not has_steps(value):
        yield Drop("other_format")
        return
    instances = _find_instances(value)
    if not instances:
        yield _read_task(value, (), {})
        return
    tools = _read_descriptions(value.get(_DESCRIPTIONS))
    if isinstance(tools, Drop):
        yield tools
        return
    shared = {name: content for name, content in value.items() if name not in (*_INSTANCES, _DESCRIPTIONS)}
    for instance in instances:
        yield _read_task(instance, tools, shared) if isinstance(instance, dict) else Drop("other_format")


def _read_task(row: Mapping[str, Any], tools: Tools, shared: Mapping[str, Any]) -> ParsedChat | Drop:
    question = next((name for name in _QUESTIONS if isinstance(row.get(name), str)), "")
    answer = next((name for name in _ANSWERS if isinstance(row.get(name), str) and row[name].strip()), "")
    if not question or not row[question].strip():
        return Drop("no_question")
    steps = row.get(_STEPS) or []
    if not answer or not isinstance(steps, list):
        return Drop("no_answer")
    messages = [Message("user", strip_turn(row[question].rsplit(_HINT, 1)[0]))]
    for step in steps:
        done = _read_step(step)
        if isinstance(done, Drop):
            return done
        messages += done
    thought = row.get("Final Thought")
    reasoning = strip_turn(thought) if isinstance(thought, str) else ""
    messages.append(Message("assistant", strip_turn(_FINAL.sub("", row[answer], count=1)), reasoning=reasoning))
    used = (question, answer, _STEPS, "Final Thought", *find_own_id(row))
    named = {**shared, **row}
    return ParsedChat(tuple(messages), tools, collect_meta(named, used), find_unread_fields(named, used))


def _read_step(step: Any) -> list[Message] | Drop:
    """The call of a step and its result."""
    action, result = step if isinstance(step, list) and len(step) == 2 else (None, None)
    if isinstance(action, dict):
        action = [action.get("tool"), action.get("tool_input"), action.get("log")]
    if not isinstance(action, list) or len(action) < 2 or not isinstance(action[0], str):
        return Drop("broken_tool_call", str(step)[:80])
    calls = read_calls([{"name": action[0].strip(), "arguments": action[1] if action[1] not in ("", None) else {}}])
    if isinstance(calls, Drop):
        return calls
    log = action[2] if len(action) > 2 and isinstance(action[2], str) else ""
    thought = _THOUGHT.match(log)
    reasoning = thought[1] if thought and "Action" in log else ""
    return [Message("assistant", "", calls, reasoning=reasoning), Message("tool", strip_turn(to_text(result)))]


def _read_descriptions(described: Any) -> Tools | Drop:
    """Read {name: a description, a line `Parameters: {...}`, and a line `Output: ...`}, as an object or JSON text."""
    if isinstance(described, str):
        try:
            described = json.loads(described)
        except ValueError:
            return ()
    if not isinstance(described, dict):
        return ()
    tools = []
    for name, text in described.items():
        if name == _NOT_A_TOOL or not isinstance(text, str):
            continue
        found = _PARAMETERS.search(text)
        properties = _read_parameters(found[1]) if found else {}
        required = [key for key, schema in properties.items() if "required" in schema["description"].lower()]
        parameters = {"type": "object", "properties": properties, **({"required": required} if required else {})}
        tools.append({"name": name, "description": text.partition("\n")[0], "parameters": parameters})
    return read_tools(tools)


def _read_parameters(text: str) -> dict[str, dict[str, str]]:
    try:
        parameters = json.loads(text)
    except ValueError:
        return {}
    properties = {}
    for name, described in parameters.items() if isinstance(parameters, dict) else ():
        words = str(described).lower()
        kind = min((t for t in _TYPES if t in words), key=words.index, default="string")
        properties[name] = {"type": kind, "description": str(described)}
    return properties
