"""The bodies of the chat's requests."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hanlin.core.i18n import tr
from hanlin.serve.api.body import RequestBody

_MAX_JSON_CHARS = 1 << 20


def _check_size(value: Any) -> Any:
    if len(json.dumps(value)) > _MAX_JSON_CHARS:
        raise ValueError(tr("holds more than {count} characters", count=_MAX_JSON_CHARS))
    return value


Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Text = Annotated[str, Field(max_length=4 << 20)]
Object = Annotated[dict[str, Any], AfterValidator(_check_size)]
Objects = Annotated[list[dict[str, Any]], Field(max_length=256), AfterValidator(_check_size)]
State = Literal["writing", "done", "cut", "stopped", "failed"]
"""Of an answer: it is being written (or its page was closed meanwhile), ended by itself, reached the limit of tokens,
was stopped by the reader, or the server refused."""


class NewConversation(RequestBody):
    """A conversation to begin."""

    title: str = Field("", max_length=200)
    settings: Object = Field(default_factory=dict)


class ConversationChange(RequestBody):
    """What changes of a conversation; None: it stays."""

    title: str | None = Field(None, max_length=200)
    settings: Object | None = None
    leaf: Id | None = None


class NewMessage(RequestBody):
    """A message to add below `parent`, under an id that the page drew."""

    id: Id | None = None
    parent: Id | None = None
    role: Literal["user", "assistant", "tool"]
    content: Text = ""
    reasoning: Text = ""
    tool_calls: Objects = Field(default_factory=list)
    tool_call_id: str = Field("", max_length=200)
    name: str = Field("", max_length=256)
    model: str = Field("", max_length=500)
    state: State = "done"
    request: Object = Field(default_factory=dict)
    stats: Object = Field(default_factory=dict)


class NewMessages(RequestBody):
    """Messages to add at once: a question and its answers, which are only begun.

    Attributes:
        new: The conversation that begins with them; None: it is there.
        messages: The messages; a later one may lie below an earlier one.
        leaf: With which of them the branch that is shown ends; None: the last one.
    """

    new: NewConversation | None = None
    messages: list[NewMessage] = Field(default_factory=list, max_length=64)
    leaf: Id | None = None


class MessageChange(RequestBody):
    """What changes of a message: an answer as it grows, a thumb, a better form of an answer (`""` takes it back)."""

    content: Text | None = None
    reasoning: Text | None = None
    tool_calls: Objects | None = None
    state: State | None = None
    stats: Object | None = None
    rating: Literal[-1, 0, 1] | None = None
    better: Text | None = None


class Preset(RequestBody):
    """A preset of sampling to save."""

    name: str = Field(min_length=1, max_length=80)
    sampling: Object


class ModelChoice(RequestBody):
    """A model to load: its path below the page's folder."""

    path: str = Field(min_length=1, max_length=4096)
