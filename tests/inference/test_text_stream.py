"""Stop strings: nothing of one is ever shown, nothing else is lost, however the text is cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hanlin.inference.text_stream import StopStringMatcher


def passed(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool, list[str]]:
    passing = StopStringMatcher(stops)
    shown = [passing.put(piece) for piece in pieces]
    return "".join(shown) + passing.end(), passing.matched, shown


def test_half_a_stop_text_is_held_back_until_it_is_known_what_it_is() -> None:
    assert passed(["答案是七。", "\n", "\n问"], ("\n\n问题",))[2] == ["答案是七。", "", ""]


def test_what_was_held_back_in_vain_is_shown_in_the_end() -> None:
    assert passed(["七。", "\n\n问"], ("\n\n问题",))[:2] == ("七。\n\n问", False)


def test_a_stop_text_within_one_piece_cuts_it() -> None:
    assert passed(["甲STOP乙"], ("STOP",))[:2] == ("甲", True)


def test_the_earliest_of_several_stop_texts_counts() -> None:
    assert passed(["a b c"], ("c", "b"))[:2] == ("a ", True)


def test_a_stop_text_that_begins_again_within_itself_is_found() -> None:
    assert passed(["aab", "aabaaac"], ("aabaaac",))[:2] == ("aab", True)


LETTERS = st.text("ab甲", max_size=12)


@given(LETTERS, st.lists(st.text("ab甲", min_size=1, max_size=4), max_size=3), st.data())
def test_the_cut_does_not_depend_on_the_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    pieces, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]
    shown, hit, _ = passed(pieces, tuple(stops))
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert hit == bool(ends)
    # generation stops with the piece in which a stop text becomes whole: of those, the earliest begun cuts
    assert shown == text if not hit else text.startswith(shown) and not any(stop in shown for stop in stops)


@given(LETTERS, st.lists(st.text("ab甲", min_size=1, max_size=4), min_size=1, max_size=3))
def test_letter_by_letter_the_first_stop_text_that_becomes_whole_cuts(text: str, stops: list[str]) -> None:
    shown, hit, _ = passed(list(text), tuple(stops))
    ends = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    assert (shown, hit) == ((text[: ends[0][1]], True) if ends else (text, False))
