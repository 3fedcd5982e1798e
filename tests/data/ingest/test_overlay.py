"""An overlay corrects single records: it is applied, counted, part of the key, and nothing in it is ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.recipe_file import read_recipe
from hanlin.config.settings.data import Conversations, Corpus, Preferences, Reading, UnpairedPreferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.data.ingest import shards, splits
from hanlin.data.overlay import Overlay, OverlayEntry, hash_content
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from stage_runs import STAGES, Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
CHATS = [{"instruction": f"第{n}个问题是什么？", "output": f"第{n}个回答在这里。"} for n in range(8)]


def run_with(kind: type[Reading], source: Path, overlay: Path, out: Path, **settings: Any) -> Made:
    """Run a stage on a file and an overlay, as the worker does."""
    checked = kind(sources=[f"./{source.name}"], overlay="./overlay.jsonl", **settings)
    inputs = Inputs({"sources.0.path": (source,), "overlay": (overlay,)})
    out.mkdir()
    return Made(out, STAGES[kind][0].run(checked, inputs, out, StageContext()))


def entry_of(record: dict[str, Any], action: Any, **fields: Any) -> OverlayEntry:
    return OverlayEntry(record["id"], hash_content(record), action, **fields)


def turns(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]}


def test_rows_are_dropped_fixed_and_annotated_and_the_ledger_counts_it(put: Put, run: Run, tmp_path: Path) -> None:
    source = put("chats.jsonl", CHATS)
    before = run(Conversations, source, validation_fraction=0).kept
    overlay = tmp_path / "overlay.jsonl"
    Overlay(
        (
            entry_of(before[1], "drop", note="an advertisement"),
            entry_of(before[2], "fix", row=turns("改过的问题？", "改过的回答。")),
            entry_of(before[3], "note", note="ask the author"),
        )
    ).write(overlay)
    made = run_with(Conversations, source, overlay, tmp_path / "made", validation_fraction=0)
    assert [row["id"] for row in made.kept] == [row["id"] for row in before if row is not before[1]]
    by_id = {row["id"]: row for row in made.kept}
    assert by_id[before[2]["id"]]["messages"] == turns("改过的问题？", "改过的回答。")["messages"]
    assert by_id[before[2]["id"]]["source"] == before[2]["source"]
    assert by_id[before[3]["id"]]["meta"]["note"] == "ask the author"
    assert by_id[before[3]["id"]]["messages"] == before[3]["messages"]
    assert made.ledger["dropped"] == {"overlay": 1}
    assert made.ledger["changed"] == {"overlay": 1, "overlay_note": 1}
    assert made.dropped[0]["detail"] == "an advertisement"
    assert source.read_text(encoding="utf-8").splitlines() == [json.dumps(r, ensure_ascii=False) for r in CHATS]


def test_an_entry_still_fits_when_rows_are_added_before_its_record(put: Put, run: Run, tmp_path: Path) -> None:
    first = run(Conversations, put("chats.jsonl", CHATS), validation_fraction=0).kept[5]
    overlay = tmp_path / "overlay.jsonl"
    Overlay((entry_of(first, "drop"),)).write(overlay)
    more = put("chats.jsonl", [{"instruction": "新的问题？", "output": "新的回答。"}, *CHATS])
    made = run_with(Conversations, more, overlay, tmp_path / "made", validation_fraction=0)
    assert made.dropped[0]["location"] == "chats.jsonl:7"


def test_an_overlay_applies_in_every_part_of_a_divided_file(
    put: Put, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SPLIT_BYTES", 400)
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    source = put("text.jsonl", [{"text": f"第{n}段文字，说的是春天的花园和图书馆。"} for n in range(30)])
    before = run(Corpus, source, validation_fraction=0, dedup="exact").kept
    overlay = tmp_path / "overlay.jsonl"
    chosen = before[3::7]
    Overlay(tuple(entry_of(row, "drop") for row in chosen)).write(overlay)
    made = run_with(Corpus, source, overlay, tmp_path / "made", validation_fraction=0, dedup="exact")
    assert [row["id"] for row in made.kept] == [row["id"] for row in before if row not in chosen]


def test_an_entry_about_no_record_ends_the_run_and_names_it(put: Put, run: Run, tmp_path: Path) -> None:
    source = put("chats.jsonl", CHATS)
    row = run(Conversations, source, validation_fraction=0).kept[0]
    overlay = tmp_path / "overlay.jsonl"
    Overlay((entry_of({**row, "id": "chats.jsonl#99", "messages": []}, "drop"), entry_of(row, "drop"))).write(overlay)
    with pytest.raises(UserError, match=r"1 of 2 corrections are about records .*'chats.jsonl#99'"):
        run_with(Conversations, source, overlay, tmp_path / "made", validation_fraction=0)
    assert not (tmp_path / "made" / "conversations.jsonl").exists()


def test_pairs_and_labeled_answers_are_fixed_too(put: Put, run: Run, tmp_path: Path) -> None:
    pairs = [{"prompt": f"第{n}问？", "chosen": f"好的回答{n}。", "rejected": f"坏的回答{n}。"} for n in range(3)]
    labeled = [{"prompt": f"第{n}问？", "completion": f"回答{n}。", "label": True} for n in range(3)]
    cases: list[tuple[type[Reading], list[dict[str, Any]], dict[str, Any]]] = [
        (Preferences, pairs, {"rejected": {"role": "assistant", "text": "另一个回答。"}}),
        (UnpairedPreferences, labeled, {"good": False}),
    ]
    for kind, rows, change in cases:
        source = put(f"{kind.__name__}.jsonl", rows)
        before = run(kind, source).kept[1]
        content = {name: value for name, value in before.items() if name not in ("id", "source", "meta")}
        overlay = tmp_path / "overlay.jsonl"
        Overlay((entry_of(before, "fix", row={**content, **change}),)).write(overlay)
        made = run_with(kind, source, overlay, tmp_path / kind.__name__)
        assert made.kept[1] == {**before, **change}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"id": "a#1", "sha256": "HASH", "action": "drip"}', "there is no action 'drip'"),
        ('{"id": "a#1", "sha256": "HASH", "action": "drop", "nod": "x"}', "an entry of an overlay has no 'nod'"),
        ('{"id": "a#1", "sha256": "12", "action": "drop"}', "sha256 is not a hash"),
        ('{"sha256": "HASH", "action": "drop"}', "id is missing"),
        ('{"id": "a#1", "sha256": "HASH", "action": "fix"}', "a fix has a `row`"),
        ('{"id": "a#1", "sha256": "HASH", "action": "note", "note": " "}', "the note is empty"),
        ('{"id": "a#1", "sha256": "HASH", "action": "drop", "note": 5}', "`note` is a text"),
        ('{"id": "a#1", "sha256": "HASH", "action": "drop"}\n' * 2, "line 1 is about the same record"),
    ],
)
def test_a_line_that_is_no_entry_is_told_with_its_place(line: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "overlay.jsonl"
    file.write_text(line.replace("HASH", "0" * 32), encoding="utf-8")
    with pytest.raises(UserError, match=problem) as told:
        Overlay.read(file)
    assert str(told.value.where).startswith(f"{file}:")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": "hi"}, "messages is of another type"),
        ({"messages": [{"role": "user", "text": "问"}]}, "it has no answer"),
        ({"messages": [{"role": "robot", "text": "问"}]}, "there is no role 'robot'"),
        ({"messages": [{"role": "user"}]}, "messages.0.text is missing"),
        ({"messages": [{"role": "user", "text": 5}]}, "messages.0.text is of another type"),
        ({"messages": [{"role": "user", "text": "问"}, {"role": "user", "text": "问"}]}, "turns are not in order"),
        ({"messages": [{"role": "user", "text": "问"}, {"role": "assistant", "text": " "}]}, "a turn is empty"),
        ({"messages": [], "extra": 1}, "it has no field 'extra'"),
        ({"tools": []}, "messages is missing"),
    ],
)
def test_a_fix_that_cannot_be_trained_on_is_refused(
    row: dict[str, Any], problem: str, put: Put, run: Run, tmp_path: Path
) -> None:
    source = put("chats.jsonl", CHATS[:1])
    before = run(Conversations, source, validation_fraction=0).kept[0]
    overlay = tmp_path / "overlay.jsonl"
    Overlay((entry_of(before, "fix", row=row),)).write(overlay)
    with pytest.raises(UserError, match=problem):
        run_with(Conversations, source, overlay, tmp_path / "made", validation_fraction=0)


def test_the_overlay_is_part_of_the_key_and_its_absence_changes_none(put: Put, tmp_path: Path) -> None:
    put("chats.jsonl", CHATS)
    overlay = tmp_path / "overlay.jsonl"
    recipe = tmp_path / "r.yaml"
    text = "root: {root}\nstages:\n  chats: {{kind: conversations, sources: [./sources/chats.jsonl]{more}}}\n"

    def key(more: str = "") -> str:
        recipe.write_text(text.format(root=tmp_path, more=more), encoding="utf-8")
        return plan(read_recipe(recipe), Store(tmp_path / "home"))[0].key

    Overlay((OverlayEntry("a#1", "0" * 32, "drop"),)).write(overlay)
    plain, first = key(), key(", overlay: ./overlay.jsonl")
    Overlay((OverlayEntry("a#1", "1" * 32, "drop"),)).write(overlay)
    second = key(", overlay: ./overlay.jsonl")
    assert len({plain, first, second}) == 3


def test_a_record_is_found_again_in_an_artifact_that_was_made_with_its_fix() -> None:
    row = {"id": "a#1", **turns("问？", "旧。")}
    fixed = turns("问？", "新。")
    overlay = Overlay((entry_of(row, "fix", row=fixed),))
    assert overlay.find(row) is overlay.find({"id": "a#1", "meta": {"note": ""}, **fixed}) is overlay.entries[0]
    assert overlay.find({"id": "a#1", **turns("问？", "另。")}) is None
    again = OverlayEntry("a#1", hash_content(row), "drop")
    assert overlay.with_entry(again).entries == (again,)
    assert overlay.without_entry(again.sha256).entries == ()
