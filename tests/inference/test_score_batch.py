"""Which rows are run to score pairs, and that pairs which share a prefix score as alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hanlin.inference.backends.transformers import scoring
from hanlin.inference.backends.transformers.engine import TransformersEngine
from hanlin.inference.score_batch import (
    ScoreRow,
    build_score_rows,
    common_length,
    group_by_prefix,
    pack_rows,
    shared_length,
)

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


Pair = tuple[tuple[int, ...], tuple[int, ...]]


def ids(seed: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).randrange(5, 300) for _ in range(count))


def questions(shared: int) -> list[Pair]:
    """Five questions after a shared beginning, each with three choices of several ids, and one with letters."""
    head = ids(0, shared)
    pairs = [((*head, *ids(n, 7 + n)), ids(10 * n + choice, 2 + choice)) for n in range(1, 6) for choice in range(3)]
    return [*pairs, *(((*head, *ids(9, 4)), (letter,)) for letter in (7, 8, 9))]


@pytest.mark.parametrize(
    ("shared", "long_prefix"), [(40, 32), (40, 1000), (0, 1000)], ids=["once", "packed", "choices"]
)
def test_pairs_that_share_a_prefix_score_as_alone(
    shared: int, long_prefix: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_LONG_PREFIX", long_prefix)
    pairs = questions(shared)
    engine = TransformersEngine(tiny_model, device="cpu")
    try:
        together = engine.score(pairs)
        alone = [engine.score([pair])[0] for pair in pairs]
    finally:
        engine.close()
    for first, second in zip(together, alone, strict=True):
        assert first.logprob == pytest.approx(second.logprob, abs=1e-4)
        assert first.greedy == second.greedy


def test_packed_rows_hold_their_prefix_once_and_branches_do_not_see_each_other() -> None:
    rows = build_score_rows([((1, 2, 3), (4, 9)), ((1, 2, 3), (5, 9))])
    (group,) = group_by_prefix(rows)
    packed = pack_rows(group, shared_length(group))
    assert (packed.ids, packed.positions, packed.branches) == (
        [1, 2, 3, 4, 3, 5],
        [0, 1, 2, 3, 2, 3],
        [0, 0, 1, 1, 2, 2],
    )
    assert packed.scored == [(0, [2, 3], (4, 9)), (1, [4, 5], (5, 9))]
    mask = scoring._tree_mask(torch.tensor([packed.branches]))[0, 0]
    assert mask[5].tolist() == [True, True, False, False, True, True]


def test_a_row_without_others_is_packed_alone() -> None:
    packed = pack_rows([ScoreRow((1, 2, 3), [(0, 1, (3, 4))])], 3)
    assert (packed.ids, packed.branches, packed.scored) == ([1, 2, 3], [0, 0, 0], [(0, [1, 2], (3, 4))])
