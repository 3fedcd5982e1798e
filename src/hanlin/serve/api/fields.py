"""Request fields that several APIs share: sampling, stop strings, response format, tools, prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from hanlin.core.i18n import tr
from hanlin.serve.api.body import AnswerBody, BoundedModel, RequestBody
from hanlin.serve.api.foreign_fields import FOREIGN_SAMPLING_FIELDS
from hanlin.serve.api.structure.output_format import JsonSchemaFormat, OutputFormat
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import MAX_CHOICES

_MAX_STOP_STRINGS = 16
MIN_TOP_P = 1e-6
"""What `top_p` (or `typical_p`) 0 becomes: the likeliest token alone, as clients mean it."""
_MAX_MIN_P = 1 - 1e-6
"""What `min_p` 1 becomes, with the same meaning."""
_IGNORE_EOS = 2**31 - 1


def _check_token_limit(value: int) -> int:
    if value == 0:
        raise ValueError(tr("must be at least 1, or -1 for no limit"))
    return value


def _check_biases(biases: dict[str, Any]) -> dict[str, float]:
    """Checks entry by entry, so that a body of wrong ones is one error."""
    for token_id, bias in biases.items():
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            shown = token_id if len(token_id) <= 20 else token_id[:17] + "..."
            raise ValueError(tr("the bias of token {token_id} must be a number from -100 to 100", token_id=shown))
    return biases


LogitBias = Annotated[
    dict[str, Any],
    Field(max_length=1024),
    AfterValidator(_check_biases),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}),
]


def no_limit_as_none(value: int) -> int | None:
    """A limit of tokens, None for -1."""
    return None if value < 0 else value


StopString = Annotated[str, Field(min_length=1, max_length=1000)]
TokenLimit = Annotated[int, Field(ge=-1), AfterValidator(_check_token_limit)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class StrictModel(BoundedModel):
    """Base of the objects inside a body: values must have their JSON type, unknown fields are ignored."""

    model_config = ConfigDict(strict=True)


class ClosedModel(StrictModel):
    """A strict model in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown(cls, data: Any) -> Any:
        """The first unknown field alone: each is an error of its own, and a body of errors takes gigabytes."""
        if not isinstance(data, dict):
            return data
        known = {item.alias or name for name, item in cls.model_fields.items()}
        unknown = [name for name in data if name not in known]
        return {name: value for name, value in data.items() if name in known or name == unknown[0]}


Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class _StructuredOutputs(ClosedModel):
    """vLLM's `structured_outputs`."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    whitespace_pattern: None = None
    structural_tag: None = None
    disable_additional_properties: bool | None = None
    """Objects whose properties are listed are closed in any case."""


class StructuredOutputBody(RequestBody):
    """The fields by which vLLM's, llama.cpp's and SGLang's clients say what an answer must fit, or where it ends.

    A body with these passes `list_output_formats` and `extra_stop_ids` on; `SamplingBody` refuses them elsewhere.
    """

    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    structured_outputs: _StructuredOutputs | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    ebnf: str | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=128)

    @property
    def extra_stop_ids(self) -> tuple[int, ...]:
        return tuple(self.stop_token_ids or ())

    def list_output_formats(self) -> list[OutputFormat]:
        """The formats that these fields ask for; see `structure.output_format.choose_answer_format`.

        Raises:
            ApiError: 400 for a schema in a string that is not JSON.
        """
        outputs = self.structured_outputs or _StructuredOutputs.model_validate({})
        place = "structured_outputs"
        formats: list[OutputFormat | None] = [
            _json_format(self.guided_json, "guided_json"),
            _json_format(self.json_schema, "json_schema"),
            _json_format(outputs.json_, f"{place}.json", bool(outputs.disable_any_whitespace)),
            JsonSchemaFormat({"type": "object"}, f"{place}.json_object", False) if outputs.json_object else None,
        ]
        for param, regex in (("guided_regex", self.guided_regex), ("regex", self.regex), (place, outputs.regex)):
            formats.append(OutputFormat("regex", regex, param) if regex else None)
        for param, choices in (("guided_choice", self.guided_choice), (place, outputs.choice)):
            formats.append(OutputFormat("choice", choices, param) if choices else None)
        for param in ("guided_grammar", "grammar", "ebnf"):
            formats.append(OutputFormat("grammar", getattr(self, param), param) if getattr(self, param) else None)
        formats.append(OutputFormat("grammar", outputs.grammar, place) if outputs.grammar else None)
        return [item for item in formats if item is not None]


def _json_format(schema: dict[str, Any] | str | None, param: str, compact: bool = False) -> JsonSchemaFormat | None:
    if schema is None or schema == "":
        return None
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ApiError(400, tr("the schema is not JSON"), param=param) from error
        if not isinstance(schema, dict):
            raise ApiError(400, tr("the schema is not a JSON object"), param=param)
    return JsonSchemaFormat(schema, param, compact)


class SamplingBody(AnswerBody):
    """Base of the bodies that ask for an answer. None: the client left the field to the model's defaults.

    A new sampling field is added here and in `to_sampling`.
    """

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = FOREIGN_SAMPLING_FIELDS
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    max_tokens: TokenLimit | None = None
    n_predict: TokenLimit | None = None
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    repeat_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    repeat_last_n: int | None = Field(None, ge=-1)
    typical_p: float | None = Field(None, ge=0, le=1)
    stop: StopString | Annotated[list[StopString], Field(max_length=_MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def _check_extra_field(self, name: str, value: Any) -> None:
        if name in StructuredOutputBody.model_fields and value is not None:
            raise unsupported_value_error(name, value)
        super()._check_extra_field(name, value)

    def _find_neutral_values(self, name: str) -> tuple[Any, ...] | None:
        neutral = super()._find_neutral_values(name)
        return FOREIGN_SAMPLING_FIELDS.get(name) if neutral is None else neutral

    def to_sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams`; None for those that the client did not set.

        Raises:
            ApiError: 400 if a key of `logit_bias` is not a token id, or fields contradict each other.
        """
        same_name = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")
        names = (*same_name, "repeat_last_n", "typical_p", "min_tokens")
        sampling = {name: getattr(self, name) for name in names}
        sampling["repetition_penalty"] = self._merge_aliases("repetition_penalty", "repeat_penalty")
        sampling["max_new_tokens"] = self._merge_aliases("max_tokens", "n_predict")
        if self.min_tokens or self.ignore_eos:
            field = "ignore_eos" if self.ignore_eos else "min_tokens"
            for name in ("stop", *(("stop_token_ids", "min_tokens") if self.ignore_eos else ())):
                if getattr(self, name, None):
                    what = tr("{field} and {name} together are not supported here", field=field, name=name)
                    raise ApiError(400, what, param=field, code="unsupported_value")
            sampling["min_tokens"] = _IGNORE_EOS if self.ignore_eos else self.min_tokens
        return clean_sampling({**sampling, "logit_bias": self._parse_logit_bias()})

    def _merge_aliases(self, name: str, alias: str) -> Any:
        """The value of a field that another server calls otherwise. Raises ApiError (400) if both differ."""
        value, other = getattr(self, name), getattr(self, alias)
        if value is not None and other is not None and value != other:
            what = tr("{name} and {alias} mean the same and differ", name=name, alias=alias)
            raise ApiError(400, what, param=alias)
        return other if value is None else value

    def _parse_logit_bias(self) -> tuple[tuple[int, float], ...] | None:
        try:
            return tuple((int(token_id), bias) for token_id, bias in (self.logit_bias or {}).items()) or None
        except ValueError as error:
            what = tr("the keys of logit_bias must be token ids")
            raise ApiError(400, what, param="logit_bias") from error


