"""What a check of the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["works", "fails", "absent"]
Group = Literal["python", "package", "extra", "program", "accelerator", "machine", "environment", "network"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked for.

    Attributes:
        group: What it belongs to.
        name: What was looked for.
        found: The version, size or address that there is.
        ok: Whether it is enough.
        hint: What mends it: a command where there is one.
        optional: Whether Hanlin runs without it.
    """

    group: Group
    name: str
    found: str
    ok: bool
    hint: str = ""
    optional: bool = False

    @property
    def state(self) -> State:
        """`works`; `absent`, which is no fault; or `fails`."""
        return "works" if self.ok else "absent" if self.optional else "fails"
