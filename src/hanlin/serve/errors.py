"""What a client is told when its request is not answered, and the strict reading of a body.

Owns the neutral error that each API puts into its own form. A field that would change the answer and cannot be honored
is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.protocol import EngineUnavailableError


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
    if isinstance(error, EngineUnavailableError):
        what = say(
            "the engine of this model has ended and is being started again: ask again",
            "此模型的引擎已终止，正在重新启动：请重试",
        )
        return ApiError(503, what, code="engine_lost", retry_after=2)
    return ApiError(500, say("the server failed; its log says how", "服务器出错，详见其日志"))


def unsupported(name: str, value: Any) -> ApiError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    what = say(f"{name}={shown} is not supported here", f"不支持 {name}={shown}")
    return ApiError(400, what, param=name, code="unsupported_value")
