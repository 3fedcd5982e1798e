"""ReAct: thoughts, actions and observations in one text under headings, in English or Chinese."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.base import strip_turn
from hanlin.data.formats.content.call_texts import FENCE, MAX_TAGS, CallText, find_parameter, parse_calls
from hanlin.data.formats.content.calls import parse_data, read_arguments
from hanlin.data.formats.content.tool_lists import Tools, read_tools
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_STEP = compile_on_use(
    r"(?:\A|\n)[ \t]*(?:[#>*]+[ \t]*)?(?:(?P<input>action[ _]input|(?:行动|动作|工具)的?(?:输入|参数)|输入参数)"
    r"|(?P<action>action|行动|动作|(?:调用|使用)?工具)|(?P<thought>question|问题|thought|思考|想法)"
    r"|(?P<result>observation|(?:观察|观测)(?:结果)?|工具(?:结果|返回)|执行结果)"
    r"|(?P<answer>final[ _]answer|最终(?:答案|回答|回复)|最后答案))"
    r"[ \t]*\d{0,2}[ \t]*\**[ \t]*[:：][ \t]*\**[ \t]*",
    re.I,
)
_BRACKETED = compile_on_use(r"\A([\w.-]{1,40})\[(.*)\]\Z", re.S)
_NO_INPUT = frozenset({"", "none", "null", "无", "n/a", "{}"})
_LAST_ACTIONS = frozenset({"finish", "结束", "完成"})
_MAX_NAME_CHARS = 100
_ACTIONS = ("action", "行动", "动作", "工具", "调用工具", "使用工具")
_OTHERS = ("输入", "参数", "观察", "观测", "结果", "返回")
_OBSERVED = compile_on_use(
    r"\A\s*(?:Observation|(?:观察|观测)(?:结果)?|工具(?:结果|返回)|执行结果)[ \t]*[:：]\s*", re.I
)


def may_be_react(text: str) -> bool:
    """Whether a text has words of an input or an observation, and a line that begins as an action does."""
    if "\n" not in text or not ("ction" in text or "行动" in text or "动作" in text or "工具" in text):
        return False
    if not ("nput" in text or "bservation" in text or any(word in text for word in _OTHERS)):
        return False
    return any(line.lstrip(" \t#>*")[:6].lower().startswith(_ACTIONS) for line in text.split("\n"))


def is_react_result(text: str) -> bool:
    """Whether a user's turn says that it is an observation."""
    return _OBSERVED.match(text) is not None


def strip_observation(text: str) -> str:
    """The text of an observation without its heading."""
    return _OBSERVED.sub("", text)


@dataclass(slots=True)
class _Trace:
    """The turns of a trace so far, and what is not in one yet.

    Attributes:
        message: The answer that holds the trace.
        turns: Calls, results and the final answer.
        thoughts: Thoughts after the last call.
        calls: Calls without a result so far, or Drops.
        has_call: Whether any action is written as a call is.
    """

    message: Message
    turns: list[Message] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall | Drop] = field(default_factory=list)
    has_call: bool = False

    def add_turn(self, text: str) -> Drop | None:
        """Add a turn of the assistant with the thoughts and calls before it."""
        broken = next((call for call in self.calls if isinstance(call, Drop)), None)
        if broken is not None:
            return broken
        calls = tuple(call for call in self.calls if isinstance(call, ToolCall))
        parts = [*([] if self.turns else [self.message.reasoning]), *self.thoughts]
        reasoning = "\n".join(part for part in parts if part)
        self.turns.append(replace(self.message, text=text, tool_calls=calls, reasoning=reasoning))
        self.thoughts, self.calls = [], []
        return None

    def add_result(self, text: str) -> Drop | None:
        """Add an observation of the calls before it; a second one belongs to the same calls."""
        if self.calls and (broken := self.add_turn("")) is not None:
            return broken
        if not self.turns:
            return Drop("broken_tool_call", text[:80])
        last = self.turns[-1]
        name = last.tool_calls[0].name if len(last.tool_calls) == 1 else last.name
        self.turns.append(Message("tool", text, name=name))
        return None


