"""Reading settings from plain data: every error names the setting and says how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pydantic

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

_CHINESE = {
    "literal_error": "只能取 {expected}",
    "greater_than": "须大于 {gt}",
    "greater_than_equal": "须不小于 {ge}",
    "less_than": "须小于 {lt}",
    "less_than_equal": "须不大于 {le}",
    "too_short": "至少要有 {min_length} 项",
    "string_pattern_mismatch": "须符合 {pattern}",
    "string_type": "须为文本",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "须为整数"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "须为数字"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "须为 true 或 false"),
    **dict.fromkeys(("list_type", "tuple_type"), "须为列表"),
    **dict.fromkeys(("dict_type", "model_type"), "须为“设置名: 值”的形式"),
}


def read_settings(cls: type[Any], row: Any, where: Any, owner: str, kind: str = "") -> Any:
    """Make settings from plain data.

    Args:
        cls: The settings class.
        row: The data.
        where: A location for messages, or a function from the keys of a setting to its location.
        owner: What the settings belong to, for messages.
        kind: The stage kind, or empty for the recipe itself.

    Returns:
        An instance of `cls`.

    Raises:
        UserError: For the first mistake: an unknown name (with a suggestion), a missing one, or a bad value.
    """
    find = where if callable(where) else (lambda *keys: where)
    try:
        return cls.model_validate(row)
    except pydantic.ValidationError as error:
        # a misspelled name also leaves the right one missing: report the misspelling
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        path = tuple(str(part) for part in first["loc"])
        name = ".".join(path) or owner
        at = find(*path)
        if first["type"] == "extra_forbidden":
            known = _fields_at(cls, path[:-1])
            raise UserError(
                say(f"{owner} has no setting '{name}'", f"{owner}没有设置项“{name}”"), at, did_you_mean(path[-1], known)
            ) from error
        page = f"`hanlin kinds {kind}`" if kind else "docs/settings.md"
        hint = say(f"see {page} for its values", f"可用的取值见 {page}")
        if first["type"] == "missing":
            raise UserError(say(f"{owner} needs '{name}'", f"{owner}缺少设置项“{name}”"), at, hint) from error
        english = first["msg"].removeprefix("Value error, ")
        chinese = english
        if first["type"] in _CHINESE:
            chinese = _CHINESE[first["type"]].format(**first.get("ctx", {})).replace(" or ", " 或 ")
        raise UserError(
            say(
                f"{owner}: {name}={first['input']!r} is not accepted: {english}" if path else f"{owner}: {english}",
                f"{owner}：{name}={first['input']!r} 不可用：{chinese}" if path else f"{owner}：{chinese}",
            ),
            at,
            hint,
        ) from error


def _fields_at(cls: type[Any], path: Sequence[str]) -> list[str]:
    current: Any = cls
    for part in path:
        if part.isdigit():
            continue
        field_info = getattr(current, "model_fields", {}).get(part)
        if field_info is None:
            return []
        nested = [item for item in _types_in(field_info.annotation) if hasattr(item, "model_fields")]
        current = nested[0] if nested else None
    return list(getattr(current, "model_fields", {}))


def _types_in(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation] + [found for item in inner for found in _types_in(item)]