def check_stream_options(body: Any) -> None:
    """Raises ApiError (400) if a body of OpenAI's APIs has `stream_options` and asks for no stream."""
    if body.stream_options is not None and not body.stream:
        what = tr("stream_options is allowed only where `stream` is true")
        raise ApiError(400, what, param="stream_options")


def clean_sampling(sampling: dict[str, Any]) -> dict[str, Any]:
    """Values outside of `SamplingParams` that other servers give a meaning.

    `top_p` 0 and `min_p` 1 are the likeliest token, `top_k` -1 is all tokens, `max_tokens` -1 or less is no limit,
    `seed` -1 is a random one.
    """
    cleaned = dict(sampling)
    for name in ("top_p", "typical_p"):
        if cleaned.get(name) is not None:
            cleaned[name] = max(cleaned[name], MIN_TOP_P)
    if cleaned.get("min_p") is not None:
        cleaned["min_p"] = min(cleaned["min_p"], _MAX_MIN_P)
    if cleaned.get("top_k") is not None:
        cleaned["top_k"] = max(cleaned["top_k"], 0)
    if (cleaned.get("max_new_tokens") or 0) < 0:
        cleaned["max_new_tokens"] = None
    if cleaned.get("seed") == -1:
        cleaned["seed"] = None
    return cleaned


def split_prompts(prompt: Any) -> list[str | list[int]]:
    """A prompt field as a list: it may be one text, one list of ids, or a list of either."""
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)


class _Function(StrictModel):
    name: str = Field(pattern=r'^[^\x00-\x1f"\\]{1,256}$')
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(StrictModel):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: _Function

    def to_function(self) -> dict[str, Any]:
        """The tool as chat templates read it."""
        return self.model_dump(exclude={"function": {"strict"}}, exclude_none=True)


def get_strict_names(tools: Iterable[Tool]) -> frozenset[str]:
    """Names of the tools whose calls are held to their schemas."""
    return frozenset(tool.function.name for tool in tools if tool.function.strict)
