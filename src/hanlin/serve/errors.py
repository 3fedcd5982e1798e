"""The error of a request in neutral form; each API renders it in its own. Every failure becomes an `ApiError`."""

from __future__ import annotations

from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.protocol import EngineUnavailableError

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        message: What went wrong, for the person behind the client.
        param: The wrong field, as a path such as `messages.0.role`; None if no single field is wrong.
        code: A word for programs, such as `model_not_found`.
        retry_after: Seconds after which a new attempt may succeed.
    """

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
    def error_type(self) -> str:
        """OpenAI's `type` of the error."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def openai_body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}}

    def ollama_body(self) -> dict[str, Any]:
        return {"error": self.message}

    def anthropic_body(self) -> dict[str, Any]:
        """Its errors have no field of their own for the wrong field, so that the message names it."""
        error_type = _ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        named = self.param is None or self.message.startswith((f"{self.param}:", f"{self.param}="))
        message = self.message if named else f"{self.param}: {self.message}"
        return {"type": "error", "error": {"type": error_type, "message": message}}


def to_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """Any failure as what a client may know of it: bad input with its reason, an internal error without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineUnavailableError):  # before `UserError`, which it is too
        what = tr("the engine of this model has crashed and is being restarted: try again")
        return ApiError(503, what, code="engine_lost", retry_after=2)
    if isinstance(error, UserError):
        return ApiError(400, str(error), param=param)
    return ApiError(500, tr("internal server error; see the server's log"))


def unsupported_value_error(name: str, value: Any) -> ApiError:
    """A field that would change the answer and is not supported: rejected by name, never ignored."""
    what = tr("{name}={shown} is not supported here", name=name, shown=clip_name(repr(value), 60))
    return ApiError(400, what, param=name, code="unsupported_value")


def clip_name(name: str, most: int = 100) -> str:
    """A name or an id that a client sent, cut to `most` characters, so that a message stays short."""
    return name if len(name) <= most else name[: most - 3] + "..."
