"""Turns of a conversation as other tools write them, to messages: roles, texts, typed parts, reasoning, tool calls.

What is inside a text (reasoning, calls, results) is read alike in every format, by `finish_chat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.core.records import Message, Role, ToolCall
from hanlin.data.formats.base import strip_turn
from hanlin.data.formats.content.call_texts import (
    CallText,
    are_known,
    split_inline_trace,
    split_tagged_calls,
    split_untagged_calls,
)
from hanlin.data.formats.content.calls import ARGUMENT_FIELDS, read_arguments, read_calls
from hanlin.data.formats.content.loss_flags import read_loss_flag
from hanlin.data.formats.content.media import check_media, find_media_field
from hanlin.data.formats.content.parts import CONTENT_FIELDS, RESULT_ID_FIELDS, TurnContent, as_list, split_content
from hanlin.data.formats.content.reasoning import (
    TURN_REASONING_FIELDS,
    is_doubled,
    join_reasoning,
    read_reasoning,
    split_reasoning,
)
from hanlin.data.formats.content.results import (
    has_result_tags,
    is_observation,
    order_results,
    split_result_tags,
    to_text,
)
from hanlin.data.formats.content.roles import CALL_ROLES, REASONING_ROLES, ROLE_NAMES, find_role_name
from hanlin.data.formats.content.tool_lists import (
    Tools,
    find_row_tools,
    merge_tools,
    read_tools,
    says_how_to_call,
    split_system_tools,
)
from hanlin.data.formats.content.turn_fields import CALL_FIELDS, RESULT_NAME_FIELDS
from hanlin.data.formats.traces.react import (
    is_react_result,
    may_be_react,
    split_final_answer,
    split_react,
    split_react_prompt,
    split_react_trace,
    strip_observation,
)
from hanlin.data.ledger import Drop


@dataclass(frozen=True, slots=True)
class ParsedChat:
    """A conversation as it was read.

    Attributes:
        messages: Its turns.
        tools: The tools that they may call.
        meta: The row's other fields.
        unread: Names of the row's fields that are in none of these; no part of what makes two conversations equal.
    """

    messages: tuple[Message, ...]
    tools: Tools = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = field(default=(), compare=False)


_PLUGINS = ("plugin", "<|plugin|>")
"""Names of InternLM's system turn that lists the tools."""
_REASONING_FIELDS = frozenset(TURN_REASONING_FIELDS)
_ALL_CALL_FIELDS = frozenset(CALL_FIELDS)


def read_turns(turns: Sequence[Any], tools: Tools = ()) -> tuple[Message, ...] | Drop:
    """Read turns written as {from, value}, {role, content} or {role, text}, with all that is inside their texts.

    Args:
        turns: The turns of a conversation.
        tools: The tools that they may call.
    """
    messages = join_turns(turns)
    return messages if isinstance(messages, Drop) else finish_turns(messages, tools)


def join_turns(turns: Sequence[Any]) -> tuple[Message, ...] | Drop:
    """Read turns as they are written: a call, or reasoning alone, joins the assistant's turn beside it."""
    messages: list[Message] = []
    for turn in turns:
        parts = _read_parts(turn)
        if isinstance(parts, Drop):
            return parts
        for message in parts:
            joined = None
            if message.role == "assistant" and messages and messages[-1].role == "assistant":
                joined = _join(messages[-1], message)
            if joined is None:
                messages.append(message)
            else:
                messages[-1] = joined
    return tuple(messages)


def _join(previous: Message, message: Message) -> Message | None:
    """The turn that two turns of the assistant in a row make; None if they are two turns."""
    is_only_reasoning = bool(previous.reasoning) and not previous.text.strip() and not previous.tool_calls
    if not message.tool_calls and not is_only_reasoning:
        return None
    flags = {previous.train, message.train} - {None}
    return replace(
        previous,
        text="\n".join(dict.fromkeys(text for text in (previous.text, message.text) if text)),
        tool_calls=previous.tool_calls + message.tool_calls,
        reasoning=join_reasoning(previous.reasoning, message.reasoning),
        train=flags == {True} if flags else None,
    )


def read_turn(turn: Any) -> Message | Drop:
    """Read one turn, with its reasoning and its tool calls."""
    parts = _read_parts(turn)
    if isinstance(parts, Drop):
        return parts
    if len(parts) != 1:
        return Drop("other_format", f"{len(parts)} turns in one")
    (message,) = parts
    return _read_answer(message, ()) if message.role == "assistant" else message


