"""Which piece lies in which row."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.core.errors import UserError
from hanlin.train.dataset.packing import pack, pack_documents
from waiting import hang_limit

LENGTHS = st.lists(st.integers(0, 64), max_size=60)


@given(lengths=LENGTHS)
def test_every_item_lies_in_one_row_and_no_row_is_too_long(lengths: list[int]) -> None:
    rows = pack(lengths, 64)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 64 for row in rows)


@given(lengths=LENGTHS)
def test_rows_are_hardly_more_than_needed(lengths: list[int]) -> None:
    """Of two rows the later was only opened because its first item did not fit the earlier: so all but one row are
    more than half full.
    """
    needed = -(-sum(lengths) // 64)
    assert len(pack(lengths, 64)) <= max(2 * needed, bool(lengths))


def test_best_fit_takes_the_fullest_row_that_still_has_room() -> None:
    assert pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_packing_depends_on_nothing_but_its_arguments() -> None:
    lengths = [random.Random(1).randint(1, 100) for _ in range(500)]
    assert pack(lengths, 128) == pack(list(lengths), 128)


def test_equal_items_keep_their_order() -> None:
    assert pack([4, 4, 4, 4], 8) == [[0, 1], [2, 3]]


def test_an_item_longer_than_a_row_is_named() -> None:
    with pytest.raises(UserError, match="item 2: an item of 9 tokens"):
        pack([3, 9], 8)


def test_many_items_are_packed_in_no_time() -> None:
    lengths = [random.Random(0).randint(1, 2048)] * 10 + [random.Random(i).randint(1, 2048) for i in range(50_000)]
    with hang_limit():
        rows = pack(lengths, 2048)
    assert len(rows) < 1.02 * sum(lengths) / 2048 + 1


@given(lengths=st.lists(st.integers(0, 300), max_size=40))
def test_documents_lose_not_one_token(lengths: list[int]) -> None:
    rows = pack_documents(lengths, 64)
    seen = sorted((piece.document, token) for row in rows for piece in row for token in range(piece.start, piece.end))
    assert seen == [(document, token) for document, length in enumerate(lengths) for token in range(length)]
    assert all(sum(piece.end - piece.start for piece in row) <= 64 for row in rows)


@given(lengths=st.lists(st.integers(0, 64), max_size=40))
def test_documents_that_fit_are_not_cut(lengths: list[int]) -> None:
    pieces = [piece for row in pack_documents(lengths, 64) for piece in row]
    assert all(piece.end - piece.start == lengths[piece.document] for piece in pieces)


def test_a_long_document_is_cut_into_full_rows_and_a_rest() -> None:
    assert pack_documents([20, 3], 8) == [[(0, 0, 8)], [(0, 8, 16)], [(0, 16, 20), (1, 0, 3)]]
