"""`dedup_against`: duplicates of another stage's records are dropped, with the id of the record there."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.data.dedup import cluster
from hanlin.data.ingest import splits
from stage_runs import STAGES, Made, run_stage

CHANCE = random.Random(5)
TEXTS = ["".join(CHANCE.choice("春夏秋冬花鸟鱼虫山水云雨风雪东西南北诗书礼乐") for _ in range(80)) for _ in range(20)]


def run_against(
    kind: type[Corpus | Conversations | Preferences], path: Path, known: tuple[Path, ...], out: Path, **settings: Any
) -> Made:
    """Run a stage on one file, against folders of other stages."""
    out.mkdir()
    inputs = Inputs({"sources.0.path": (path,), "dedup_against": known})
    asked = kind(sources=["./x"], dedup_against=["./y"], validation_fraction=0, **settings)
    return Made(out, STAGES[kind][0].run(asked, inputs, out, StageContext()))


def put(folder: Path, name: str, rows: list[Any]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def other(tmp_path: Path) -> Made:
    """A stage that holds the first ten texts, some of them held out."""
    path = put(tmp_path, "first.jsonl", [{"text": text} for text in TEXTS[:10]])
    return run_stage(Corpus, [path], tmp_path / "other", validation_fraction=0.3)


def test_duplicates_of_another_stage_are_dropped_with_its_ids(tmp_path: Path, other: Made) -> None:
    rows = [TEXTS[3], TEXTS[12], TEXTS[4][:-2] + "改了", TEXTS[12], TEXTS[13]]
    made = run_against(Corpus, put(tmp_path, "b.jsonl", [{"text": row} for row in rows]), (other.out,), tmp_path / "b")
    assert made.texts == [TEXTS[12], TEXTS[13]]
    assert [row["id"] for row in made.kept] == ["b.jsonl#2", "b.jsonl#5"]
    assert [(row["reason"], row["location"], row["duplicate_of"]) for row in made.dropped] == [
        ("duplicate", "b.jsonl:1", "first.jsonl#4"),
        ("near_duplicate", "b.jsonl:3", "first.jsonl#5"),
        ("duplicate", "b.jsonl:4", "b.jsonl#2"),
    ]
    assert made.ledger["rows_in"] == made.ledger["rows_kept"] + made.ledger["rows_dropped"] == 5


def test_duplicates_of_another_stage_s_validation_split_are_dropped_too(tmp_path: Path, other: Made) -> None:
    assert other.validation
    rows = [{"text": row["text"]} for row in other.validation]
    path = put(tmp_path, "b.jsonl", [*rows, {"text": TEXTS[15]}])
    made = run_against(Corpus, path, (other.out,), tmp_path / "b")
    assert made.texts == [TEXTS[15]]
    assert [row["duplicate_of"] for row in made.dropped] == [row["id"] for row in other.validation]


def test_a_text_is_compared_with_every_record_of_the_other_stage(tmp_path: Path) -> None:
    near = [TEXTS[0], TEXTS[0][6:], TEXTS[0][12:]]  # each is near the next, the first not near the last
    other = run_stage(Corpus, [put(tmp_path, "a.jsonl", [{"text": t} for t in near])], tmp_path / "a", dedup="none",
                      validation_fraction=0)  # fmt: skip
    made = run_against(Corpus, put(tmp_path, "b.jsonl", [{"text": near[1] + "春"}, {"text": TEXTS[1]}]), (other.out,),
                       tmp_path / "b")  # fmt: skip
    assert [row["duplicate_of"] for row in made.dropped] == ["a.jsonl#2"]


def test_splits_of_the_other_stage_change_nothing(tmp_path: Path, other: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "b.jsonl", [{"text": text} for text in TEXTS[5:15]])
    whole = run_against(Corpus, path, (other.out,), tmp_path / "b").files()
    monkeypatch.setattr(splits, "SPLIT_BYTES", 300)
    assert run_against(Corpus, path, (other.out,), tmp_path / "c").files() == whole


def test_a_stage_of_duplicates_alone_is_refused(tmp_path: Path, other: Made) -> None:
    path = put(tmp_path, "b.jsonl", [{"text": text} for text in TEXTS[:5]])
    with pytest.raises(UserError, match="dedup_against"):
        run_against(Corpus, path, (other.out,), tmp_path / "b")


def test_conversations_and_preferences_can_be_compared_with_another_stage(tmp_path: Path) -> None:
    chats = [{"instruction": f"第{n}问？", "output": TEXTS[n]} for n in range(4)]
    pairs = [{"prompt": f"第{n}问？", "chosen": TEXTS[n], "rejected": "不。"} for n in range(4)]
    for kind, rows in ((Conversations, chats), (Preferences, pairs)):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        other = run_stage(kind, [put(folder, "a.jsonl", rows[:2])], folder / "a", validation_fraction=0)
        made = run_against(kind, put(folder, "b.jsonl", rows), (other.out,), folder / "b")
        assert [row["duplicate_of"] for row in made.dropped] == ["a.jsonl#1", "a.jsonl#2"] and len(made.kept) == 2


def test_a_recipe_names_stages_of_the_same_type() -> None:
    from hanlin.config.recipe import build_recipe

    stages = {
        "web": {"kind": "corpus", "sources": "./a"},
        "books": {"kind": "corpus", "sources": "./b", "dedup_against": ["web"]},
    }
    recipe = build_recipe({"stages": stages}, "test")
    assert recipe.upstream(recipe.stages["books"]) == ["web"]
    stages["chats"] = {"kind": "conversations", "sources": "./c", "dedup_against": "web"}
    with pytest.raises(UserError, match="conversations is needed"):
        build_recipe({"stages": stages}, "test")


def test_a_band_sorted_in_partitions_gives_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    numbers = np.random.default_rng(3).integers(0, 40, size=(5, 200)).astype(np.uint64)
    active = np.arange(200) % 7 > 0

    def sets() -> set[tuple[int, ...]]:
        groups = cluster.find_candidates(numbers, active)
        return {tuple(group) for group in np.split(groups.members, groups.starts[1:])}

    whole = sets()
    expected = set()
    for band in numbers:
        for number in np.unique(band):
            members = tuple(np.flatnonzero((band == number) & active).tolist())
            expected |= {members} if len(members) > 1 else set()
    assert whole == expected
    monkeypatch.setattr(cluster, "_SORT_LIMIT", 30)
    assert sets() == expected


def test_blank_lines_in_what_is_compared_with_are_no_records(tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text(
        "".join(f"\n{json.dumps({'id': f'k{n}', 'text': text})}\n\n" for n, text in enumerate(TEXTS[:3])),
        encoding="utf-8",
    )
    made = run_against(
        Corpus, put(tmp_path, "b.jsonl", [{"text": TEXTS[2]}, {"text": TEXTS[5]}]), (known,), tmp_path / "b"
    )
    assert made.texts == [TEXTS[5]] and made.dropped[0]["duplicate_of"] == "k2"


@pytest.mark.parametrize(
    ("kind", "row"),
    [(Corpus, {"id": "a", "text": 5}), (Preferences, {"id": "a", "prompt": 5})],
)
def test_what_is_no_record_is_named_with_its_line(tmp_path: Path, kind: Any, row: dict[str, Any]) -> None:
    answers = {side: {"role": "assistant", "text": side} for side in ("chosen", "rejected")}
    row = {**row, **answers} if kind is Preferences else row
    known = put(tmp_path, "known.jsonl", [row])
    with pytest.raises(UserError) as error:
        run_against(
            kind, put(tmp_path, "b.jsonl", [{"text": TEXTS[5], "prompt": "问", **answers}]), (known,), tmp_path / "b"
        )
    assert str(error.value.where) == f"{known}:1"


def test_compressed_records_are_not_compared_with(tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl.gz"
    known.write_bytes(gzip.compress(json.dumps({"id": "a", "text": TEXTS[2]}).encode()))
    with pytest.raises(UserError, match="compressed") as error:
        run_against(Corpus, put(tmp_path, "b.jsonl", [{"text": TEXTS[2]}]), (known,), tmp_path / "b")
    assert error.value.where == str(known) and "unpack" in str(error.value.hint)
