"""Changing one setting in the text of a recipe, with everything else, comments too, left as it is.

The place of a value in the text is known from the YAML parser. What is written is read again: if it does not come to
what was wanted, the whole recipe is written anew, without comments.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import yaml

from hanlin.config.yaml_text import load_yaml
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

REMOVED = object()
"""In the place of a value: the setting is removed, so that it has its default."""
_WIDTH = 10_000


def change_setting(text: str, path: Sequence[str], value: Any) -> str:
    """Set or remove a value.

    Args:
        text: The recipe.
        path: The keys that lead to it, such as `stages`, `tuned`, `lora`, `rank`.
        value: JSON data, or `REMOVED`.

    Returns:
        The recipe with the value.

    Raises:
        UserError: The text is not YAML, or a key of the path has a value that is no mapping.
    """
    try:
        data, node = load_yaml(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(tr("not YAML: {problem}", problem=problem)) from error
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError(tr("not a recipe"), None, tr("a recipe is a mapping with `name` and `stages`"))
    wanted = copy.deepcopy(data)
    _change(wanted, path, value)
    if wanted == data:
        return text
    changed = _splice(text, node, path, value)
    if changed is not None:
        try:
            if load_yaml(changed)[0] == wanted:
                return changed
        except yaml.YAMLError:
            pass
    return yaml.safe_dump(wanted, allow_unicode=True, sort_keys=False, width=_WIDTH)


def _change(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    current = data
    for depth, key in enumerate(path[:-1]):
        inner = current.get(key)
        if inner is None:
            if value is REMOVED:
                return
            inner = current[key] = {}
        if not isinstance(inner, dict):
            name = ".".join(path[: depth + 1])
            raise UserError(tr("{name} has no settings below it", name=name))
        current = inner
    if value is REMOVED:
        current.pop(path[-1], None)
    else:
        current[path[-1]] = value


def _splice(text: str, node: yaml.MappingNode, path: Sequence[str], value: Any) -> str | None:
    """The text with the value put in or cut out, or None if that is not as simple as it is here."""
    current = node
    for depth, key in enumerate(path):
        pair = next((pair for pair in current.value if pair[0].value == key), None)
        if pair is None:
            if value is REMOVED:
                return None
            rest: Any = value
            for name in reversed(path[depth + 1 :]):
                rest = {name: rest}
            return _insert(text, current, key, rest)
        if depth == len(path) - 1:
            return _cut(text, current, *pair) if value is REMOVED else _replace(text, pair[1], value)
        if not isinstance(pair[1], yaml.MappingNode):
            return None
        current = pair[1]
    return None


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        plain = yaml.safe_dump([value], allow_unicode=True, default_flow_style=True, width=_WIDTH).strip()
        return plain[1:-1]
    if isinstance(value, dict):
        inner = ", ".join(f"{flow(name)}: {flow(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(flow(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _replace(text: str, node: yaml.Node, value: Any) -> str:
    begin, end = node.start_mark.index, node.end_mark.index
    old = text[begin:end]
    # a block's end is where the next key begins: comments and blank lines between belong to what follows
    kept = old.rstrip()
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        line_begin = text.rfind("\n", 0, begin)
        before = text[:line_begin].rstrip() if text[line_begin + 1 : begin].strip() == "" else text[:begin].rstrip()
        return f"{before} {flow(value)}{text[begin + len(kept) :]}"
    if not old:  # a key without a value
        return (
            f"{text[:begin]} {flow(value)}{text[end:]}"
            if not text[:begin].endswith(" ")
            else (text[:begin] + flow(value) + text[end:])
        )
    return text[:begin] + flow(value) + text[begin + len(kept) :]


def _insert(text: str, node: yaml.MappingNode, key: str, value: Any) -> str | None:
    """Put a key behind the last one of a mapping."""
    if node.flow_style:
        end = node.end_mark.index - 1
        before = text[:end].rstrip()
        comma = "" if before.endswith("{") else ","
        return f"{before}{comma} {key}: {flow(value)} {text[end:]}"
    if not node.value:
        return None
    last_key, last_value = node.value[-1]
    indent = " " * node.value[0][0].start_mark.column
    end = max(last_value.end_mark.index, last_key.end_mark.index)
    block = text[last_key.start_mark.index : end].rstrip()
    at = last_key.start_mark.index + len(block)
    line_end = text.find("\n", at)
    line_end = len(text) if line_end < 0 else line_end  # a comment at the end of the line stays on it
    return f"{text[:line_end]}\n{indent}{key}: {flow(value)}{text[line_end:]}"


def _cut(text: str, mapping: yaml.MappingNode, key: yaml.Node, value: yaml.Node) -> str | None:
    begin = key.start_mark.index
    end = begin + len(text[begin : max(value.end_mark.index, key.end_mark.index)].rstrip())
    if len(mapping.value) == 1:
        return None
    if mapping.flow_style:
        after = text[end:].lstrip()
        if after.startswith(","):
            return text[:begin] + after[1:].lstrip()
        before = text[:begin].rstrip()
        return before.removesuffix(",") + text[end:]
    line_begin = text.rfind("\n", 0, begin) + 1
    line_end = text.find("\n", end)
    return text[:line_begin] + (text[line_end + 1 :] if line_end >= 0 else "")
