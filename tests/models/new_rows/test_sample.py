"""The texts that new rows are learned from: a sample, cut into rows, of which those with the rarest tokens are read."""

from __future__ import annotations

from itertools import chain

import pytest

from hanlin.models.new_rows import sample
from hanlin.models.new_rows.sample import ROW_TOKENS, cut_rows, sample_texts, select_rows


def test_every_text_is_sampled_if_there_are_few() -> None:
    assert sorted(sample_texts(["学士", "翰林" * 300], seed=1)) == sorted(["学士", "翰林" * 250, "翰林" * 50])


def test_a_sample_comes_from_the_whole_text_and_depends_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLED_SNIPPETS", 50)
    texts = [str(number) for number in range(1000)]
    found = sample_texts(texts, seed=1)
    assert len(set(found)) == 50 and found == sample_texts(texts, seed=1) != sample_texts(texts, seed=2)
    assert 300 < sum(map(int, found)) / 50 < 700


def test_rows_are_cut_between_tokens_and_hold_at_most_256_old_tokens() -> None:
    text = [10, 1] * 200  # 10 is new and was three tokens
    rows = cut_rows([text, [1, 2]], [3], 10)
    assert list(chain.from_iterable(rows)) == text
    assert all(1 + sum(3 if token_id == 10 else 1 for token_id in row) <= ROW_TOKENS for row in rows)


def test_rare_tokens_are_selected_before_more_of_the_same() -> None:
    rows = [[10, 1]] * 50 + [[11, 1], [12, 1]]
    selected = select_rows(rows, [2, 2, 2], 10, old_tokens=40)
    assert [11, 1] in selected and [12, 1] in selected
    assert len(selected) == 10


def test_all_rows_are_selected_if_they_are_few() -> None:
    assert len(select_rows([[10, 1]] * 5, [2], 10, old_tokens=1000)) == 5
