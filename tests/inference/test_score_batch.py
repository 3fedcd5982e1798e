"""Which rows are run to score pairs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hanlin.inference.score_batch import build_score_rows, common_length

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)


def test_four_letters_after_one_question_share_a_row() -> None:
    rows = build_score_rows([((1, 2, 3), (letter,)) for letter in (7, 8, 9, 10)])
    assert [row.ids for row in rows] == [(1, 2, 3)]
    assert rows[0].positions == [2]


def test_a_longer_answer_carries_a_shorter_one() -> None:
    rows = build_score_rows([((1, 2), (3,)), ((1, 2), (4, 5, 6))])
    assert [row.ids for row in rows] == [(1, 2, 4, 5)]
    assert rows[0].positions == [1, 2, 3]


@given(st.lists(st.tuples(IDS, IDS), max_size=12))
def test_each_pair_is_scored_once_where_its_ids_stand(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    rows = build_score_rows(pairs)
    scored = [(place, start, continuation, row) for row in rows for place, start, continuation in row.scored]
    assert sorted(place for place, *_ in scored) == list(range(len(pairs)))
    for place, start, continuation, row in scored:
        prefix = pairs[place][0]
        assert continuation == pairs[place][1]
        assert row.ids[: start + len(continuation)] == (*prefix, *continuation[:-1])
    assert [row.ids for row in rows] == sorted(row.ids for row in rows)
    assert len({row.ids for row in rows}) == len(rows)


def test_common_length() -> None:
    assert common_length([1, 2, 3], (1, 2, 4)) == 2
    assert common_length([1, 2], [1, 2, 3]) == 2
    assert common_length([], [1]) == 0
