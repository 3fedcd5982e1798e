"""What must hold of every example before a model learns from it, proven on the token ids that it will learn from.

Owns the rules of begin, answer and end. Does not own how ids are made (`tokens/`) or which records are refused
(`objectives`).

The renderer keeps these rules by construction. They are proven again on what lies on disk, whole arrays at a time,
because a run that breaks one of them looks healthy: the model never stops, or speaks for its user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Message, ToolCall
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.encoded import EncodedRecords

BLOCK = 1 << 22
"""Tokens that are looked at together: it bounds the memory, whatever the size of the data."""
_LONGEST_OPENING = 4
_Examples = Callable[[np.ndarray], Iterator[int]]


@dataclass(frozen=True, slots=True)
class Contract:
    """The rules of a template, or of plain documents.

    `begin` opens every example, None where nothing does. Another begin token may stand only behind an id of `breaks`,
    and behind those that are in `always` it must. A learned stretch begins behind one of `openings` and ends with an id
    of `ends`, which stands nowhere else in it; no rule is kept where these are empty, but that answers must end.
    """

    begin: int | None
    ends: tuple[int, ...]
    prompted: bool
    openings: tuple[tuple[int, ...], ...] = ()
    breaks: tuple[int, ...] = ()
    always: tuple[int, ...] = ()

    @classmethod
    def of_documents(cls, tokenizer: Tokenizer) -> Self:
        """Begin token, text, end token, as far as the tokenizer has them."""
        end = tokenizer.eos_id
        return cls(tokenizer.bos_id, () if end is None else (end,), False)

    @classmethod
    def of_chats(cls, template: ChatTemplate) -> Self:
        """What a template does, found out on small conversations: where it puts the begin token (at the start of all,
        or of each exchange as Llama 2 does, or nowhere), and what it writes before an answer."""
        bos = template.tokenizer.bos_id
        probes = [ids for turns in _PROBES if (ids := _rendered(template, turns, False))]
        begins = bos is not None and bool(probes) and all(ids[0] == bos for ids in probes)
        if bos is None or bos in template.turn_end_ids:  # there the begin token says nothing about where it stands
            return cls(bos if begins else None, template.turn_end_ids, True, _openings(template))
        behind = [(ids[place - 1], ids[place]) for ids in probes for place in range(1, len(ids))]
        breaks = {before for before, number in behind if number == bos}
        always = breaks - {before for before, number in behind if number != bos}
        return cls(
            bos if begins else None,
            template.turn_end_ids,
            True,
            _openings(template),
            tuple(sorted(breaks)),
            tuple(sorted(always)),
        )

    def check(self, encoded: EncodedRecords) -> None:
        """Raise UserError with the record's id for the first example that breaks a rule.

        Every example: something is learned; exactly one begin token at its start, and further ones only where the
        template puts them. Every answer: its learned tokens begin where the template's prompt ends, the last of them
        stops, and no other does (then the turn behind it, a prompt, would be learned too).
        """
        for start, end in _blocks(encoded.starts):
            for what, example in self._broken(encoded, start, end):
                (record,) = encoded.record_ids([(start + example) // encoded.width])
                raise UserError(what, record, _hint(self.prompted))

    def _broken(self, encoded: EncodedRecords, start: int, end: int) -> Iterator[tuple[str, int]]:
        """What is broken in the examples from `start` to `end`, and in which of them."""
        offsets = np.asarray(encoded.starts[start : end + 1]) - int(encoded.starts[start])
        area = slice(int(encoded.starts[start]), int(encoded.starts[end]))
        ids, learn = np.asarray(encoded.ids[area]), np.asarray(encoded.learn[area])

        def examples(places: np.ndarray) -> Iterator[int]:
            for place in places[:1]:
                yield int(np.searchsorted(offsets, place, side="right")) - 1

        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(learn)])
        for example in np.flatnonzero(before[offsets[1:]] == before[offsets[:-1]])[:1]:
            yield say("nothing of it is learned", "没有任何词元被学习"), int(example)
            return  # an example without tokens has no first one either
        firsts, lasts = offsets[:-1], offsets[1:] - 1
        if self.prompted:
            for example in np.flatnonzero(learn[firsts])[:1]:
                yield say("its first token is learned", "首个词元被学习"), int(example)
        yield from self._broken_begins(ids, learn, firsts, examples)
        learnt_before, learnt_after = np.roll(learn, 1), np.roll(learn, -1)
        learnt_before[firsts] = False
        learnt_after[lasts] = False
        stops = np.isin(ids, self.ends)
        if self.ends or self.prompted:
            for example in examples(np.flatnonzero(learn & ~learnt_after & ~stops)):
                yield say("an answer does not learn to stop", "有回答没有学习停止符"), example
        if self.prompted:
            for example in examples(np.flatnonzero(learn & learnt_after & stops)):
                yield say("what stands after an answer is learned too", "回答之后的内容也被学习"), example
        if self.openings:
            heads = np.flatnonzero(learn & ~learnt_before)
            for example in examples(heads[~_behind(ids, heads, self.openings)]):
                yield say("a token of a prompt is learned", "提示中的词元被学习"), example

    def _broken_begins(
        self, ids: np.ndarray, learn: np.ndarray, firsts: np.ndarray, examples: _Examples
    ) -> Iterator[tuple[str, int]]:
        if self.begin is None:
            return
        for example in np.flatnonzero(ids[firsts] != self.begin)[:1]:
            yield say("it does not begin with the begin token", "开头没有起始符"), int(example)
        for example in np.flatnonzero(learn[firsts])[:1]:
            yield say("its begin token is learned", "起始符被学习"), int(example)
        if self.begin in self.ends:
            return
        begins = ids == self.begin
        begins[firsts] = False
        behind = np.roll(ids, 1)
        for example in examples(np.flatnonzero(begins & ~np.isin(behind, self.breaks))):
            yield say("it has a begin token where none belongs", "起始符出现在不该出现的位置"), example
        if self.always:
            wanted = np.isin(behind, self.always) & ~begins
            wanted[firsts] = False
            for example in examples(np.flatnonzero(wanted)):
                yield say("a begin token is missing within it", "中间缺少起始符"), example


_CALL = Message("assistant", "", tool_calls=(ToolCall("f", {}),))
_ENDINGS = ("?", "好", "a b ", "1\n", "“对。”", "[x]")
"""How a question may end: what stands before an answer whatever they are, the template wrote."""
_PROBES: tuple[tuple[Message, ...], ...] = (
    (Message("user", "?"), Message("assistant", "!"), Message("user", "好"), Message("assistant", "1")),
    (Message("system", "s"), Message("user", "a"), Message("assistant", "b\nc")),
    (Message("user", "?"), _CALL, Message("tool", "1", name="f"), Message("assistant", "!")),
)


def _rendered(template: ChatTemplate, turns: Sequence[Message], prompt: bool) -> list[int]:
    """Ids of turns, none where the template does not take them."""
    try:
        return template.render(turns, prompt=prompt).ids
    except UserError:
        return []


def _openings(template: ChatTemplate) -> tuple[tuple[int, ...], ...]:
    """The last ids of every prompt, for questions and for results of tools; none where prompts share no ending."""
    asked = [[Message("user", text)] for text in _ENDINGS]
    told = [[Message("user", "?"), _CALL, Message("tool", text, name="f")] for text in _ENDINGS]
    found = set()
    for prompts in (asked, told):
        known = [ids for turns in prompts if (ids := _rendered(template, turns, True))]
        if known:
            found.add(_common_ending(known))
    return () if () in found else tuple(sorted(found))


def _common_ending(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    size = 0
    while size < min(_LONGEST_OPENING, *map(len, rows)) and len({row[-size - 1] for row in rows}) == 1:
        size += 1
    return tuple(rows[0][len(rows[0]) - size :])


def _behind(ids: np.ndarray, heads: np.ndarray, openings: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Whether one of the openings stands before each place [heads]."""
    found = np.zeros(len(heads), dtype=bool)
    for opening in openings:
        fits = heads >= len(opening)
        for back, number in enumerate(reversed(opening), start=1):
            fits &= ids[heads - back] == number
        found |= fits
    return found


def _blocks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of examples of about `BLOCK` tokens each."""
    first, examples = 0, len(starts) - 1
    while first < examples:
        end = int(np.searchsorted(starts, int(starts[first]) + BLOCK, side="right")) - 1
        end = min(max(end, first + 1), examples)
        yield first, end
        first = end


def _hint(prompted: bool) -> str:
    if prompted:
        return say(
            "the chat template cannot be trained with: choose a packaged one", "该对话模板不能用于训练：请换用内置模板"
        )
    return say(
        "the tokenizer's begin or end token is wrong: check its files", "分词器的起始符或结束符有误：请检查其文件"
    )
