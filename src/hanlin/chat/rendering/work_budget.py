"""How much work one rendering of a chat template may do, and what operations on values cost.

A template is data of others. What it does in loops and calls is counted as steps, what it walks through as items, what
it copies as bytes. Whatever runs in C, where nothing can stop it, is charged before it begins: from the size of its
inputs, with lists counted as often as they occur (ten lists of ten lists of ten ... are small in memory and endless as
text).
"""

from __future__ import annotations

import re
import string
import sys
import threading
import time
from collections.abc import Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import jinja2

MAX_STEPS = 200_000
"""Loop turns and calls of one rendering; a conversation of a thousand turns needs some thousands."""
MAX_ITEMS = 3_000_000
"""Entries of lists and dicts that one rendering walks through; that takes half a second."""
MAX_CHARACTERS = 20_000_000
"""Characters of any text that a template builds, the result included."""
MAX_LENGTH = 1_000_000
"""Entries of any list that a template builds."""
MAX_COPIED_BYTES = 1_000_000_000
"""Bytes that one rendering copies, which bounds its memory: a text that grows by a turn at a time, to 200,000 Chinese
characters in a thousand turns, copies 200 MB with each operation on it."""
MAX_SECONDS = 10.0
"""Seconds of one rendering, checked between steps; what runs between two of them is bounded by the other limits."""

_PLAIN = frozenset([int, float, bool, type(None)])
_NUMBER_CHARACTERS = 80
_SHORT = 4_096
"""Texts up to this length are compared for nothing."""


class TemplateLimitError(jinja2.TemplateError):
    """A template exceeded the limits on its work."""


