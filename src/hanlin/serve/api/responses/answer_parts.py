"""What an answer is made of: reasoning at its start, a call of a tool, or text."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from typing import Literal, NamedTuple

from hanlin.chat.reasoning import BEGIN_TAG, split_reasoning
from hanlin.serve.api.tool_calls import parse_arguments

_CALL_MARKERS = ("{", "<tool_call>", "<|python_tag|>")
_MARKED_CALL = re.compile(r"\s*(?:<tool_call>|<\|python_tag\|>)?\s*(\{.*\})\s*(?:</tool_call>)?\s*", re.DOTALL)


class AnswerPart(NamedTuple):
    """A piece of an answer: `text` of a thought or for the user, or a call (its name, its arguments, its end)."""

    kind: Literal["reasoning", "content", "call", "arguments", "call_end"]
    text: str = ""
    call_id: str = ""


class AnswerReader:
    """Separates the text of an answer from its reasoning and from a call. What may become either is held back.

    Args:
        names: Names of the tools that the model was offered.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._buffer = ""
        self._is_text = False

    def feed(self, text: str) -> list[AnswerPart]:
        """What the next text of the answer adds."""
        if self._is_text:
            return [AnswerPart("content", text)] if text else []
        self._buffer += text
        start = self._buffer.lstrip()
        markers = (BEGIN_TAG, *(_CALL_MARKERS if self._names else ()))
        if any(start.startswith(marker) or marker.startswith(start) for marker in markers):
            return []
        return self.flush()

    def flush(self) -> list[AnswerPart]:
        """At the end of the answer: what was held back."""
        held, self._buffer, self._is_text = self._buffer, "", True
        reasoning, text = split_reasoning(held)
        parts = [AnswerPart("reasoning", reasoning)] if reasoning else []
        call = self._read_call(text)
        if call is not None:
            name, arguments = call
            parts += [AnswerPart("call", name, f"call_{uuid.uuid4().hex[:24]}"), AnswerPart("arguments", arguments)]
            return [*parts, AnswerPart("call_end")]
        return [*parts, AnswerPart("content", text)] if text else parts

    def _read_call(self, text: str) -> tuple[str, str] | None:
        match = _MARKED_CALL.fullmatch(text) if self._names else None
        call = parse_arguments(match[1]) if match is not None else None
        if call is None or call.get("name") not in self._names:
            return None
        arguments = call.get("parameters", call.get("arguments", {}))
        return (str(call["name"]), json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
