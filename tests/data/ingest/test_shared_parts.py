"""Lines that many documents share are cut and parts of longer documents dropped, if that is wanted."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.data.dedup import containment, lines
from hanlin.data.dedup.containment import contained_fraction
from hanlin.data.dedup.lines import cut_lines, find_frequent_lines, unique_line_hashes
from hanlin.data.ingest import process_split, splits
from hanlin.data.stages import corpus
from stage_runs import Made, run_stage, stopped_at_write

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
WORDS = "春夏秋冬花鸟鱼虫山水云雨风雪东西南北诗书礼乐琴棋笔墨天地日月星辰江河湖海草木竹石"
FOOTER = "本站由湖心岛渡口办公室维护，建议使用新版浏览器"
ON = {"method": "minhash", "lines": 3, "containment": 0.8}


def passage(seed: int, length: int = 200) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice(WORDS) for _ in range(length)) + "。"


def pages() -> list[dict[str, str]]:
    """Six pages with one footer, the first half of one of them, a footer alone, and a page with a rare line."""
    texts = [f"{passage(n)}\n{passage(n + 50)}\n{FOOTER}" for n in range(6)]
    return [{"text": text} for text in (*texts, passage(2), FOOTER, f"{passage(30)}\n只在这一页上的一行文字")]


def test_shared_lines_are_cut_and_contained_documents_dropped(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", pages()), dedup=ON, validation_fraction=0)
    assert len(made.kept) == 7 and not any(FOOTER in text for text in made.texts)
    assert "只在这一页上的一行文字" in made.texts[-1]
    assert made.ledger["changed"]["dedup_lines"] == 6
    assert made.ledger["dropped"] == {"contained": 1, "too_short": 1}
    (part,) = (row for row in made.dropped if row["reason"] == "contained")
    assert part["duplicate_of"] == "a.jsonl#3" and part["location"] == "a.jsonl:7"
    assert made.ledger["rows_in"] == len(made.kept) + len(made.dropped) == 9


def test_by_default_nothing_is_cut_and_parts_stay(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", pages()), validation_fraction=0)
    assert len(made.kept) == 9 and made.ledger["dropped"] == {}


def test_a_longer_copy_in_another_stage_contains_a_document(put: Put, tmp_path: Path) -> None:
    whole = run_stage(Corpus, [put("a.jsonl", pages())], tmp_path / "whole", validation_fraction=0)
    path = put("b.jsonl", [{"text": passage(4)}, {"text": passage(77)}])
    settings = Corpus(sources="./b.jsonl", dedup=ON, dedup_against="whole", validation_fraction=0)
    inputs = Inputs({"sources.0.path": (path,), "dedup_against": (whole.out,)})
    (tmp_path / "out").mkdir()
    metrics = corpus.run(settings, inputs, tmp_path / "out", StageContext())
    assert metrics["rows_kept"] == 1 and metrics["dropped"] == {"contained": 1}


@pytest.mark.parametrize("size", [300, 3_000])
def test_splits_shards_and_parts_of_the_hashes_end_with_the_same_bytes(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = put("a.jsonl", pages() * 2)
    whole = run(Corpus, path, dedup=ON, validation_fraction=0.2).files()
    monkeypatch.setattr(splits, "SPLIT_BYTES", size)
    monkeypatch.setattr(process_split, "SHARD_ROWS", 4)
    monkeypatch.setattr(lines, "_SORT_LIMIT", 5)
    monkeypatch.setattr(containment, "_SORT_LIMIT", 20)
    assert run(Corpus, path, dedup=ON, validation_fraction=0.2).files() == whole


@pytest.mark.parametrize("moment", [3, 8, 12, 13, 16, 20, 24, 28])
def test_a_run_stopped_at_any_write_resumes_to_the_same_bytes(
    put: Put, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    monkeypatch.setattr(process_split, "SHARD_ROWS", 4)
    path = put("a.jsonl", pages())
    whole = run(Corpus, path, dedup=ON, validation_fraction=0.2).files()
    with stopped_at_write(monkeypatch, moment):
        run_stage(Corpus, [path], tmp_path / "again", dedup=ON, validation_fraction=0.2)
    again = run_stage(Corpus, [path], tmp_path / "again", dedup=ON, validation_fraction=0.2).files()
    assert {name: data for name, data in again.items() if not name.endswith(".writing")} == whole


def test_short_lines_and_code_are_never_cut() -> None:
    text = "第一章\n答：\n```\nimport numpy as np\n```\n" + FOOTER
    hashes = unique_line_hashes(text)
    assert len(hashes) == 1
    frequent = find_frequent_lines(lambda: [hashes] * 4, 4, 3)
    assert cut_lines(text, frequent) == text[: -len(FOOTER)].strip("\n")
    assert len(find_frequent_lines(lambda: [hashes] * 3, 3, 3)) == 0


def test_the_contained_fraction_is_of_the_shorter_text() -> None:
    first, second = passage(1), passage(2)
    assert contained_fraction(first, first + second, True) == 1
    assert contained_fraction(first + second, first, True) == pytest.approx(0.5, abs=0.1)
    assert contained_fraction(first, second, True) == 0
