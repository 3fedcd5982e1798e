"""In which form a chat template writes tool calls, found by rendering a small conversation, never by its name."""

from __future__ import annotations

from typing import Literal

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall

CallForm = Literal["json", "pythonic"]
"""`json`: `{"name": ..., "parameters": {...}}`, bare or within `<tool_call>`; `pythonic`: `[name(key=value), ...]`."""

_NAME, _KEY = "callprobe", "keyprobe"


def find_call_form(template: ChatTemplate) -> CallForm:
    """The form in which a template writes calls; `json` if it writes none, since forced calls have that form."""
    turns = [Message("user", "?"), Message("assistant", "", (ToolCall(_NAME, {_KEY: 1}),))]
    try:
        ids = template.render_unshielded(turns).ids
    except UserError:
        return "json"
    text = template.tokenizer.decode(ids, skip_special=False)
    return "pythonic" if f"{_NAME}({_KEY}=" in text else "json"
