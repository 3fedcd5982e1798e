"""Regular expressions that are compiled when they are first used.

The rules and formats of data have some 200 patterns, and no run uses all of them. Compiling them took 90 ms of each
process that starts, and a stage starts one for each core.
"""

from __future__ import annotations

import re
from typing import Any, cast

_ATTRIBUTES = (
    *("search", "match", "fullmatch", "findall", "finditer", "split", "sub", "subn"),
    *("pattern", "flags", "groups", "groupindex"),
)


class _Pattern:
    """A pattern that has no attributes until one of them is asked for, and from then on those of the compiled one."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._arguments = (pattern, flags)

    def __getattr__(self, name: str) -> Any:
        if name not in _ATTRIBUTES:
            raise AttributeError(name)
        compiled = re.compile(*self._arguments)
        self.__dict__.update({attribute: getattr(compiled, attribute) for attribute in _ATTRIBUTES})
        return self.__dict__[name]


def compile_on_use(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Make a pattern that is compiled when it is first used; a mistake in it is found then, too.

    Args:
        pattern: As for `re.compile`.
        flags: As for `re.compile`.

    Returns:
        What has the methods and attributes of a compiled pattern, at the same speed.
    """
    return cast("re.Pattern[str]", _Pattern(pattern, flags))
