"""The texts of many conversations, encoded together while the next conversations are rendered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.special_tokens import Span
from hanlin.tokenizer.tokenizer import Tokenizer

ENCODE_BATCH_SIZE = 256
"""Conversations whose texts are encoded together."""

_Ids = dict[tuple[str, bool], list[int]]


class RenderedConversation(NamedTuple):
    """A conversation as its template renders it for training.

    Attributes:
        examples: The spans of each example, or why the template refuses the turns.
        name: The name of the record, for messages.
    """

    examples: list[list[Span]] | TemplateRefusal
    name: str


def encode_batches(
    tokenizer: Tokenizer, conversations: Iterable[RenderedConversation]
) -> Iterator[tuple[RenderedConversation, Callable[[str, bool], list[int]]]]:
    """Encode the plain texts of conversations, `ENCODE_BATCH_SIZE` of them at a time.

    The tokenizers library encodes a batch on every core, without Python's lock, while the next one is rendered; two
    batches are under way at most.

    Args:
        tokenizer: Encodes the texts.
        conversations: Rendered while they are taken.

    Yields:
        Each conversation, in order, with the function that gives the ids of its texts; its second argument is whether
        the text follows other text.
    """
    remaining = iter(conversations)
    with ThreadPoolExecutor(1) as encoder:
        waiting: deque[tuple[list[RenderedConversation], Future[_Ids]]] = deque()
        while batch := list(islice(remaining, ENCODE_BATCH_SIZE)):
            waiting.append((batch, encoder.submit(_encode_texts, tokenizer, batch)))
            if len(waiting) > 1:
                yield from _join_ids(*waiting.popleft())
        while waiting:
            yield from _join_ids(*waiting.popleft())


def _encode_texts(tokenizer: Tokenizer, batch: Sequence[RenderedConversation]) -> _Ids:
    """The ids of every plain text, each encoded once."""
    examples = (spans for found, _ in batch if not isinstance(found, TemplateRefusal) for spans in found)
    ids = {(span.text, span.continuation): [0] for spans in examples for span in spans if span.token_id is None}
    for continuation in (False, True):
        texts = [text for text, within in ids if within == continuation]
        for text, row in zip(texts, tokenizer.encode_batch(texts, continuation=continuation), strict=True):
            ids[text, continuation] = row
    return ids


def _join_ids(
    batch: Sequence[RenderedConversation], encoded: Future[_Ids]
) -> Iterator[tuple[RenderedConversation, Callable[[str, bool], list[int]]]]:
    ids = encoded.result()
    for conversation in batch:
        yield conversation, lambda text, continuation: ids[text, continuation]
