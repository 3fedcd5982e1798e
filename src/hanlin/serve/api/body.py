"""Strict validation of a request body: a field that would change the answer is honored or rejected by name.

What a body costs is linear in its bytes: lists end at their first wrong entry, values and unknown fields are counted,
and the body is read once.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, from_json

from hanlin.core.i18n import language, mark, tr
from hanlin.serve.api.foreign_fields import FIELDS_OF_OTHER_APIS
from hanlin.serve.errors import ApiError, unsupported_value_error

MAX_CONTAINERS = 150_000
"""Objects and lists of a body, and keys of its objects; each is a few hundred bytes in memory, also an empty one.
Braces and colons in texts count too."""
MAX_ENTRIES = 1_000_000
"""Entries of its objects and lists, counted as commas."""
MAX_MESSAGES = 16_384
MAX_QUICK_VALUES = 20_000
"""Values of a body that is read in the server's own process, in which others wait meanwhile: a few milliseconds."""
_MAX_UNKNOWN_FIELDS = 100
"""Different unknown fields of a body: each is compared with those that there are, which takes up to a quarter of a
millisecond."""
_MAX_NAME_CHARS = 64
_MAX_PARAM_CHARS = 200
_MESSAGES = {
    "missing": mark("Field required"),
    "extra_forbidden": mark("Extra inputs are not permitted"),
    "literal_error": mark("Input should be {expected}"),
    "greater_than": mark("Input should be greater than {gt}"),
    "greater_than_equal": mark("Input should be greater than or equal to {ge}"),
    "less_than": mark("Input should be less than {lt}"),
    "less_than_equal": mark("Input should be less than or equal to {le}"),
    "too_short": mark("Input should have at least {min_length} items"),
    "too_long": mark("Input should have at most {max_length} items"),
    "string_too_short": mark("String should have at least {min_length} characters"),
    "string_too_long": mark("String should have at most {max_length} characters"),
    "string_pattern_mismatch": mark("String should match pattern '{pattern}'"),
    "string_type": mark("Input should be a valid string"),
    **dict.fromkeys(("int_type", "int_from_float"), mark("Input should be a valid integer")),
    **dict.fromkeys(("float_type", "finite_number"), mark("Input should be a valid number")),
    "bool_type": mark("Input should be true or false"),
    "list_type": mark("Input should be a valid list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), mark("Input should be an object")),
}
"""pydantic's errors by type, for readers of other languages; in English they keep its words, as other servers do."""
_compared_fields: ContextVar[set[tuple[type, str]] | None] = ContextVar("compared_fields", default=None)


def _set_fail_fast(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _set_fail_fast(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _set_fail_fast(part)


class BoundedModel(BaseModel):
    """Base of whatever is validated: a list ends at its first wrong entry. 8 MB of wrong ones took 3.7 GB otherwise."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _set_fail_fast(schema)
        return schema


class RequestBody(BoundedModel):
    """Base of all request bodies. Values must have their JSON type (no `"0.5"` for a number); see `parse`."""

    model_config = ConfigDict(extra="allow", strict=True)
    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields that are not implemented, with the values that ask for nothing; any other value is rejected."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Validate a JSON body. Unknown fields are ignored, unless they look like a misspelled known one.

        Raises:
            ApiError: 400 that names the first field that is wrong, misspelled or not supported; 413 for a body with
                more values than any request has.
        """
        _check_size(body)
        try:
            # each call holds the interpreter's lock, so all other clients wait for it: two short ones instead of
            # `model_validate_json`, which takes twice as long as both, and of reading the body again to name a field
            data = from_json(body, cache_strings="none")
        except ValueError as error:
            raise ApiError(400, f"body: Invalid JSON: {error}") from error
        token = _compared_fields.set(set())
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            # if a field may have several types, the type that was matched deepest has the best message
            same_field = [entry for entry in errors if entry["loc"][:1] == errors[0]["loc"][:1]]
            paths = [_field_path(entry["loc"], data, entry["type"] == "missing") for entry in same_field]
            # and of equal depth, a type that the value has and whose limits it breaks
            param, deepest = max(
                zip(paths, same_field, strict=True),
                key=lambda pair: (pair[0].count("."), not pair[1]["type"].endswith("_type")),
            )
            param = param[:_MAX_PARAM_CHARS]
            message = _json_message(deepest).removeprefix("Value error, ")  # pydantic's, before our own sentences
            raise ApiError(400, f"{param or 'body'}: {message}", param=param or None) from error
        finally:
            _compared_fields.reset(token)

    def model_post_init(self, _: Any) -> None:
        for name, value in (self.model_extra or {}).items():
            self._check_extra_field(name, value)
        object.__setattr__(self, "__pydantic_extra__", {})  # what is ignored is not kept

    def _check_extra_field(self, name: str, value: Any) -> None:
        neutral = self._find_neutral_values(name)
        if neutral is not None:
            if value not in neutral:
                raise unsupported_value_error(name, value)
            return
        compared = _compared_fields.get()
        if compared is not None:
            if (type(self), name) in compared:
                return
            if len(compared) >= _MAX_UNKNOWN_FIELDS:
                what = tr("more than {count} unknown fields", count=_MAX_UNKNOWN_FIELDS)
                raise ApiError(400, what, code="unknown_parameter")
            compared.add((type(self), name))
        if len(name) > _MAX_NAME_CHARS:
            return
        similar = difflib.get_close_matches(name, type(self).model_fields, n=1, cutoff=0.85)
        if similar:
            what = tr("unknown field {name}: did you mean {similar}?", name=name, similar=similar[0])
            raise ApiError(400, what, param=name, code="unknown_parameter")

    def _find_neutral_values(self, name: str) -> tuple[Any, ...] | None:
        """The values that ask for nothing, of a field that is known and not implemented here; None of any other."""
        return self.unsupported_fields.get(name)


class AnswerBody(RequestBody):
    """Base of the bodies that ask for an answer, or for what one would cost, in any API."""

    def _find_neutral_values(self, name: str) -> tuple[Any, ...] | None:
        neutral = super()._find_neutral_values(name)
        return FIELDS_OF_OTHER_APIS.get(name) if neutral is None else neutral


def count_values(body: bytes) -> int:
    """About how many values a body has, at least; punctuation in texts counts too."""
    return body.count(b"{") + body.count(b"[") + max(body.count(b":"), body.count(b","))


def _check_size(body: bytes) -> None:
    containers = body.count(b"{") + body.count(b"[")
    if max(containers, body.count(b":")) > MAX_CONTAINERS or body.count(b",") > MAX_ENTRIES:
        what = tr(
            "the body has more than {containers} objects, lists or keys, or {entries} entries",
            containers=MAX_CONTAINERS,
            entries=MAX_ENTRIES,
        )
        raise ApiError(413, what)


def _json_message(entry: ErrorDetails) -> str:
    """The message of an error in the terms of JSON: an object, not a dictionary or an instance of a class of ours."""
    if language() != "en" and entry["type"] in _MESSAGES:
        return tr(_MESSAGES[entry["type"]], **entry.get("ctx", {}))
    details = InitErrorDetails(type=entry["type"], input=None, ctx=entry.get("ctx", {}))
    return str(ValidationError.from_exception_data("", [details], input_type="json").errors()[0]["msg"])


def _field_path(location: Sequence[int | str], data: Any, is_missing: bool) -> str:
    """A pydantic error location as the path within the body, such as `messages.0.content`.

    Pydantic's locations also hold the names of the union members that it tried; those are left out. Only a field that
    is missing (`is_missing`) may be the last step without being in the body.
    """
    path: list[str] = []
    for depth, step in enumerate(location):
        if isinstance(data, dict) and (step in data or (is_missing and depth == len(location) - 1)):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            continue
        path.append(str(step))
    return ".".join(path)
