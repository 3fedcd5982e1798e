"""Fields that several APIs share: how an answer is chosen and ended, what it must look like, prompts as text or ids.

Does not own any API's own words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hanlin.core.i18n import say
from hanlin.inference.protocol import Constraint
from hanlin.serve.api.body import Body
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import Grammars
from hanlin.serve.registry import MOST_CHOICES

_MOST_STOPS = 16
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Choosing(Body):
    """What every request for an answer may say; None means that the client left the choice to the model."""

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
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def asked(self) -> dict[str, Any]:
        """The fields of `SamplingParams` that the client may have set."""
        same = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
        asked = {name: getattr(self, name) for name in (*same, "frequency_penalty", "seed")}
        return {**asked, "max_new_tokens": self.max_tokens, "logit_bias": self._bias()}

    def _bias(self) -> tuple[tuple[int, float], ...] | None:
        try:
            return tuple((int(number), bias) for number, bias in (self.logit_bias or {}).items()) or None
        except ValueError as error:
            what = say("the keys of logit_bias are token ids", "logit_bias 的键须为词元编号")
            raise ApiError(400, what, param="logit_bias") from error


class Form:
    """A schema that an answer must fit."""

    def __init__(self, schema: dict[str, Any], param: str, compact: bool) -> None:
        self._schema, self._param, self._compact = schema, param, compact

    def __call__(self, grammars: Grammars) -> Constraint:
        return grammars.of_schema(self._schema, self._param, self._compact)


def prompts_of(given: Any) -> list[str | list[int]]:
    """One text or list of ids, or several of them, as several."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


class _Function(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Strict):
    type: Literal["function"] = "function"
    function: _Function
