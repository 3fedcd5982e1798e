"""What a client is told when its request is not answered, and the strict reading of a body.

Owns the neutral error that each API puts into its own form. A field that would change the answer and cannot be honoured
is refused by name, never ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.protocol import EngineLost


class ApiError(Exception):
    """An answer other than 200. `param` is the wrong field, `retry_after` in seconds when to come again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def kind(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def openai_body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def ollama_body(self) -> dict[str, Any]:
        return {"error": self.message}


def as_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """Any failure as what a client may know of it: bad input in words, a bug of ours without its details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error), param=param)
    if isinstance(error, EngineLost):
        what = say(
            "the engine of this model has ended and is being started again: ask again",
            "此模型的引擎已终止，正在重新启动：请重试",
        )
        return ApiError(503, what, code="engine_lost", retry_after=2)
    return ApiError(500, say("the server failed; its log says how", "服务器出错，详见其日志"))


class Body(BaseModel):
    """A request's JSON body. Values must have their JSON type; unknown fields are kept, see `read`."""

    model_config = ConfigDict(extra="allow", strict=True)
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields whose effect does not exist here, with the values that ask for no effect; any other value is refused."""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Raises ApiError (400) that names the first wrong field, a misspelt one, or one that cannot be honoured."""
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


def unsupported(name: str, value: Any) -> ApiError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    what = say(f"{name}={shown} is not supported here", f"不支持 {name}={shown}")
    return ApiError(400, what, param=name, code="unsupported_value")
