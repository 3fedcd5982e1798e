"""Checks of the loss mask and the special tokens of every example before a model learns from it.

The renderer keeps these rules by construction. They are checked again on the ids on disk, whole arrays at a time,
because a run that breaks one of them looks healthy: the model never stops, or writes its user's turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message, ToolCall
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.encoded import EncodedRecords

BLOCK_TOKENS = 1 << 22
"""Tokens that are checked together: it bounds the memory, whatever the size of the data."""
_MAX_PROMPT_ENDING = 4
_FindExamples = Callable[[np.ndarray], Iterator[int]]


@dataclass(frozen=True, slots=True)
class MaskRules:
    """What must hold of every example, for a chat template or for plain documents.

    In the ids of one exchange, `B` the begin token, `S` a stop token, `>` the end of a prompt:

        B user > answer S B user > answer S
        0    0 0      1 1 0    0 0      1 1     loss mask

    Attributes:
        bos_id: The begin token that every example starts with; None if it starts with none.
        stop_ids: A stretch of targets ends with one of these, which occur nowhere else in it.
        has_prompts: Whether examples begin with a prompt, which is no target.
        prompt_endings: A stretch of targets follows one of these; empty if that is not known.
        before_bos: Ids that a further begin token may follow.
        requires_bos: Those of them that a begin token always follows.
    """

    bos_id: int | None
    stop_ids: tuple[int, ...]
    has_prompts: bool
    prompt_endings: tuple[tuple[int, ...], ...] = ()
    before_bos: tuple[int, ...] = ()
    requires_bos: tuple[int, ...] = ()

    @classmethod
    def for_documents(cls, tokenizer: Tokenizer) -> Self:
        """Begin token, text, end token, as far as the tokenizer has them."""
        eos_id = tokenizer.eos_id
        return cls(tokenizer.bos_id, () if eos_id is None else (eos_id,), False)

    @classmethod
    def for_chats(cls, template: ChatTemplate, reads_reasoning: bool = False) -> Self:
        """What a template does, found by rendering small conversations.

        If reasoning is only read (`reads_reasoning`), what precedes the loss is not known.

        That is where it puts the begin token (at the start of all, or of each exchange as Llama 2 does, or nowhere),
        and what it writes before an answer.
        """
        bos_id = template.tokenizer.bos_id
        rendered = [ids for turns in _SMALL_CHATS if (ids := _render(template, turns, False))]
        prompt_endings = () if reads_reasoning else _find_prompt_endings(template)
        starts_with_bos = bos_id is not None and bool(rendered) and all(ids[0] == bos_id for ids in rendered)
        first_id = bos_id if starts_with_bos else None
        if bos_id is None or bos_id in template.turn_end_ids:  # then a begin token may be anywhere
            return cls(first_id, template.turn_end_ids, True, prompt_endings)
        neighbors = [(ids[index - 1], ids[index]) for ids in rendered for index in range(1, len(ids))]
        before_bos = {before for before, token_id in neighbors if token_id == bos_id}
        requires_bos = before_bos - {before for before, token_id in neighbors if token_id != bos_id}
        return cls(
            first_id,
            template.turn_end_ids,
            True,
            prompt_endings,
            tuple(sorted(before_bos)),
            tuple(sorted(requires_bos)),
        )

    def check(self, encoded: EncodedRecords) -> None:
        """Raise UserError with the id of the record for the first example that breaks a rule.

        Every example: it has a target; there is exactly one begin token at its start, and further ones only where the
        template puts them. Every answer: its targets begin where the prompt ends; the last of them is a stop token, and
        no other is (else the turn behind it, a prompt, would be a target, too).
        """
        for start, end in _blocks(encoded.starts):
            for message, example in self._violations(encoded, start, end):
                (record,) = encoded.record_ids([(start + example) // encoded.width])
                raise UserError(message, record, _hint(self.has_prompts))

    def _violations(self, encoded: EncodedRecords, start: int, end: int) -> Iterator[tuple[str, int]]:
        """The rules that the examples from `start` to `end` break, and the first example that breaks each."""
        offsets = np.asarray(encoded.starts[start : end + 1]) - int(encoded.starts[start])
        span = slice(int(encoded.starts[start]), int(encoded.starts[end]))
        ids, mask = np.asarray(encoded.ids[span]), np.asarray(encoded.loss_mask[span])

        def examples(positions: np.ndarray) -> Iterator[int]:
            for position in positions[:1]:
                yield int(np.searchsorted(offsets, position, side="right")) - 1

        targets_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask)])
        for example in np.flatnonzero(targets_before[offsets[1:]] == targets_before[offsets[:-1]])[:1]:
            yield tr("none of its tokens is a target"), int(example)
            return  # an example without tokens has no first one either
        firsts, lasts = offsets[:-1], offsets[1:] - 1
        if self.has_prompts:
            for example in np.flatnonzero(mask[firsts])[:1]:
                yield tr("its first token is a target"), int(example)
        yield from self._bos_violations(ids, mask, firsts, examples)
        previous, following = np.roll(mask, 1), np.roll(mask, -1)
        previous[firsts] = False
        following[lasts] = False
        stops = np.isin(ids, self.stop_ids)
        if self.stop_ids or self.has_prompts:
            for example in examples(np.flatnonzero(mask & ~following & ~stops)):
                yield tr("an answer has no stop token as its last target"), example
        if self.has_prompts:
            for example in examples(np.flatnonzero(mask & following & stops)):
                yield tr("what follows an answer is a target, too"), example
        if self.prompt_endings:
            heads = np.flatnonzero(mask & ~previous)
            for example in examples(heads[~_follows_any(ids, heads, self.prompt_endings)]):
                yield tr("a token of a prompt is a target"), example

    def _bos_violations(
        self, ids: np.ndarray, mask: np.ndarray, firsts: np.ndarray, examples: _FindExamples
    ) -> Iterator[tuple[str, int]]:
        if self.bos_id is None:
            return
        for example in np.flatnonzero(ids[firsts] != self.bos_id)[:1]:
            yield tr("it does not start with the begin token"), int(example)
        for example in np.flatnonzero(mask[firsts])[:1]:
            yield tr("its begin token is a target"), int(example)
        if self.bos_id in self.stop_ids:
            return
        is_bos = ids == self.bos_id
        is_bos[firsts] = False
        previous = np.roll(ids, 1)
        for example in examples(np.flatnonzero(is_bos & ~np.isin(previous, self.before_bos))):
            yield tr("it has a begin token where none belongs"), example
        if self.requires_bos:
            missing = np.isin(previous, self.requires_bos) & ~is_bos
            missing[firsts] = False
            for example in examples(np.flatnonzero(missing)):
                yield tr("a begin token is missing within it"), example


_TOOL_CALL = Message("assistant", "", tool_calls=(ToolCall("f", {}),))
_QUESTIONS = ("?", "好", "a b ", "1\n", "“对。”", "[x]")
"""Questions with different endings: the template wrote what precedes the answer to all of them."""
_SMALL_CHATS: tuple[tuple[Message, ...], ...] = (
    (Message("user", "?"), Message("assistant", "!"), Message("user", "好"), Message("assistant", "1")),
    (Message("system", "s"), Message("user", "a"), Message("assistant", "b\nc")),
    (Message("user", "?"), _TOOL_CALL, Message("tool", "1", name="f"), Message("assistant", "!")),
)


def _render(template: ChatTemplate, turns: Sequence[Message], prompt: bool, thinking: bool | None = None) -> list[int]:
    """Ids of turns; none if the template does not take them."""
    try:
        return template.render(turns, prompt=prompt, thinking=thinking).ids
    except UserError:
        return []


def _find_prompt_endings(template: ChatTemplate) -> tuple[tuple[int, ...], ...]:
    """The last ids of every prompt, for questions and for results of tools; none if they have none in common."""
    questions = [[Message("user", text)] for text in _QUESTIONS]
    results = [[Message("user", "?"), _TOOL_CALL, Message("tool", text, name="f")] for text in _QUESTIONS]
    endings = set()
    for thinking in (None, True, False) if template.thinking_switches else (None,):
        for prompts in (questions, results):
            rendered = [ids for turns in prompts if (ids := _render(template, turns, True, thinking))]
            if rendered:
                endings.add(_common_ending(rendered))
    return () if () in endings else tuple(sorted(endings))


def _common_ending(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    size = 0
    while size < min(_MAX_PROMPT_ENDING, *map(len, rows)) and len({row[-size - 1] for row in rows}) == 1:
        size += 1
    return tuple(rows[0][len(rows[0]) - size :])


def _follows_any(ids: np.ndarray, heads: np.ndarray, endings: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Whether one of the endings precedes each position, bool [heads]."""
    follows = np.zeros(len(heads), dtype=bool)
    for ending in endings:
        matches = heads >= len(ending)
        for distance, token_id in enumerate(reversed(ending), start=1):
            matches &= ids[heads - distance] == token_id
        follows |= matches
    return follows


def _blocks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of examples of about `BLOCK_TOKENS` tokens each."""
    first, examples = 0, len(starts) - 1
    while first < examples:
        end = int(np.searchsorted(starts, int(starts[first]) + BLOCK_TOKENS, side="right")) - 1
        end = min(max(end, first + 1), examples)
        yield first, end
        first = end


def _hint(has_prompts: bool) -> str:
    if has_prompts:
        return tr("this chat template cannot be trained with: use a packaged one")
    return tr("the begin or end token of the tokenizer is wrong: check its files")
