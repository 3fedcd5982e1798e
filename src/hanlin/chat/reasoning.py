"""Reasoning in chat templates: in which field a template reads it, how thinking is switched, and the tags around it.

Templates differ. Some read a field of the message (`reasoning_content`, `thinking`, `reasoning`); some know nothing of
reasoning, so that it can only be part of the text; some throw such a part away. What a template does is found by
rendering small conversations, never guessed from its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from hanlin.core.records import Message, ToolCall

BEGIN_TAG, END_TAG = "<think>", "</think>"
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields of a message in which templates read reasoning: of most open models, of gpt-oss, and of OpenRouter's API."""
THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates turn thinking on and off: Qwen3's, GLM's and SmolLM3's, and DeepSeek V3.1's."""
KEEP_VARIABLE = "preserve_thinking"
"""The variable by which templates keep the reasoning of earlier answers (Qwen3.6's, and that of all packaged ones)."""
TEMPLATE_TAGS = (BEGIN_TAG, END_TAG, "<tool_response>", "</tool_response>")
"""What templates look for in texts. In Hanlin a text that spells it is never taken for it."""

Render = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Renders turns in a template's form; the second argument is `add_generation_prompt`."""

_REASONING, _ANSWER = "reasoningprobe", "answerprobe"
_SPELLED = re.compile(r"</?(?:think|thinking|reasoning|thought)>", re.IGNORECASE)
_LEADING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


class ReasoningForm(NamedTuple):
    """What a template does with reasoning.

    Attributes:
        field: The field in which it reads the reasoning of an answer; empty if it reads none.
        inline: Whether reasoning is written into the text instead, within `<think>`, since the template has no field.
        closing: What it writes between the reasoning and the text of the answer.
        keeps_past: Whether a prompt still holds the reasoning of answers before the last question.
    """

    field: str = ""
    inline: bool = False
    closing: str = ""
    keeps_past: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the template has a form for the reasoning of an answer."""
        return bool(self.field) or self.inline


def find_form(source: str, render: Render) -> ReasoningForm:
    """Find out what a template does with reasoning, by rendering small conversations.

    Args:
        source: The template.
        render: Renders turns with it, thinking turned on.
    """
    question = {"role": "user", "content": "?"}
    for field in REASONING_FIELDS:
        if not re.search(rf"\b{field}\b", source):
            continue
        answer = {"role": "assistant", "content": _ANSWER, field: _REASONING}
        closing = _closing(render, [question, answer])
        if closing is not None:
            return ReasoningForm(field, False, closing, _is_kept(render, [question, answer, question]))
    answer = {"role": "assistant", "content": with_tags(_REASONING, _ANSWER)}
    closing = _closing(render, [question, answer])
    if closing is None:
        return ReasoningForm()
    return ReasoningForm("", True, closing, _is_kept(render, [question, answer, question]))


def _closing(render: Render, turns: Sequence[Mapping[str, Any]]) -> str | None:
    """What is written between reasoning and answer; None unless both are there once, in this order."""
    try:
        text = render(turns, False)
    except jinja2.TemplateError:
        return None
    before, *after = text.split(_REASONING)
    if len(after) != 1 or after[0].count(_ANSWER) != 1 or _ANSWER in before:
        return None
    return after[0].partition(_ANSWER)[0]


def _is_kept(render: Render, turns: Sequence[Mapping[str, Any]]) -> bool:
    try:
        return _REASONING in render(turns, True)
    except jinja2.TemplateError:
        return False


def with_tags(reasoning: str, text: str) -> str:
    """Reasoning and answer as one text, as models write them that think in tags."""
    return f"{BEGIN_TAG}\n{reasoning.strip()}\n{END_TAG}\n\n{text}"


def split_reasoning(text: str, is_open: bool = False, is_complete: bool = False) -> tuple[str, str]:
    """The reasoning at the start of what a model wrote, and the rest.

    Args:
        text: What the model wrote.
        is_open: Whether the prompt already opened the thinking block.
        is_complete: Whether the text is all that it wrote: a block without an end is then reasoning to its last word,
            and the model did not come to an answer. Else it is taken for text.

    Returns:
        `("", text)` if it starts with no thinking block.
    """
    begin = BEGIN_TAG if is_open and not text.lstrip().startswith(BEGIN_TAG) else ""
    match = _LEADING.match(begin + text)
    if match is not None:
        return match[1].strip(), (begin + text)[match.end() :]
    written = (begin + text).lstrip()
    if is_complete and written.startswith(BEGIN_TAG):
        return written.removeprefix(BEGIN_TAG).strip(), ""
    return "", text


def assistant_message(text: str, calls: tuple[ToolCall, ...] = (), reasoning: str = "") -> Message:
    """An assistant's turn of a request: reasoning at the start of its text, within `<think>`, is split off.

    Clients send a turn back as they got it, in a field or within the text; the template must see one form.
    """
    if not reasoning:
        reasoning, text = split_reasoning(text)
    return Message("assistant", text, calls, reasoning=reasoning)


def find_begun_thought(message: Message) -> str | None:
    """What an answer that has only begun to think has thought so far; None if it does not end within its thinking
    block, which it must begin with.
    """
    text = message.text.lstrip()
    is_begun = message.role == "assistant" and text.startswith(BEGIN_TAG) and END_TAG not in text
    return text.removeprefix(BEGIN_TAG).lstrip() if is_begun and not message.reasoning.strip() else None


def spells_tags(text: str) -> bool:
    """Whether a text spells a tag of reasoning, as text."""
    return "<" in text and _SPELLED.search(text) is not None
