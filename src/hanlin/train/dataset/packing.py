"""Packing: which texts share a row. Whole conversations by best fit, documents cut so that no token is lost.

What keeps the texts of a row apart (positions, attention) is `document_layout`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr


def pack(lengths: Sequence[int], max_seq_length: int) -> list[list[int]]:
    """Pack whole items into rows of at most `max_seq_length` tokens.

    Best fit decreasing (Johnson 1973): longest first, each into the fullest row that still takes it, which needs at
    most 11/9 of the fewest rows possible. O(n log n). For example:

        lengths         5 3 7 2, max_seq_length 8
        rows            [0, 1] (5 + 3)    [2] (7)    [3] (2)

    Args:
        lengths: Tokens of each item.
        max_seq_length: Tokens of a row.

    Returns:
        Rows of item indices, in the order of their first item; the items of a row are in order, too. Equal lengths keep
        their order, so the result depends on the arguments alone.

    Raises:
        UserError: An item is longer than a row.
    """
    free: list[int] = []  # the distinct amounts of free space, ascending; `open_rows` has the rows of each
    open_rows: dict[int, list[int]] = {}
    rows: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[item]
        if length > max_seq_length:
            raise UserError(
                tr(
                    "an item of {length} tokens does not fit into a sequence of {max_seq_length}",
                    length=length,
                    max_seq_length=max_seq_length,
                ),
                tr("item {item}", item=item + 1),
                tr("raise max_seq_length or shorten the item"),
            )
        index = bisect_left(free, length)
        if index < len(free):
            space = free[index]
            row = open_rows[space].pop()
            if not open_rows[space]:
                del open_rows[space]
                del free[index]
        else:
            space, row = max_seq_length, len(rows)
            rows.append([])
        rows[row].append(item)
        left = space - length
        if left not in open_rows:
            open_rows[left] = []
            insort(free, left)
        open_rows[left].append(row)
    return sorted(map(sorted, rows))


class DocumentSlice(NamedTuple):
    """Tokens `start` to `end` (exclusive) of one document."""

    document: int
    start: int
    end: int


def pack_documents(lengths: Sequence[int], max_seq_length: int) -> list[list[DocumentSlice]]:
    """Pack documents of any length into rows; every token of every document is in exactly one row.

    A document longer than a row is cut into full rows and a rest; rests and short documents are packed by best fit
    and never cut (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830). For example:

        lengths         20 3 6, max_seq_length 8
        rows            [0: 0-8]    [0: 8-16]    [0: 16-20, 1: 0-3]    [2: 0-6]

    Args:
        lengths: Tokens of each document; an empty one is in no row.
        max_seq_length: Tokens of a row.

    Returns:
        Rows of slices, in the order of their first document.

    Raises:
        UserError: `max_seq_length` is less than 1.
    """
    if max_seq_length < 1:
        raise UserError(tr("max_seq_length must be at least 1"), "max_seq_length")
    full: list[list[DocumentSlice]] = []
    rests: list[DocumentSlice] = []
    for document, length in enumerate(lengths):
        for start in range(0, length, max_seq_length):
            part = DocumentSlice(document, start, min(start + max_seq_length, length))
            if part.end - part.start == max_seq_length:
                full.append([part])
            else:
                rests.append(part)
    packed = pack([part.end - part.start for part in rests], max_seq_length)
    return sorted(full + [[rests[index] for index in row] for row in packed])
