"""Strict validation of a request body: a field that would change the answer is honored or rejected by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError, unsupported_value_error


class RequestBody(BaseModel):
    """Base of all request bodies. Values must have their JSON type (no `"0.5"` for a number); see `parse`."""

    model_config = ConfigDict(extra="allow", strict=True)
    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields that are not implemented, with the values that ask for nothing; any other value is rejected."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Validate a JSON body. Unknown fields are ignored, unless they look like a misspelled known one.

        Raises:
            ApiError: 400 that names the first field that is wrong, misspelled or not supported.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            # if a field may have several types, the type that was matched deepest has the best message
            same_field = [entry for entry in errors if entry["loc"][:1] == errors[0]["loc"][:1]]
            paths = [_field_path(entry["loc"], body, entry["type"] == "missing") for entry in same_field]
            param, deepest = max(zip(paths, same_field, strict=True), key=lambda pair: pair[0].count("."))
            raise ApiError(400, f"{param or 'body'}: {deepest['msg']}", param=param or None) from error

    def model_post_init(self, _: Any) -> None:
        for name, value in (self.model_extra or {}).items():
            self._check_extra_field(name, value)

    def _check_extra_field(self, name: str, value: Any) -> None:
        if name in self.unsupported_fields:
            if value not in self.unsupported_fields[name]:
                raise unsupported_value_error(name, value)
            return
        similar = difflib.get_close_matches(name, type(self).model_fields, n=1, cutoff=0.85)
        if similar:
            what = tr("unknown field {name}: did you mean {similar}?", name=name, similar=similar[0])
            raise ApiError(400, what, param=name, code="unknown_parameter")


def _field_path(location: Sequence[int | str], body: bytes, is_missing: bool) -> str:
    """A pydantic error location as the path within the body, such as `messages.0.content`.

    Pydantic's locations also hold the names of the union members that it tried; those are left out. Only a field that
    is missing (`is_missing`) may be the last step without being in the body.
    """
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
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