def split_react_trace(message: Message, tools: Tools = ()) -> list[Message] | Drop | None:
    r"""Split an answer that is a whole ReAct trace, observations and all, into its turns; None for other answers.

    Thoughts are the reasoning before a call or the final answer. Without a final answer the last thought is it. Prose
    under the same headings, in which no action is a call, is left as it is.

    Example:
        "思考：查。\n行动：weather\n行动输入：{}\n观察：晴\n最终答案：天晴。" gives a call, its result and an answer.
    """
    if (
        message.text.count("\n") >= MAX_TAGS
        and len(list(islice(_STEP.finditer(message.text), MAX_TAGS + 1))) > MAX_TAGS
    ):
        return Drop("broken_tool_call", message.text[:80])
    steps = _split_steps(message.text)
    kinds = [kind for kind, text in steps if kind != "result" or text]
    if not kinds or kinds[0] == "result" or "action" not in kinds or "result" not in kinds[kinds.index("action") :]:
        return None
    trace = _Trace(message)
    for index, (kind, text) in enumerate(steps):
        problem: Drop | None = None
        if kind == "thought":
            trace.thoughts.append(text)
        elif kind == "action":
            raw = steps[index + 1][1] if index + 1 < len(steps) and steps[index + 1][0] == "input" else None
            call = _read_action(text, raw, tools)
            trace.has_call = trace.has_call or raw is not None or not isinstance(call, Drop)
            if isinstance(call, str):
                kind, text = "answer", call
            elif call is not None:
                trace.calls.append(call)
        elif kind == "result" and text:
            problem = trace.add_result(text)
        if kind == "answer":
            if not trace.has_call:
                return None
            return trace.add_turn(text) or trace.turns
        if problem is not None:
            return problem if trace.has_call else None
    if not trace.has_call:
        return None
    if trace.calls:
        return trace.add_turn("") or trace.turns
    if trace.thoughts:
        return trace.add_turn(trace.thoughts.pop()) or trace.turns
    return trace.turns


def split_react(text: str, tools: Tools = ()) -> CallText | Drop | None:
    """Split ReAct's `Thought: ... Action: name Action Input: {...}` into reasoning and calls; None for other text.

    An input that is no object is the value of the tool's only parameter, or of `input`.
    """
    steps = _split_steps(text, has_prefix=True)
    kinds = [kind for kind, content in steps if kind != "result" or content]
    if ("action", "input") not in pairwise(kinds) or "result" in kinds or "answer" in kinds:
        return None
    thoughts, calls = [], []
    for index, (kind, content) in enumerate(steps):
        if kind == "thought":
            thoughts.append(content)
        elif kind == "action":
            raw = steps[index + 1][1] if index + 1 < len(steps) and steps[index + 1][0] == "input" else None
            call = _read_action(content, raw, tools)
            if isinstance(call, str):
                return None
            if isinstance(call, Drop):
                return call
            calls += [] if call is None else [call]
    return CallText("", tuple(calls), "\n".join(thought for thought in thoughts if thought)) if calls else None


def split_final_answer(text: str) -> CallText | None:
    """Split the last turn of a ReAct trace into its thought and the final answer; None for other text.

    The answer may be the argument of an action that ends the trace, as in ToolBench.
    """
    steps = _split_steps(text)
    thoughts = [content for kind, content in steps if kind == "thought" and content]
    last = steps[-1] if steps else ("", "")
    if last[0] == "result" and not last[1]:
        steps.pop()
    kinds = [kind for kind, _ in steps if kind != "thought"]
    if kinds == ["answer"]:
        return CallText(steps[-1][1], (), "\n".join(thoughts))
    if kinds not in (["action"], ["action", "input"]):
        return None
    action = kinds.index("action") + len(steps) - len(kinds)
    answer = _read_action(steps[action][1], steps[-1][1] if kinds[-1] == "input" else None, ())
    return CallText(answer, (), "\n".join(thoughts)) if isinstance(answer, str) and answer else None


def _split_steps(text: str, has_prefix: bool = False) -> list[tuple[str, str]]:
    """Split a text into the steps of a ReAct trace.

    Args:
        text: The text of an answer.
        has_prefix: Whether text before the first heading is a thought; else such a text is no trace.

    Returns:
        (kind, text) for each step; what follows the heading of the final answer is all of it. Empty for other texts.
    """
    matches = list(islice(_STEP.finditer(text), MAX_TAGS + 1))
    if not matches or len(matches) > MAX_TAGS:
        return []
    prefix = text[: matches[0].start()].strip()
    if prefix and not has_prefix:
        return []
    steps = [("thought", prefix)] if prefix else []
    for index, match in enumerate(matches):
        is_answer = match.lastgroup == "answer"
        end = len(text) if is_answer or index + 1 == len(matches) else matches[index + 1].start()
        steps.append((str(match.lastgroup), strip_turn(text[match.end() : end])))
        if is_answer:
            break
    return steps


