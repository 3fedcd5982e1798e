"""Strict reading of a request body."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hanlin.core.i18n import say
from hanlin.serve.errors import ApiError, unsupported


class Body(BaseModel):
    """A request's JSON body. Values must have their JSON type; unknown fields are kept, see `read`."""

    model_config = ConfigDict(extra="allow", strict=True)
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields whose effect does not exist here, with the values that ask for no effect; any other value is refused."""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Raises ApiError (400) that names the first wrong field, a misspelt one, or one that cannot be honored."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            told = error.errors(include_url=False, include_context=False, include_input=False)
            # of a field that may be of several kinds, the kind that came nearest tells most
            same = [one for one in told if one["loc"][:1] == told[0]["loc"][:1]]
            first = max(same, key=lambda one: _place(one["loc"], body).count("."))
            param = _place(first["loc"], body) or None
            raise ApiError(400, f"{param or 'body'}: {first['msg']}", param=param) from error

    def model_post_init(self, _: Any) -> None:
        for name, value in (self.model_extra or {}).items():
            self._check_other(name, value)

    def _check_other(self, name: str, value: Any) -> None:
        if name in self.without_effect:
            if value not in self.without_effect[name]:
                raise unsupported(name, value)
            return
        near = difflib.get_close_matches(name, type(self).model_fields, n=1, cutoff=0.85)
        if near:
            what = say(f"unknown field {name}: did you mean {near[0]}?", f"未知字段 {name}：是否想写 {near[0]}？")
            raise ApiError(400, what, param=name, code="unknown_parameter")


def _place(steps: Sequence[int | str], body: bytes) -> str:
    """The path of a wrong field in the body itself: pydantic also names the kinds of value that it tried."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    kept: list[str] = []
    for number, step in enumerate(steps):
        if isinstance(data, dict) and (step in data or (number == len(steps) - 1 and str(step).isidentifier())):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            continue
        kept.append(str(step))
    return ".".join(kept)