def _read_parts(turn: Any) -> list[Message] | Drop:
    """Read the turns that one turn of the data holds: mostly one."""
    if not isinstance(turn, dict):
        return Drop("other_format", f"a turn is a {type(turn).__name__}")
    name = find_role_name(turn)
    role = ROLE_NAMES.get(name)
    if role is None:
        return Drop("unknown_role", name)
    if role == "tool":
        return _read_tool_turn(turn)
    content = turn.get("content") or turn.get("value") or _find_content(turn)
    if len(turn) > 2 and (field := find_media_field(turn)):
        return Drop("media", field)
    if role == "assistant":
        message = _read_assistant(turn, name, content)
        return message if isinstance(message, Drop) else [message]
    if isinstance(content, str):
        if role == "system" and turn.get("name") in _PLUGINS:
            content = f"<tools>\n{content}\n</tools>"
        return [Message(role, strip_turn(content))]
    parts = split_content(content)
    if isinstance(parts, Drop):
        return parts
    if parts.calls or parts.reasoning:
        return Drop("not_text", f"{role}: {'tool_use' if parts.calls else 'reasoning'}")
    messages = list(parts.results)
    if parts.text or not messages:
        messages.append(Message(role, strip_turn(parts.text)))
    return messages


def _find_content(turn: Mapping[str, Any], more_fields: Sequence[str] = ()) -> Any:
    """The content of a turn: of several fields the first that is not empty."""
    names = [name for name in (*CONTENT_FIELDS, *more_fields) if turn.get(name) is not None]
    return next((turn[name] for name in names if turn[name]), turn[names[0]] if names else "")


def _read_tool_turn(turn: Mapping[str, Any]) -> list[Message] | Drop:
    """Read a tool's turn; in ChatGLM3's form the same turn also holds the call, before its `observation`."""
    name = next((str(turn[key]) for key in RESULT_NAME_FIELDS if isinstance(turn.get(key), str)), "")
    call_id = next((str(turn[key]) for key in RESULT_ID_FIELDS if isinstance(turn.get(key), str | int)), "")
    if "observation" in turn and "parameters" in turn:
        calls = read_calls([{"name": name, "arguments": turn["parameters"]}])
        if isinstance(calls, Drop):
            return calls
        result = Message("tool", strip_turn(to_text(turn["observation"])), (), name)
        return [Message("assistant", "", calls), result]
    content = _find_content(turn, ("observation",))
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        parts = split_content(content)
        if isinstance(parts, Drop):
            return parts
        if parts.results:
            return list(parts.results)
        content = parts.text
    return [Message("tool", strip_turn(to_text(content)), (), name, "", call_id)]


def _read_assistant(turn: Mapping[str, Any], name: str, content: Any) -> Message | Drop:
    train = read_loss_flag(turn)
    is_call = name in CALL_ROLES and _is_call_object(content)
    parts = TurnContent(calls=as_list(content)) if is_call else split_content(content)
    if isinstance(train, Drop) or isinstance(parts, Drop):
        return train if isinstance(train, Drop) else parts  # type: ignore[return-value]
    if parts.results:
        return Drop("not_text", "tool_result")
    split = split_reasoning(parts.text)
    if isinstance(split, Drop):
        return split
    reasoning, text = split
    reasoning = join_reasoning(parts.reasoning, reasoning) if parts.reasoning else reasoning
    if not _REASONING_FIELDS.isdisjoint(turn):
        in_fields = [found for key in TURN_REASONING_FIELDS if (found := read_reasoning(turn.get(key)))]
        in_fields = [found for found in in_fields if not is_doubled(found, text)]
        for found in reversed(in_fields):
            reasoning = join_reasoning(found, reasoning)
    raw = parts.calls
    if not _ALL_CALL_FIELDS.isdisjoint(turn):
        raw = [*raw, *(call for key in CALL_FIELDS for call in as_list(turn.get(key)))]
    if name in REASONING_ROLES:
        reasoning, text = join_reasoning(reasoning, strip_turn(text)), ""
    elif name in CALL_ROLES:
        call_turn = _read_call_turn(turn, text)
        if isinstance(call_turn, Drop):
            return call_turn
        text, raw = call_turn[0], [*raw, *call_turn[1]]
    elif isinstance(turn.get("metadata"), str) and turn["metadata"].strip() and read_arguments(text) is not None:
        raw, text = [*raw, {"name": turn["metadata"].strip(), "arguments": text}], ""
    calls: tuple[ToolCall, ...] = ()
    if raw:
        read = read_calls([call for call in raw if not isinstance(call, ToolCall)])
        if isinstance(read, Drop):
            return read
        calls = (*read, *(call for call in raw if isinstance(call, ToolCall)))
    return Message("assistant", strip_turn(text), calls, "", reasoning, "", train)


