"""Reading settings from plain data: every error names the setting and says how to fix it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import mark, tr

_MESSAGES = {
    "literal_error": mark("Input should be {expected}"),
    "greater_than": mark("Input should be greater than {gt}"),
    "greater_than_equal": mark("Input should be greater than or equal to {ge}"),
    "less_than": mark("Input should be less than {lt}"),
    "less_than_equal": mark("Input should be less than or equal to {le}"),
    "too_short": mark("the list is empty"),
    "string_pattern_mismatch": mark("String should match pattern '{pattern}'"),
    "string_type": mark("Input should be a valid string"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), mark("Input should be a valid integer")),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), mark("Input should be a valid number")),
    **dict.fromkeys(("bool_type", "bool_parsing"), mark("Input should be true or false")),
    **dict.fromkeys(("list_type", "tuple_type"), mark("Input should be a valid list")),
    **dict.fromkeys(("dict_type", "model_type"), mark("Input should be settings, as `name: value`")),
}
"""pydantic's errors by type, with the placeholders that pydantic fills in; other errors keep pydantic's words."""


_MAX_SHOWN = 200


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
    _check_encodable(row, find(), owner)
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
                tr("{owner} has no setting '{name}'", owner=owner, name=name), at, did_you_mean(path[-1], known)
            ) from error
        page = f"`hanlin kinds {kind}`" if kind else "docs/en/settings.md"
        hint = tr("see {page} for its values", page=page)
        if first["type"] == "missing":
            raise UserError(tr("{owner} needs '{name}'", owner=owner, name=name), at, hint) from error
        problem = describe_problem(first)
        raise UserError(
            tr(
                "{owner}: {name}={value!r} is not accepted: {problem}",
                owner=owner,
                name=name,
                value=_Shortened(first["input"]),
                problem=problem,
            )
            if path
            else tr("{owner}: {problem}", owner=owner, problem=problem),
            at,
            hint,
        ) from error


def describe_problem(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, in the reader's language: an item of `ValidationError.errors()` as a sentence."""
    if error["type"] not in _MESSAGES:
        return str(error["msg"]).removeprefix("Value error, ")
    values = dict(error.get("ctx", {}))
    if "expected" in values:
        *others, last = values["expected"].split(" or ")
        values["expected"] = tr("{choices} or {last}", choices=" or ".join(others), last=last) if others else last
    return tr(_MESSAGES[error["type"]], **values)


def _check_encodable(row: Any, where: Any, owner: str) -> None:
    """Raise UserError if a text is not UTF-8, as a name typed on the command line may be: no manifest can hold it."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        text = error.object[error.object.rfind('"', 0, error.start) + 1 : error.object.find('"', error.end)]
        what = tr("{owner}: a value is not UTF-8: {text}", owner=owner, text=text)
        raise UserError(what, where, tr("rename it, or name the folder above it")) from error


class _Shortened:
    """A value whose `repr` is cut: of a message, the beginning of a long list says enough."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        text = repr(self._value)
        return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


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
