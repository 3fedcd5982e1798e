"""Spans of rendered text joined to the token ids and the loss mask of an example."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hanlin.chat.rendering.special_tokens import MASK_BYTE, Span
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of a conversation and their loss mask.

        tokens       <user> hi </user> <assistant> hello <eot>
        loss_mask      0    0     0         0        1     1

    `loss_mask` has one byte for each of `ids`, 1 if it is a target.
    """

    ids: list[int]
    loss_mask: bytes


def join_spans(
    spans: Iterable[Span],
    encode: Callable[[str, bool], list[int]],
    with_loss: bool,
    bos_id: int | None,
    origin: str | Path,
    where: str | None,
) -> TokenizedExample:
    """Join the spans of a text to one example.

    Args:
        spans: Special tokens and plain text, in order.
        encode: Encodes plain text; the second argument is whether it follows other text.
        with_loss: Whether generated spans carry loss.
        bos_id: The begin token, which the text may begin with once. None: however often.
        origin: The template's file or name, for messages.
        where: Name of the record, for messages.

    Raises:
        UserError: An answer ends with text, or the text begins with two begin tokens.
    """
    ids: list[int] = []
    loss_mask = bytearray()
    last: Span | None = None
    for span in spans:
        if with_loss and last is not None and last.in_loss and not span.in_loss:
            _check_ends_with_token(last, origin, where)
        span_ids = encode(span.text, span.continuation) if span.token_id is None else [span.token_id]
        ids += span_ids
        loss_mask += MASK_BYTE[span.in_loss and with_loss] * len(span_ids)
        last = span
    if with_loss and last is not None and last.in_loss:
        _check_ends_with_token(last, origin, where)
    if bos_id is not None and ids[:2] == [bos_id, bos_id]:
        raise UserError(
            tr("the chat template {origin} begins with two begin tokens", origin=origin),
            where,
            tr("take one of them out of the template"),
        )
    return TokenizedExample(ids, bytes(loss_mask))


def _check_ends_with_token(last: Span, origin: str | Path, where: str | None) -> None:
    if last.token_id is None:
        raise UserError(
            tr("an answer of the chat template {origin} ends with text: a model never learns to stop", origin=origin),
            where,
            tr("let the template write an end token after every answer"),
        )
