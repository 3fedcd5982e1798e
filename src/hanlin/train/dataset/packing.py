"""Several texts in one row: whole conversations by best fit, and documents cut so that not one token is lost.

Owns which piece lies in which row. Does not own what keeps the pieces of a row apart (positions, attention): that is
the training loop's.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

from hanlin.core.errors import UserError
from hanlin.core.i18n import say


def pack(lengths: Sequence[int], max_seq_length: int) -> list[list[int]]:
    """Rows of whole items: each row lists the indices that lie in it, their lengths together at most `max_seq_length`.

    Best fit decreasing (Johnson 1973): longest first, each into the fullest row that still takes it, which needs at
    most 11/9 of the fewest rows possible. Equal lengths keep their order, so the result depends on nothing but the
    arguments. Rows stand in the order of their first item, as do the items in a row. O(n log n).

    Raises UserError when an item is longer than a row.
    """
    free: list[int] = []  # the distinct amounts of free room, ascending; `open_rows` names the rows that have each
    open_rows: dict[int, list[int]] = {}
    rows: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[item]
        if length > max_seq_length:
            raise UserError(
                say(
                    f"an item of {length} tokens does not fit into a row of {max_seq_length}",
                    f"长度为 {length} 的条目放不进 {max_seq_length} 的行",
                ),
                say(f"item {item + 1}", f"第 {item + 1} 条"),
                say("raise the row length or shorten the item", "请增大行长或截短该条目"),
            )
        place = bisect_left(free, length)
        if place < len(free):
            room = free[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
                del free[place]
        else:
            room, row = max_seq_length, len(rows)
            rows.append([])
        rows[row].append(item)
        left = room - length
        if left not in open_rows:
            open_rows[left] = []
            insort(free, left)
        open_rows[left].append(row)
    return sorted(map(sorted, rows))


class Piece(NamedTuple):
    """Tokens `start` to `end` (exclusive) of one document."""

    document: int
    start: int
    end: int


def pack_documents(lengths: Sequence[int], max_seq_length: int) -> list[list[Piece]]:
    """Rows of pieces that hold every token of every document exactly once.

    A document longer than a row is cut into full rows and a rest; rests and short documents are packed by best fit
    and never cut (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830). Empty documents
    give no piece. Rows stand in the order of their first document.
    """
    if max_seq_length < 1:
        raise UserError(say("a row needs room for a token", "行长至少为 1"), "max_seq_length")
    full: list[list[Piece]] = []
    rests: list[Piece] = []
    for document, length in enumerate(lengths):
        for start in range(0, length, max_seq_length):
            piece = Piece(document, start, min(start + max_seq_length, length))
            if piece.end - piece.start == max_seq_length:
                full.append([piece])
            else:
                rests.append(piece)
    packed = pack([piece.end - piece.start for piece in rests], max_seq_length)
    return sorted(full + [[rests[place] for place in row] for row in packed])
