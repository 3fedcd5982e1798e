"""Output items of a response while they are written: each event that one makes, and the item as it is so far.

open()        response.output_item.added, response.content_part.added
append(text)  response.output_text.delta
close()       response.output_text.done, response.content_part.done, response.output_item.done
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from hanlin.serve.api.responses.items import seal_reasoning

Event = dict[str, Any]
"""An event without its sequence number."""


class OutputItem(ABC):
    """An item of a response's output.

    Args:
        index: Its index within the output.
    """

    kind = ""
    id_prefix = ""

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = f"{self.id_prefix}_{uuid.uuid4().hex}"
        self.text = ""

    def open(self) -> list[Event]:
        """The events of its beginning."""
        return [self._make_item_event("added", "in_progress")]

    @abstractmethod
    def append(self, text: str) -> list[Event]:
        """Add text. Returns the event that carries it."""

    def close(self, status: str) -> list[Event]:
        """The events of its end; `status` is `completed` or `incomplete`."""
        return [self._make_item_event("done", status)]

    def to_json(self, status: str) -> dict[str, Any]:
        """The item as it is so far."""
        return {"id": self.id, "type": self.kind, "status": status}

    def _make_item_event(self, verb: str, status: str) -> Event:
        return {"type": f"response.output_item.{verb}", "output_index": self.index, "item": self.to_json(status)}

    def _make_event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self.index, **fields}


class MessageOutput(OutputItem):
    """The text of an answer."""

    kind, id_prefix = "message", "msg"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.logprobs: list[dict[str, Any]] = []
        self._has_part = False

    def open(self) -> list[Event]:
        events = super().open()
        self._has_part = True
        return [*events, self._make_event("content_part.added", content_index=0, part=self._make_part())]

    def append(self, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> list[Event]:
        self.text += text
        self.logprobs += logprobs
        return [self._make_event("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))]

    def close(self, status: str) -> list[Event]:
        return [
            self._make_event("output_text.done", content_index=0, text=self.text, logprobs=self.logprobs),
            self._make_event("content_part.done", content_index=0, part=self._make_part()),
            *super().close(status),
        ]

    def to_json(self, status: str) -> dict[str, Any]:
        content = [self._make_part()] if self._has_part else []
        return {**super().to_json(status), "role": "assistant", "content": content}

    def _make_part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}


class FunctionCallOutput(OutputItem):
    """A call of a tool; its text is the arguments.

    Args:
        index: Its index within the output.
        name: Name of the tool.
        call_id: What the tool's output will refer to.
    """

    kind, id_prefix = "function_call", "fc"

    def __init__(self, index: int, name: str, call_id: str) -> None:
        super().__init__(index)
        self.name, self.call_id = name, call_id

    def append(self, text: str) -> list[Event]:
        self.text += text
        return [self._make_event("function_call_arguments.delta", delta=text)]

    def close(self, status: str) -> list[Event]:
        done = self._make_event("function_call_arguments.done", name=self.name, arguments=self.text)
        return [done, *super().close(status)]

    def to_json(self, status: str) -> dict[str, Any]:
        return {**super().to_json(status), "call_id": self.call_id, "name": self.name, "arguments": self.text}


class ReasoningOutput(OutputItem):
    """What the model thinks before it answers.

    Args:
        index: Its index within the output.
        as_summary: Give the text as the summary, which clients show, instead of as content.
        with_encrypted: Add `encrypted_content`, for clients that send only this back.
    """

    kind, id_prefix = "reasoning", "rs"

    def __init__(self, index: int, as_summary: bool, with_encrypted: bool) -> None:
        super().__init__(index)
        self._as_summary, self._with_encrypted = as_summary, with_encrypted
        self._has_part = False

    def open(self) -> list[Event]:
        events = super().open()
        self._has_part = True
        return [*events, self._make_part_event("added")]

    def append(self, text: str) -> list[Event]:
        self.text += text
        return [self._make_text_event("delta", delta=text)]

    def close(self, status: str) -> list[Event]:
        done = [self._make_text_event("done", text=self.text), self._make_part_event("done")]
        return [*done, *super().close(status)]

    def to_json(self, status: str) -> dict[str, Any]:
        parts = [self._make_part()] if self._has_part else []
        content = {"summary": parts} if self._as_summary else {"summary": [], "content": parts}
        sealed = seal_reasoning(self.text) if self._with_encrypted and status != "in_progress" else None
        return {**super().to_json(status), **content, "encrypted_content": sealed}

    def _make_part(self) -> dict[str, Any]:
        return {"type": "summary_text" if self._as_summary else "reasoning_text", "text": self.text}

    def _make_part_event(self, verb: str) -> Event:
        if self._as_summary:
            return self._make_event(f"reasoning_summary_part.{verb}", summary_index=0, part=self._make_part())
        return self._make_event(f"content_part.{verb}", content_index=0, part=self._make_part())

    def _make_text_event(self, verb: str, **fields: Any) -> Event:
        if self._as_summary:
            return self._make_event(f"reasoning_summary_text.{verb}", summary_index=0, **fields)
        return self._make_event(f"reasoning_text.{verb}", content_index=0, **fields)
