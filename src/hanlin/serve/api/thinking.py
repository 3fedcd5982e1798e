"""Thinking, turned on or off by a request, whatever the field is called in its API."""

from __future__ import annotations

from typing import Literal

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ServedModel

ThinkingEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How long a model should think. Templates know no degrees: `none` turns thinking off, the others turn it on."""


def wants_thinking(requested: bool | ThinkingEffort | None) -> bool | None:
    """What a request asks for: thinking on, off, or what the template does by itself (None)."""
    return requested if requested is None or isinstance(requested, bool) else requested != "none"


def choose_thinking(
    model: ServedModel, requested: bool | ThinkingEffort | None, param: str, is_constrained: bool = False
) -> bool | None:
    """How to render the prompt of a request: thinking on, off, or what the template does by itself (None).

    Args:
        model: The model that answers.
        requested: What the client asked for; None: nothing.
        param: The request field that asked for it, named in errors.
        is_constrained: Whether the answer must be JSON from its first character, which leaves no place for a thought.

    Raises:
        ApiError: 400 if the model cannot do what was asked for.
    """
    template, thinks = model.template, wants_thinking(requested)
    if thinks and is_constrained:
        raise ApiError(400, tr("thinking and a response format exclude each other here"), param=param)
    if template.thinking_switches:
        return False if is_constrained else thinks
    if thinks and not (template.opens_thinking or template.reasoning_form.field):
        raise ApiError(400, tr("the chat template of this model has no form for thinking"), param=param)
    if thinks is False and template.opens_thinking:
        raise ApiError(400, tr("the chat template of this model cannot turn thinking off"), param=param)
    return None