def _is_call_object(content: Any) -> bool:
    """Whether the content of a turn is a call as an object, or a list of them."""
    calls = content if isinstance(content, list) else [content]
    return bool(calls) and all(isinstance(call, dict) and ("name" in call or "function" in call) for call in calls)


def _read_call_turn(turn: Mapping[str, Any], text: str) -> tuple[str, list[Any]] | Drop:
    """Read a turn whose role says that it is a call: its text besides, and the calls."""
    if not text.strip():
        named = isinstance(turn.get("name"), str) and any(turn.get(field) is not None for field in ARGUMENT_FIELDS)
        return (
            ("", [{key: turn[key] for key in ("id", "name", *ARGUMENT_FIELDS) if key in turn}]) if named else ("", [])
        )
    calls = read_calls([text])
    if not isinstance(calls, Drop):
        return "", list(calls)
    found = _split_calls(text, (), has_result=True)
    if isinstance(found, Drop) or found is None:
        return Drop("broken_tool_call", text[:80])
    return found.text, list(found.calls)


# --- what is inside the texts -----------------------------------------------------------------------------------------


def finish_turns(messages: Sequence[Message], tools: Tools = ()) -> tuple[Message, ...] | Drop:
    """Read what is inside the texts of turns (reasoning, calls, results), and put results in the order of their calls.

    Args:
        messages: The turns.
        tools: The tools that they may call.
    """
    if not tools and not any(map(_may_hold_marks, messages)):
        return tuple(messages)
    is_trace = "tool" in [message.role for message in messages]
    finished: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            inline = split_inline_trace(message)
            if inline is None and not message.tool_calls and may_be_react(message.text):
                inline = _split_react_answer(message, tools)
            if isinstance(inline, Drop):
                return inline
            if inline is not None:
                finished += inline
                continue
            following = messages[index + 1] if index + 1 < len(messages) else None
            has_result = following is not None and (following.role == "tool" or has_result_tags(following.text))
            is_observed = following is not None and not has_result and _is_result(following.text)
            answer = _read_answer(message, tools, has_result, is_trace, is_observed)
            if isinstance(answer, Drop):
                return answer
            finished.append(answer)
            is_trace = is_trace or bool(answer.tool_calls)
        elif message.role == "tool":
            finished += split_result_tags(message)
        elif message.role == "user" and finished and finished[-1].tool_calls and _is_result(message.text):
            finished += split_result_tags(replace(message, role="tool", text=strip_observation(message.text)))
        else:
            finished.append(message)
    return order_results(finished)


def _is_result(text: str) -> bool:
    """Whether a user's turn after a call is its result."""
    return has_result_tags(text) or is_observation(text) or is_react_result(text)


def _split_react_answer(message: Message, tools: Tools) -> list[Message] | Drop | None:
    """Split an answer that is a whole ReAct trace behind its reasoning, if it has any."""
    split = split_reasoning(message.text)
    if isinstance(split, Drop):
        return split
    reasoning = join_reasoning(message.reasoning, split[0]) if split[0] else message.reasoning
    return split_react_trace(replace(message, text=split[1], reasoning=reasoning), tools)


def _split_calls(text: str, tools: Tools, has_result: bool, is_observed: bool = False) -> CallText | Drop | None:
    """Split the calls off a text, however it marks them; None if it has none."""
    found = split_tagged_calls(text, tools)
    if found is None and (has_result or is_observed or tools) and may_be_react(text):
        found = split_react(text, tools)
        if not has_result and not is_observed and not (isinstance(found, CallText) and are_known(found.calls, tools)):
            found = None
    return found or split_untagged_calls(text, tools, has_result)


def _may_hold_marks(message: Message) -> bool:
    """Whether a turn may hold more than its text says: calls, a result, or marks around reasoning, calls or results."""
    text = message.text
    if (
        message.role == "tool"
        or "<" in text
        or "[" in text
        or "◁" in text
        or "【" in text
        or "✿" in text
        or message.tool_calls
    ):
        return True
    return message.role == "assistant" and may_be_react(text)


