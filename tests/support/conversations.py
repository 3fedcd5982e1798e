"""Conversations drawn by hypothesis: whatever a person, a file or an attacker could put into turns."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from hanlin.core.records import Message, ToolCall
from hanlin.parity import cases
from hanlin.parity.cases import Case

_KNOWN = (*cases.CHINESE, *cases.ENGLISH, *cases.EMOJI, *cases.RARE, *cases.TRADITIONAL, *cases.RIGHT_TO_LEFT)
_AWKWARD = (*cases.CODE, *cases.SPACES, *cases.INJECTIONS, *cases.NOTHING)
_characters = st.characters(exclude_categories=["Cs"])
_han = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=30)
_white = st.text(st.sampled_from(" \n\t\r\v\f\u3000\u00a0\u2028\x85\u200b"), max_size=4)
_pieces = st.one_of(st.sampled_from(_KNOWN), st.sampled_from(_AWKWARD), _han, st.text(_characters, max_size=20), _white)
texts = st.one_of(_pieces, st.lists(_pieces, min_size=2, max_size=5).map("".join))

_fractions = st.integers(-9999, 9999).map(lambda number: number / 100).filter(lambda number: number % 1)
"""Numbers of at most six digits, whole ones apart: llama.cpp's Jinja writes no more digits, and 1.0 as 1."""
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), _fractions, _han, st.sampled_from(_KNOWN)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_han, inner, max_size=3)),
    max_leaves=5,
)
_calls = st.builds(ToolCall, st.sampled_from(["weather", "now"]), st.dictionaries(_han, _json, max_size=3))


_thoughts = st.one_of(st.just(""), texts)


@st.composite
def conversations(draw: st.DrawFn, tools: bool, thinks: bool = False) -> Case:
    """Up to four exchanges, perhaps behind a system text.

    With `tools`, some in which tools are called (one or several at once, perhaps beside a text) and answer. With
    `thinks`, assistants think before they answer or call, mostly.
    """
    thoughts = _thoughts if thinks else st.just("")
    turns = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for exchange in range(draw(st.integers(1, 4))):
        turns.append(Message("user", draw(texts)))
        if tools and draw(st.booleans()):
            drawn = draw(st.lists(_calls, min_size=1, max_size=3))
            calls = tuple(replace(call, id=f"call_{exchange}_{place}") for place, call in enumerate(drawn))
            text = draw(st.one_of(st.just(""), texts))
            turns.append(Message("assistant", text, calls, reasoning=draw(thoughts)))
            turns += [Message("tool", draw(texts), name=call.name, tool_call_id=call.id) for call in calls]
        turns.append(Message("assistant", draw(texts), reasoning=draw(thoughts)))
    return Case("generated", tuple(turns), cases.TOOLS if tools else ())


def any_conversations(tools: bool) -> st.SearchStrategy[Case]:
    """Conversations with and without thoughts, and, if a template can call `tools`, with and without calls."""
    kinds = st.tuples(st.booleans(), st.booleans())
    return kinds.flatmap(lambda kind: conversations(tools=kind[0] and tools, thinks=kind[1]))
