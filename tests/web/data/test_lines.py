"""Lines of a file by their number: the same lines as reading all of it, with blocks of any size, cached or not."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from hanlin.web.data import lines
from hanlin.web.data.dataset import _find_line, histogram
from hanlin.web.data.lines import LineIndex

TEXTS = {
    "empty": b"",
    "one": b"only",
    "one ended": b"only\n",
    "blank lines": b"\n\na\n\n\nb",
    "rows": b"".join(b'{"id": "a#%d", "text": "%s"}\n' % (n, b"x" * (n * 7 % 90)) for n in range(300)),
    "long line": b"a\n" + b"y" * 5000 + b"\nb\nc",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
def test_every_line_is_found_in_any_order(
    name: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    file, data = tmp_path / "f", TEXTS[name]
    file.write_bytes(data)
    expected = data.removesuffix(b"\n").split(b"\n") if data else []
    numbers = list(range(len(expected)))
    random.Random(1).shuffle(numbers)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):  # without a cache, filling one, reading it
        index = LineIndex(file, cache)
        assert [index.lines(number, 1) for number in numbers] == [[expected[number]] for number in numbers]
        assert index.lines(0, 10_000) == expected and index.count() == len(expected)
        assert index.lines(len(expected), 5) == []


@pytest.mark.parametrize("chunk", [3, 50, 1 << 20])
def test_a_search_finds_the_lines_that_hold_some_bytes(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_SEARCH_BYTES", chunk)
    file, data = tmp_path / "f", TEXTS["rows"] + b"the last line #29"
    file.write_bytes(data)
    rows = data.split(b"\n")
    for first in (0, 1, 30, 299, 300, 301):
        found = [pair for pair in LineIndex(file).search(b"#29", first) if pair[1] is not None]
        assert found == [(number, row) for number, row in enumerate(rows) if b"#29" in row and number >= first]


def test_the_first_page_reads_the_first_block_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    file = tmp_path / "f"
    file.write_bytes(TEXTS["rows"])
    index = LineIndex(file)
    assert len(index.lines(0, 3)) == 3 and not index.is_complete and index.num_known_lines < 5
    index.lines(100, 1)
    assert 100 <= index.num_known_lines < 120


def test_a_file_that_changes_is_counted_anew_and_its_cache_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    file = tmp_path / "f"
    file.write_bytes(TEXTS["rows"])
    index = LineIndex(file, tmp_path / "cache")
    assert index.count() == 300 and len(os.listdir(tmp_path / "cache")) == 1
    file.write_bytes(b"a\nb\n")
    index.refresh()
    assert index.count() == 2 == LineIndex(file, tmp_path / "cache").count()


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    file = tmp_path / "f"
    file.write_bytes(TEXTS["rows"])
    LineIndex(file, tmp_path / "cache").count()
    (cached,) = (tmp_path / "cache").iterdir()
    for damage in (b"", b"x" * 50, cached.read_bytes()[:-3]):
        cached.write_bytes(damage)
        assert LineIndex(file, tmp_path / "cache").count() == 300


@pytest.mark.parametrize("chunk", [5, 64, 1 << 20])
def test_a_line_is_found_by_what_it_begins_with(chunk: int, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(TEXTS["rows"])
    assert [_find_line(file, b'{"id": "a#%d"' % n, chunk) for n in (0, 1, 199, 299, 300)] == [0, 1, 199, 299, None]
    assert _find_line(file, b'"text"', chunk) is None


@pytest.mark.parametrize("values", [[], [0], [5] * 3, [0, 9, 10, 11, 99, 100, 10**6], list(range(3000))])
def test_a_histogram_counts_every_value_once(values: list[int]) -> None:
    bins = histogram(values)
    assert sum(count for _, _, count in bins) == len(values) and len(bins) <= 24
    assert all(sum(first <= value < end for value in values) == count for first, end, count in bins)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bins))
