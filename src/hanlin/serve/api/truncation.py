"""Prompts that are too long, shortened if the request says so: a conversation by its oldest turns, a text by its
beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hanlin.chat.history import split_turns
from hanlin.core.records import Message
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ServedModel

_ANSWER_SHARE = 4  # no more than a quarter of the context is left for the answer
_NOTHING = "."
_MAX_TRIES = 8
"""A text that is cut may have a token more than the ids that are left: it is cut again, by what is too much."""


def render_fitting(
    model: ServedModel,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    thinking: bool | None,
    max_new_tokens: int | None,
) -> tuple[int, ...]:
    """The prompt of a conversation; of one that does not fit the context, without as many of its oldest turns as do not
    fit beside the answer.

    A conversation that fits loses nothing, however short the answer then is. System texts and the last turn stay; if
    they alone are too long, the prompt is too, and is rejected later.

    Args:
        model: Renders the prompt.
        messages: The conversation.
        tools: Tools that the model is offered.
        thinking: Whether the answer thinks; None: what the template does by itself.
        max_new_tokens: The limit of the answer; None: no limit. See `_get_budget`.

    Raises:
        ApiError: 400 as `ServedModel.render_chat`.
    """
    whole = _render_or_none(lambda: model.render_chat(messages, tools, thinking), model.engine.context_length - 1)
    if whole is not None:
        return whole
    budget = _get_budget(model, max_new_tokens)
    system, turns = split_turns(messages)

    def render(dropped: int) -> tuple[int, ...]:
        return model.render_chat([*system, *(message for turn in turns[dropped:] for message in turn)], tools, thinking)

    def fits(dropped: int) -> bool:
        return _render_or_none(lambda: render(dropped), budget) is not None

    last = max(0, len(turns) - 1)
    return render(bisect_left(range(last), True, key=fits))


def encode_truncated(
    model: ServedModel, text: str, encode: Callable[[str], tuple[int, ...]], max_new_tokens: int | None
) -> tuple[int, ...]:
    """The prompt of a text: of a text that does not fit, its end, as much as fits beside the answer.

    Args:
        model: Its tokenizer and context count.
        text: What is cut.
        encode: Makes the prompt of a text, with whatever is around it.
        max_new_tokens: The limit of the answer; None: no limit. See `_get_budget`.

    Raises:
        ApiError: 400 as `encode`.
    """
    whole = _render_or_none(lambda: encode(text), model.engine.context_length - 1)
    if whole is not None:
        return whole
    end = text.encode("utf-8", "surrogatepass")[-model.max_prompt_bytes :].decode("utf-8", "ignore")
    ids = model.tokenizer.encode(end, continuation=True)
    budget = _get_budget(model, max_new_tokens)
    size = budget - len(encode(_NOTHING))
    for _ in range(_MAX_TRIES):
        kept = ids[-size:] if size > 0 else []
        prompt = encode(model.tokenizer.decode(kept).lstrip("\N{REPLACEMENT CHARACTER}") or _NOTHING)
        if len(prompt) <= budget or not kept:
            break
        size -= len(prompt) - budget
    return prompt


def _get_budget(model: ServedModel, max_new_tokens: int | None) -> int:
    """Tokens of a prompt that is shortened: what the context leaves beside the answer, for which a quarter is kept, or
    less if its limit is less. A limit says how long an answer may be, not how long it will be: many clients set one as
    long as the context, beside which no earlier turn would be left.
    """
    context_length = model.engine.context_length
    share = max(1, context_length // _ANSWER_SHARE)
    return context_length - min(max_new_tokens or share, share)


def _render_or_none(render: Callable[[], tuple[int, ...]], budget: int) -> tuple[int, ...] | None:
    """A prompt, or None if it has more tokens than `budget`."""
    try:
        prompt = render()
    except ApiError as error:
        if error.code != "context_length_exceeded":
            raise
        return None
    return prompt if len(prompt) <= budget else None
