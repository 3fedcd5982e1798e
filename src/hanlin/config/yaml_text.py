"""YAML as recipes use it, read within bounds: a file of a few bytes may stand for gigabytes (aliases of aliases).

What is not JSON but for notation (sets, binary data, objects) is refused, and so is what nothing can be called or
counted by: a list as a key, a number of a thousand digits, half a character.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import yaml

from hanlin.core.i18n import tr
from hanlin.core.names import show_name

MAX_BYTES = 1 << 20
"""Of a recipe's file; PyYAML takes some seconds for so much. The largest recipe that is shipped has 7 KB."""
MAX_NODES = 100_000
"""Values in a recipe, those that aliases repeat included."""
MAX_DEPTH = 64
MAX_KEY_LENGTH = 200
_MAX_NUMBER_LENGTH = 64
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.2), refuses duplicate keys, and has bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH or self._count > MAX_NODES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _too_much(self._depth > MAX_DEPTH), mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if key is not None and not isinstance(key, str | int | float):  # a list, or a date
                raise _refusal(tr("a key is a text or a number"), key_node)
            if isinstance(key, str) and len(key) > MAX_KEY_LENGTH:
                raise _refusal(tr("a key is longer than {limit} characters", limit=MAX_KEY_LENGTH), key_node)
            if key in seen:
                raise _refusal(tr("duplicate key '{key}'", key=key), key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER_LENGTH:
            raise _refusal(tr("a number has more than {limit} characters", limit=_MAX_NUMBER_LENGTH), node)
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # 2026-99-99, 0x_, `!!bool maybe`: PyYAML's constructors fail in ways of their own
            kind = node.tag.rpartition(":")[2]
            shown = show_name(str(node.value))
            raise _refusal(tr("{value} is no value of the type {kind}", value=shown, kind=kind), node) from error
        problem = _describe_problem(value)
        if problem is not None:
            raise _refusal(problem, node)
        return value


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def load_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """The data of a YAML text, and its nodes with merged keys in their places.

    Raises:
        yaml.YAMLError: It is not YAML, or more than the bounds allow; with its place where there is one.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check_size(node)
        return loader.construct_document(node), node  # type: ignore[no-untyped-call]
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _describe_problem(value: Any) -> str | None:
    if value is None or isinstance(value, int | float | date | dict | list):
        return None
    if not isinstance(value, str):
        # a generator stands for a list or a mapping that PyYAML fills later
        return None if hasattr(value, "send") else tr("a value is a text, a number, a list or a mapping")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return tr("a text holds NUL or half a character")
    return None


def _check_size(root: yaml.Node) -> None:
    """Raise ComposerError if a node holds itself, or if there are too many with all that aliases repeat."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    # each node twice: before its children and after them
    stack: list[tuple[yaml.Node, bool]] = [(root, False)]
    while stack:
        node, is_complete = stack.pop()
        children = _children(node)
        if is_complete:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > MAX_NODES:
                raise yaml.composer.ComposerError(None, None, _too_much(False), node.start_mark)
        elif id(node) in open_nodes:
            raise yaml.composer.ComposerError(None, None, tr("a value holds itself"), node.start_mark)
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in children)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _too_much(is_deep: bool) -> str:
    if is_deep:
        return tr("more than {limit} levels", limit=MAX_DEPTH)
    return tr("more than {limit:,} values, aliases included", limit=MAX_NODES)


def _refusal(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
