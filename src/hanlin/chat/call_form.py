"""In which form a chat template writes tool calls, found by rendering small conversations, never by its name."""

from __future__ import annotations

import re
from typing import NamedTuple

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall

_NAME, _KEY, _TEXT = "callprobe", "keyprobe", "textprobe"
_JSON_CALL = re.compile(
    rf'\{{\s*"name"\s*:\s*"{_NAME}"\s*,\s*"(?P<key>parameters|arguments)"\s*:\s*\{{\s*"{_KEY}"\s*:\s*\d\s*\}}\s*\}}'
)
_PYTHONIC_CALL = re.compile(rf"{_NAME}\({_KEY}=\d\)")
_KNOWN_BEGINNINGS = ("", "<tool_call>", "<|python_tag|>")
"""What the server's reader of answers takes off before a call in JSON; another beginning is not imitated."""


class CallForm(NamedTuple):
    r"""How a template writes the calls of an answer.

    Llama 3.1   {"name": ..., "parameters": {...}}; {"name": ..., "parameters": {...}}
    Hermes      <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>\n<tool_call>\n...
    Llama 3.2   [name(key=value), name(key=value)]

    Attributes:
        is_pythonic: Whether a call is written as Python does, else as JSON.
        key: The key of the arguments in JSON.
        begin: What comes before the first call.
        between: What comes between two calls; None: the template has no form for several.
        end: What comes after the last call.
    """

    is_pythonic: bool = False
    key: str = "parameters"
    begin: str = ""
    between: str | None = None
    end: str = ""


def find_call_form(template: ChatTemplate) -> CallForm:
    """The form in which a template writes calls; one bare JSON object if it has none, or one that cannot be read."""
    before, _, after = _render(template, Message("assistant", _TEXT)).partition(_TEXT)
    one = _render(template, Message("assistant", "", (ToolCall(_NAME, {_KEY: 1}),))).removeprefix(before)
    two = _render(template, Message("assistant", "", (ToolCall(_NAME, {_KEY: 1}), ToolCall(_NAME, {_KEY: 2}))))
    two = two.removeprefix(before)
    for is_pythonic, pattern in ((True, _PYTHONIC_CALL), (False, _JSON_CALL)):
        call = pattern.search(one)
        if call is None:
            continue
        begin, end = one[: call.start()], one[call.end() :].removesuffix(after)
        if end and not one.endswith(after):  # a turn of calls has an end of its own, a special token
            end = re.split("|".join(map(re.escape, template.tokenizer.added_tokens)) or "$", end)[0]
        if is_pythonic and (begin, end) == ("[", "]"):
            return CallForm(True, "", begin, _find_between(pattern, two, begin), end)
        if not is_pythonic and begin.strip() in _KNOWN_BEGINNINGS:
            return CallForm(False, call["key"], begin, _find_between(pattern, two, begin), end)
    return CallForm()


def _find_between(pattern: re.Pattern[str], two: str, begin: str) -> str | None:
    """What is between two calls of one turn; None if they are not there."""
    calls = list(pattern.finditer(two))
    if len(calls) != 2 or two[: calls[0].start()] != begin:
        return None
    return two[calls[0].end() : calls[1].start()]


def _render(template: ChatTemplate, answer: Message) -> str:
    """The text of an answer to a question; empty if the template has no form for it."""
    try:
        return template.render_text([Message("user", "?"), answer])
    except UserError:
        return ""
