"""The texts that new rows are learned from: a sample of all texts."""

from __future__ import annotations

import pytest

from hanlin.models.new_rows import sample
from hanlin.models.new_rows.sample import sample_texts


def test_every_text_is_sampled_if_there_are_few() -> None:
    assert sorted(sample_texts(["学士", "翰林" * 300], seed=1)) == sorted(["学士", "翰林" * 250, "翰林" * 50])


def test_a_sample_comes_from_the_whole_text_and_depends_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLED_SNIPPETS", 50)
    texts = [str(number) for number in range(1000)]
    found = sample_texts(texts, seed=1)
    assert len(set(found)) == 50 and found == sample_texts(texts, seed=1) != sample_texts(texts, seed=2)
    assert 300 < sum(map(int, found)) / 50 < 700