def _read_answer(
    message: Message, tools: Tools, has_result: bool = False, is_trace: bool = False, is_observed: bool = False
) -> Message | Drop:
    """Read the reasoning and the calls in the text of an answer.

    Args:
        message: The answer.
        tools: The tools that it may call.
        has_result: Whether a tool's result follows.
        is_trace: Whether the conversation has results at all.
        is_observed: Whether the user says an observation next, which is a result if the answer is ReAct's.
    """
    split = split_reasoning(message.text)
    if isinstance(split, Drop):
        return split
    if split[1] is not message.text:
        reasoning, text = join_reasoning(message.reasoning, split[0]), strip_turn(split[1])
        message = replace(message, text=text, reasoning=reasoning)
    if message.tool_calls or not message.text:
        return message
    found = _split_calls(message.text, tools, has_result, is_observed)
    if found is None and is_trace:
        found = split_final_answer(message.text)
    if isinstance(found, Drop):
        return found
    if found is None:
        return message
    reasoning = join_reasoning(message.reasoning, found.reasoning)
    return replace(message, text=strip_turn(found.text), tool_calls=found.calls, reasoning=reasoning)


def mark_greeting(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Mark an assistant's turn before any of the user as not to be learned: it answers nothing."""
    for index, message in enumerate(messages[:2]):
        if message.role == "assistant" and message.train is None:
            return (*messages[:index], replace(message, train=False), *messages[index + 1 :])
        if message.role != "system":
            break
    return messages


def mark_unlearned(chat: ParsedChat) -> ParsedChat:
    """Mark every answer of a conversation as not to be learned."""
    turns = (replace(turn, train=False) if turn.role == "assistant" else turn for turn in chat.messages)
    return replace(chat, messages=tuple(turns))


def finish_chat(row: Any, chat: ParsedChat) -> ParsedChat | Drop:
    """Read what is inside the texts of a conversation, and its tools wherever the row has them.

    Args:
        row: The row that it was read from.
        chat: The turns, and the tools if the format has its own place for them.
    """
    tools, unread = chat.tools, chat.unread
    messages = chat.messages
    if isinstance(row, dict):
        name, value = find_row_tools(row)
        listed = read_tools(value) if name and not tools else ()
        if isinstance(listed, Drop):
            return listed
        tools = tools or listed
    media = check_media(row, messages)
    if media is not None:
        return media
    messages = _join_system_turns(messages)
    system = messages[0] if messages and messages[0].role == "system" else None
    in_system = split_system_tools(system.text) if system and says_how_to_call(system.text) else None
    if system is not None and in_system is not None:
        messages = (replace(system, text=in_system.text), *messages[1:])
        messages = messages if in_system.text else messages[1:]
        tools, unread = merge_tools(tools, in_system.tools), (*unread, "system.call_format")
    split = _split_prompts(messages)
    if split is not None:
        messages, in_prompts = split
        tools, unread = merge_tools(tools, in_prompts), (*unread, "prompt.call_format")
    finished = finish_turns(messages, tools)
    if isinstance(finished, Drop):
        return finished
    return ParsedChat(mark_greeting(finished), tools, chat.meta, unread)


def _join_system_turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join several system turns at the beginning to one; those of a list of tools and of a text are often apart."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "system":
        return messages
    count = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    text = "\n\n".join(message.text for message in messages[:count] if message.text)
    return (replace(messages[0], text=text), *messages[count:])


def _split_prompts(messages: Sequence[Message]) -> tuple[tuple[Message, ...], Tools] | None:
    """Split the questions off prompts of ReAct, and the tools that these list; None if there is no such prompt."""
    tools: Tools = ()
    turns = list(messages)
    for index, message in enumerate(messages):
        if message.role == "user" and (split := split_react_prompt(message.text)) is not None:
            turns[index] = replace(message, text=split[0])
            tools = merge_tools(tools, split[1])
    return (tuple(turns), tools) if tools else None


def read_turn_tools(turns: Sequence[Any]) -> Tools | Drop:
    """Read the tools beside the text of the first turn, where ChatGLM, GLM-4 and minimind write them."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    return read_tools(first.get("tools") or first.get("functions") or "")


def prepend_system(system: Any, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put a system turn before the turns, unless they begin with one that has a text or `system` is no text."""
    if not isinstance(system, str) or not system.strip():
        return messages
    has_system = bool(messages) and messages[0].role == "system"
    if has_system and messages[0].text:
        return messages
    return (Message("system", strip_turn(system)), *(messages[1:] if has_system else messages))


def alternate_roles(texts: Sequence[str]) -> tuple[Message, ...]:
    """Make messages of alternating texts, the user first."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple([Message(roles[index % 2], strip_turn(text)) for index, text in enumerate(texts)])
