"""What can be asked for the ids of a conversation: a program that serves a folder of ours, behind one protocol.

Owns the protocol. Does not own any consumer, nor what is asked and how answers are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hanlin.records import Message


class Unavailable(Exception):
    """A consumer cannot be asked here; the text is the reason, in the reader's language."""


@dataclass(frozen=True)
class Prompt:
    """Turns that end where the assistant is to speak, and the functions that it may call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


class Consumer(Protocol):
    """A program that renders conversations by itself."""

    name: str

    def prompts(self, batch: Sequence[Prompt]) -> list[list[int]]:
        """The ids of each prompt, the beginning of the assistant's turn included."""
        ...

    def close(self) -> None:
        """Give back what the consumer holds."""
        ...