class WorkBudget(threading.local):
    """The work of the rendering that a thread does; `start` begins a new one."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.steps = self.items = self.copied = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self, literal: int = 0) -> bool:
        """Count a loop turn or a call, and the literal text that it writes at most; always true."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TemplateLimitError(f"more than {MAX_STEPS:,} loop turns")
        if literal:
            self.copy(literal)
        if not self.steps & 0x3F:
            self._check_time()
        return True

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateLimitError(f"more than {MAX_SECONDS:.0f} seconds")

    def walk(self, items: int) -> None:
        """Charge entries of lists."""
        self.items += items
        if self.items > MAX_ITEMS:
            raise TemplateLimitError(f"more than {MAX_ITEMS:,} entries of lists")

    def copy(self, size: int) -> None:
        """Charge bytes."""
        self.copied += size
        if self.copied > MAX_COPIED_BYTES:
            raise TemplateLimitError(f"more than {MAX_COPIED_BYTES:,} bytes of text")

    def weigh(self, value: Any) -> int:
        """The characters of a value as text, about; every entry of its lists is walked through, and charged."""
        kind = type(value)
        if kind is str:
            return len(value)
        if kind in _PLAIN:
            return _NUMBER_CHARACTERS
        characters, allowed, items = 0, MAX_ITEMS - self.items, 0
        stack = [value]
        while stack:
            item = stack.pop()
            kind = type(item)
            if kind is str:
                characters += len(item) + 4
                continue
            characters += _NUMBER_CHARACTERS
            if kind in _PLAIN:
                continue
            inner = _entries_of(item)
            if inner is None:
                continue
            items += len(inner) + (_NAMESPACE_ITEMS if kind is jinja2.utils.Namespace else 0)
            if items > allowed:
                self.walk(items)
            stack.extend(inner)
        self.walk(items)
        return characters

    def charge(self, value: Any) -> Any:
        """Charge what an operation made, and return it, unless it is larger than any conversation needs."""
        kind = type(value)
        if kind in (bool, float, type(None)):
            return value
        if isinstance(value, str):
            size = len(value)
            if size > MAX_CHARACTERS:
                raise TemplateLimitError(f"a text of {size:,} characters")
            self.copy(sys.getsizeof(value))
        elif isinstance(value, int):
            if value.bit_length() > 256:
                raise TemplateLimitError("a number of more than 256 bits")
        elif isinstance(value, list | tuple | dict):
            self._check_length(len(value))
            self.walk(len(value) >> 4)
            self.copy(8 * len(value))
        elif isinstance(value, bytes | bytearray | memoryview):
            raise TemplateLimitError("bytes are not made")
        return value

    def _check_length(self, count: int) -> None:
        if count > MAX_LENGTH:
            raise TemplateLimitError(f"a list of {count:,} entries")

    def compare(self, value: Any) -> Any:
        """Charge a value that is compared, and return it."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is str:
            if len(value) > _SHORT:
                self.copy(len(value) >> 2)
        else:
            self.copy(self.weigh(value) >> 2)
        return value

    def look_in(self, value: Any) -> Any:
        """Charge what something is looked for in, and return it; in a dict that costs nothing."""
        return value if isinstance(value, dict) else self.compare(value)

    def key(self, value: Any) -> Any:
        """Return a key of a dict or an index, unless it is no text or number: the hash of tuples within each other
        takes as long as their text.
        """
        if isinstance(value, tuple | frozenset | list | dict):
            raise TemplateLimitError("a key that is no text and no number")
        return value

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Charge the number of arguments of a call: they may be unpacked from a list."""
        if len(args) + len(kwargs) > _FEW_FIELDS:
            self.walk(len(args) + len(kwargs))

    def reserve(self, characters: int) -> None:
        """Refuse a text that could become too long, before it is made."""
        if characters > MAX_CHARACTERS:
            raise TemplateLimitError(f"a text of perhaps {characters:,} characters")

    def count(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values of an iterator, each charged as it comes."""
        for index, value in enumerate(values):
            self.walk(1)
            if not index & 0x3F:
                self._check_time()
            if type(value) is str:
                self.copy(len(value) >> 2)
            yield value

    # ------------------------------------------------------------------------------------------- operations

    def repeat(self, left: Any, right: Any) -> None:
        """Charge `left * right`, of which one may be a text or a list."""
        for value, times in ((left, right), (right, left)):
            if isinstance(value, str) and isinstance(times, int):
                self.reserve(len(value) * times)
            elif isinstance(value, list | tuple) and isinstance(times, int):
                self._check_length(len(value) * times)

    def format_percent(self, layout: str, values: Any) -> None:
        """Charge `layout % values`."""
        fields = width = 0
        for match in _PERCENT_FIELD.finditer(layout):
            if "*" in match[1]:
                raise TemplateLimitError(f"a field of unknown width in {layout[:40]!r}")
            fields += 1
            width += self._widths(match[1], layout)
        self._reserve_format(layout, fields, width, values if isinstance(values, tuple) else (values,))

    def format_braces(self, layout: str, values: Iterable[Any]) -> None:
        """Charge `layout.format(values)`."""
        fields = width = 0
        try:
            for _, name, spec, _ in string.Formatter().parse(layout):
                if name is None:
                    continue
                if spec and "{" in spec:
                    raise TemplateLimitError(f"a field of unknown width in {layout[:40]!r}")
                fields += 1
                width += self._widths(spec or "", layout)
        except ValueError:  # format itself will say so
            return
        self._reserve_format(layout, fields, width, values)

    def _widths(self, spec: str, layout: str) -> int:
        total = 0
        for digits in _DIGITS.findall(spec):
            if len(digits) > 7:
                raise TemplateLimitError(f"a field of great width in {layout[:40]!r}")
            total += int(digits)
        return total

    def _reserve_format(self, layout: str, fields: int, width: int, values: Iterable[Any]) -> None:
        self.walk(fields)
        widest = max((self.weigh(value) for value in values), default=0)
        plain = sum(self.weigh(value) for value in values) if fields <= _FEW_FIELDS else fields * widest
        self.reserve(len(layout) + width + max(plain, fields * _NUMBER_CHARACTERS))

    def text_method(self, text: str, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Charge a method of a text before it runs.

        Args:
            text: The text.
            name: The method.
            arguments: What it is given, by position and then by name.

        Returns:
            The arguments, of which an iterator has become a list.
        """
        if name in _WIDENING:
            width = max((abs(value) for value in arguments if isinstance(value, int)), default=8)
            self.reserve(max(len(text), width) if name != "expandtabs" else len(text) + text.count("\t") * width)
        elif name == "replace":
            self.replace(text, arguments)
        elif name == "join":
            values = arguments[0] if arguments else ()
            if not isinstance(values, str | list | tuple | dict):
                values = list(self.count(values))
            self.reserve(self.weigh(values) + len(values) * len(text))
            return (values, *arguments[1:])
        elif name in _SPLITTING:
            separator = next((value for value in arguments if isinstance(value, str) and value), None)
            self._check_length(len(text) // 2 + 1 if separator is None else text.count(separator) + 1)
            self.copy(len(text) * self._search_cost(name, arguments))
        elif name in _LINEAR:
            self.copy(len(text) * self._search_cost(name, arguments))
            for value in arguments:
                self.compare(value)
            if name.endswith("strip") and arguments and isinstance(arguments[0], str):
                self.check_stripped(arguments[0])
        else:
            raise TemplateLimitError(f"the method {name} of a text")
        return arguments

    def _search_cost(self, name: str, arguments: tuple[Any, ...]) -> int:
        """What a search costs for each character of the text: from its end, Python compares all of what it looks for at
        each place in the worst case (500,000 characters in a million: ten minutes); from its begin it is clever.
        """
        if name not in _SEARCHING_BACKWARDS:
            return 1
        return max([1, *(len(value) for value in arguments if isinstance(value, str))])

    def check_stripped(self, characters: str) -> None:
        """Refuse to strip that many kinds of characters: each character of the text is looked for among them."""
        if len(characters) > _MAX_STRIPPED:
            raise TemplateLimitError(f"{len(characters):,} characters to strip")

    def replace(self, text: str, arguments: tuple[Any, ...]) -> None:
        """Charge `text.replace(old, new)`."""
        old, new = (*arguments, None, None)[:2]
        if isinstance(old, str) and isinstance(new, str):
            self.copy(len(text))
            self.reserve(len(text) + text.count(old) * max(0, len(new) - len(old)))

    def method(self, owner: Any, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Charge a method of a value before it runs; one that no template needs is refused."""
        if isinstance(owner, str):
            return self.text_method(owner, name, arguments)
        for kind, names in _METHODS:
            if isinstance(owner, kind):
                if name not in names:
                    raise TemplateLimitError(f"the method {name} of {kind.__name__}")
                break
        if isinstance(owner, list | tuple):
            self.compare(owner)
        for value in arguments:
            self.compare(value)
        return arguments


_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (dict, frozenset(["copy", "get", "items", "keys", "values"])),
    (list, frozenset(["copy", "count", "index"])),
    (tuple, frozenset(["count", "index"])),
    (int, frozenset(["bit_length"])),
    (float, frozenset(["is_integer"])),
)
_WIDENING = frozenset(["center", "expandtabs", "ljust", "rjust", "zfill"])
_SPLITTING = frozenset(["rsplit", "split", "splitlines"])
_SEARCHING_BACKWARDS = frozenset(["rfind", "rindex", "rpartition", "rsplit"])
_LINEAR = frozenset(
    [
        *("capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index", "isalnum", "isalpha"),
        *("isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace"),
        *("istitle", "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex"),
        *("rpartition", "rstrip", "startswith", "strip", "swapcase", "title", "upper"),
    ]
)
_PERCENT_FIELD = re.compile(r"%(?:\([^()]*\))?([-#0 +*\d.]*)[hlL]?[a-zA-Z]")
_DIGITS = re.compile(r"\d+")
_FEW_FIELDS = 16
_MAX_STRIPPED = 256
_NAMESPACE_ITEMS = 64
"""A namespace may hold itself, and takes longer to look into than a list."""


def _entries_of(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """What a container holds, without looking into anything that is none."""
    kind = type(value)
    if kind is list or kind is tuple:
        return value  # type: ignore[no-any-return]
    if issubclass(kind, Mapping):
        return [*value.keys(), *value.values()]
    if issubclass(kind, list | tuple | set | frozenset | KeysView | ValuesView | range) or kind in _VIEWS:
        return list(value)
    if kind is jinja2.utils.Namespace:
        return list(object.__getattribute__(value, "_Namespace__attrs").values())
    return None


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
