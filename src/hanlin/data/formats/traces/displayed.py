"""Turns that a set shows as one text, `user: ...` behind `assistant: ...`, beside the list that they were made of.

tau-bench's `messages_display` is one. A line of what is said may begin the same way, and calls lie between as JSON, so
that the text is not taken apart again.
"""

from __future__ import annotations

import re
from typing import Any

from hanlin.core.i18n import mark, tr
from hanlin.data.text.patterns import compile_on_use

DISPLAYED = mark("the field `{field}` shows turns as one text")
_TURN = compile_on_use(r"(?:\A|\n)[ \t]*(system|user|assistant|tool|human|ai)[ \t]*[:：]", re.I)


def describe_displayed(row: Any) -> tuple[str, str] | None:
    """Describe a row whose only turns are such a text: (what it is, the way out); None for any other row."""
    for name, value in row.items() if isinstance(row, dict) else ():
        if not isinstance(value, str):
            continue
        roles = [role.lower() for role in _TURN.findall(value)]
        if len(roles) > 2 and {"user", "human"} & set(roles) and {"assistant", "ai"} & set(roles):
            return tr(DISPLAYED, field=name), tr(
                "take the list of turns that it was made of, such as `traj` or `messages`; a text without calls is "
                "read with `fields`: {example}",
                example=f"{{text: {name}}}",
            )
    return None