def _read_action(text: str, raw: str | None, tools: Tools) -> ToolCall | Drop | str | None:
    """Read an action and its input: a call, the answer that ends the trace, or None if it says that there is none."""
    name = text.strip().strip("`*").strip()
    if name.lower() in _NO_INPUT:
        return None
    if raw is None:
        bracketed = _BRACKETED.match(name)
        if bracketed is None:
            calls = parse_calls(text, tools)
            return calls if isinstance(calls, Drop) else calls[0]
        name, raw = bracketed[1], bracketed[2]
        if name.lower() in _LAST_ACTIONS:
            return strip_turn(raw)
    fence = FENCE.match(raw)
    raw = (fence[1] if fence else raw).strip()
    arguments = {} if raw.lower() in _NO_INPUT else read_arguments(raw)
    if name.lower() in _LAST_ACTIONS and arguments:
        answer = arguments.get("final_answer", arguments.get("answer"))
        if isinstance(answer, str):
            return strip_turn(answer)
    if arguments is None and raw[:1] in ("{", "["):
        return Drop("broken_tool_call", f"{name}: {raw}"[:80])
    if len(name) > _MAX_NAME_CHARS or "\n" in name:
        return Drop("broken_tool_call", text[:80])
    return ToolCall(name, arguments if arguments is not None else {find_parameter(name, 0, tools) or "input": raw})


# --- the prompt -------------------------------------------------------------------------------------------------------

_PROMPT = compile_on_use(
    r"\A(?P<before>.*?)(?:tools|APIs?|工具|接口)[ \t]*[:：]\s*\n(?P<tools>.*?)\n[^\n]*(?:format|格式)[^\n]*\n"
    r".*?\n[ \t]*(?:Action Input|行动输入|动作输入|工具输入)[ \t]*[:：].*\n"
    r"[ \t]*(?:Begin|开始)[!！]?[ \t]*\n+[ \t]*(?:Question|问题)[ \t]*[:：][ \t]*(?P<question>.*)\Z",
    re.S,
)
_LISTED_TOOL = compile_on_use(
    r"(?:\A|\n)[ \t]*(?P<name>[\w.-]{1,80})[ \t]*[:：][ \t]*(?P<description>[^\n]*?)[ \t]*"
    r"(?:Parameters|Args|参数)[ \t]*[:：][ \t]*(?P<parameters>[\[{][^\n]*[\]}])[^\n]*"
)
_QWEN_INTRO = compile_on_use(r"\ACall this tool to interact with the .*? API\. What is the .*? API useful for\?\s*")


def split_react_prompt(text: str) -> tuple[str, Tools] | None:
    """Split a question that stands at the end of a ReAct prompt: the question and the tools that the prompt lists.

    The rest says how calls are written, which the chat template says in the model's own way. None for other texts, and
    if the tools are listed in a form that is not known.
    """
    match = _PROMPT.match(text) if may_be_react(text) else None
    if match is None or not match["question"].strip():
        return None
    tools = read_tools([_read_listed_tool(found) for found in _LISTED_TOOL.finditer(match["tools"])])
    if isinstance(tools, Drop) or not tools or _LISTED_TOOL.sub("", match["tools"]).strip():
        return None
    return strip_turn(match["question"]), tools


def _read_listed_tool(match: Any) -> Mapping[str, Any]:
    description = _QWEN_INTRO.sub("", match["description"])
    return {
        "name_for_model": match["name"],
        "description_for_model": description,
        "parameters": parse_data(match["parameters"]),
    }


def split_react_text(text: str) -> tuple[str, str] | None:
    """Split a text that is a question and a whole trace into both; None for other texts."""
    steps = (
        _split_steps(text) if text.lstrip()[:8].lower().startswith(("question", "问题")) and may_be_react(text) else []
    )
    if len(steps) < 2 or not steps[0][1] or steps[1][0] not in ("thought", "action", "answer"):
        return None
    second = list(islice(_STEP.finditer(text), 2))[1]
    return steps[0][1], strip_turn(text[second.start() :])
