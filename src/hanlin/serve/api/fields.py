"""Request fields that several APIs share: sampling, stop strings, response format, tools, prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hanlin.core.i18n import tr
from hanlin.inference.protocol import Constraint
from hanlin.serve.api.body import RequestBody
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import GrammarCompiler
from hanlin.serve.registry import MAX_CHOICES

_MAX_STOP_STRINGS = 16
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class StrictModel(BaseModel):
    """Base of the objects inside a body: values must have their JSON type, unknown fields are ignored."""

    model_config = ConfigDict(strict=True)


class SamplingBody(RequestBody):
    """Base of the bodies that ask for an answer. None: the client left the field to the model's defaults.

    A new sampling field is added here and in `to_sampling`.
    """

    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31)
    min_p: float | None = Field(None, ge=0, lt=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    stop: StopString | Annotated[list[StopString], Field(max_length=_MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def to_sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams`; None for those that the client did not set.

        Raises:
            ApiError: 400 if a key of `logit_bias` is not a token id.
        """
        same_name = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
        sampling = {name: getattr(self, name) for name in (*same_name, "frequency_penalty", "seed")}
        return {**sampling, "max_new_tokens": self.max_tokens, "logit_bias": self._parse_logit_bias()}

    def _parse_logit_bias(self) -> tuple[tuple[int, float], ...] | None:
        try:
            return tuple((int(token_id), bias) for token_id, bias in (self.logit_bias or {}).items()) or None
        except ValueError as error:
            what = tr("the keys of logit_bias must be token ids")
            raise ApiError(400, what, param="logit_bias") from error


class JsonSchemaFormat:
    """A response format: makes the constraint to a JSON schema for each answer.

    Args:
        schema: The JSON schema.
        param: The request field that holds it, named in errors.
        compact: Without optional white space, as tool calls are trained.
    """

    def __init__(self, schema: dict[str, Any], param: str, compact: bool) -> None:
        self._schema, self._param, self._compact = schema, param, compact

    def __call__(self, compiler: GrammarCompiler) -> Constraint:
        return compiler.compile_schema(self._schema, self._param, self._compact)


def split_prompts(prompt: Any) -> list[str | list[int]]:
    """A prompt field as a list: it may be one text, one list of ids, or a list of either."""
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)


class _Function(StrictModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(StrictModel):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: _Function
