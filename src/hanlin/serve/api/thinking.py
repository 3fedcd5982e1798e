"""Thinking, turned on or off by a request, whatever the field is called in its API."""

from __future__ import annotations

from typing import Literal

from hanlin.core.i18n import tr
from hanlin.serve.api.body import RequestBody
from hanlin.serve.api.fields import ClosedModel
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import AnswerFormat, ServedModel

ThinkingEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How long a model should think. Templates know no degrees: `none` turns thinking off, the others turn it on."""


class _TemplateSettings(ClosedModel):
    """Variables of the chat template, as vLLM and llama.cpp take them. Only those about thinking are known."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: ThinkingEffort | None = None


class _ThinkingMode(RequestBody):
    """`thinking` of DeepSeek, GLM and Doubao, whose clients also send it to other servers."""

    type: Literal["enabled", "disabled", "auto", "adaptive"]

    @property
    def effort(self) -> bool | ThinkingEffort | None:
        return {"enabled": True, "disabled": False}.get(self.type)


class _Reasoning(RequestBody):
    """`reasoning` of OpenRouter. `max_tokens` bounds nothing here: the limit of the answer bounds both together."""

    effort: ThinkingEffort | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    max_tokens: int | None = None


class ThinkingBody(RequestBody):
    """The fields by which clients of chat completions say whether and how a model thinks.

    `thinking_budget` has no effect unless it is 0: `max_tokens` bounds thinking and answer together.
    """

    reasoning_effort: ThinkingEffort | None = None
    chat_template_kwargs: _TemplateSettings | None = None
    enable_thinking: bool | None = None
    thinking: bool | _ThinkingMode | None = None
    thinking_budget: int | None = None
    reasoning: _Reasoning | None = None
    include_reasoning: bool | None = None
    reasoning_format: Literal["auto", "deepseek", "parsed", "hidden"] | None = None

    @property
    def requested_thinking(self) -> tuple[bool | ThinkingEffort | None, str]:
        """Whether the answer is to think, and the field that says so.

        Raises:
            ApiError: 400 if two fields say the opposite.
        """
        settings, reasoning = self.chat_template_kwargs or _TemplateSettings(), self.reasoning or _Reasoning()
        mode = self.thinking.effort if isinstance(self.thinking, _ThinkingMode) else self.thinking
        named: list[tuple[bool | ThinkingEffort | None, str]] = [
            (settings.enable_thinking, "chat_template_kwargs.enable_thinking"),
            (settings.thinking, "chat_template_kwargs.thinking"),
            (self.enable_thinking, "enable_thinking"),
            (mode, "thinking"),
            (reasoning.enabled, "reasoning.enabled"),
            (self.reasoning_effort, "reasoning_effort"),
            (settings.reasoning_effort, "chat_template_kwargs.reasoning_effort"),
            (reasoning.effort, "reasoning.effort"),
            ("none" if self.thinking_budget == 0 else None, "thinking_budget"),
            ("none" if reasoning.max_tokens == 0 else None, "reasoning.max_tokens"),
        ]
        said = [(value, param) for value, param in named if value is not None]
        for value, param in said[1:]:
            if wants_thinking(value) != wants_thinking(said[0][0]):
                what = tr("{first} and {second} say the opposite of each other", first=said[0][1], second=param)
                raise ApiError(400, what, param=param)
        return said[0] if said else (None, "reasoning_effort")

    @property
    def shows_reasoning(self) -> bool:
        """Whether the response holds what the model thought."""
        hidden = self.reasoning is not None and self.reasoning.exclude
        return not hidden and self.include_reasoning is not False and self.reasoning_format != "hidden"


def wants_thinking(requested: bool | ThinkingEffort | None) -> bool | None:
    """What a request asks for: thinking on, off, or what the template does by itself (None)."""
    return requested if requested is None or isinstance(requested, bool) else requested != "none"


def choose_thinking(
    model: ServedModel,
    requested: bool | ThinkingEffort | None,
    param: str,
    output_format: AnswerFormat | None = None,
) -> bool | None:
    """How to render the prompt of a request: thinking on, off, or what the template does by itself (None).

    An effort is how much a model may think: one whose template has no form for it answers without. Agents and editors
    send one to every model (Claude Code does). To turn thinking on is more than that, and refused there.

    Args:
        model: The model that answers.
        requested: What the client asked for; None: nothing.
        param: The request field that asked for it, named in errors.
        output_format: What the answer must fit. A thought may come before it, but only if it was asked for.

    Raises:
        ApiError: 400 if the model cannot do what was asked for.
    """
    template, thinks = model.template, wants_thinking(requested)
    is_constrained = output_format is not None and not output_format.leaves_text_free
    if thinks and is_constrained and model.has_own_grammars:  # an engine that knows of no thought before a format
        if isinstance(requested, bool):
            raise ApiError(400, tr("thinking and a response format exclude each other here"), param=param)
        thinks = None
    if template.thinking_switches:
        return False if is_constrained and thinks is None else thinks
    if thinks and not (template.opens_thinking or template.reasoning_form.field):
        if not isinstance(requested, bool):
            return None
        raise ApiError(400, tr("the chat template of this model has no form for thinking"), param=param)
    if thinks is False and template.opens_thinking:
        raise ApiError(400, tr("the chat template of this model cannot turn thinking off"), param=param)
    return thinks or None
