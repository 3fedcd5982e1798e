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

from hanlin.core.i18n import tr
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
            param, deepest = max(zip(paths, same_field, strict=True), key=lambda pair: pair[0].count("."))
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
        if name in self.unsupported_fields:
            if value not in self.unsupported_fields[name]:
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
