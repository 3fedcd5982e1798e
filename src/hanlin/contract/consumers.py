"""What every reader of an exported model is to the contract: turns in, the ids of its prompt out.

Owns the protocol and the word for a reader that cannot run here. Does not own the readers themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hanlin.records import Message

Batch = Sequence[tuple[Sequence[Message], Sequence[Mapping[str, Any]]]]
"""Conversations that end with the user or a tool, each with the tools that are offered in it."""


class Unavailable(Exception):
    """A reader cannot run on this machine; `reason` says in one sentence why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Consumer(Protocol):
    """A program that serves the exported model, asked only for the prompts that it would feed."""

    name: str

    def prompts(self, batch: Batch) -> list[list[int]]:
        """The ids of each prompt, up to where the assistant's answer begins. Raises Unavailable."""

    def close(self) -> None:
        """Give back what the reader holds; it is not asked again."""
