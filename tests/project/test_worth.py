"""The ablation of continued pre-training counts the time of training alone, and its tables say what was not run."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.evaluate import Perplexity
from hanlin.core.context import Inputs, StageContext
from hanlin.evaluate import perplexity

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
worth, worth_cells, worth_pictures, worth_table = (
    importlib.import_module(name) for name in ("worth", "worth_cells", "worth_pictures", "worth_table")
)

SNIPPETS = {"modern": ["甲" * 10, "乙" * 20], "classical": ["丙" * 10], "dialogue": ["丁" * 10], "english": ["a" * 40]}
NAMES = [cell.name for cell in worth_cells.CELLS]


def row(cell: str, at: float, bits: float, **more: Any) -> dict[str, Any]:
    """A measurement that needs so many bits per character of everything."""
    nats = {
        kind: [bits * len(text) * math.log(2) for text in texts] for kind, texts in SNIPPETS.items()
    }  # fmt: skip
    head = {"cell": cell, "at": at, "entries": 8000, "init": "mean", "birth_seconds": 70.0, "processor_seconds": at}
    return {**head, "steps": 10, "tokens": 10240, "nats": nats, **more}


ROWS = [
    row("center", 0, 9.0),
    row("center", 60, 8.5),
    row("center", 120, 8.0),
    row("entries 0", 0, 7.0, entries=0),
    row("entries 0", 60, 6.5, entries=0),
    row("entries 0", 120, 6.0, entries=0),
    row("TRL", 60, 6.8, entries=0),
    row("LLaMA-Factory", 60, 6.9, entries=0),
    row("LLaMA-Factory", 120, 5.8, entries=0),
    row("two stages", 60, 8.7),
]


def test_gains_are_counted_by_the_hour_of_processor_time_since_the_base_and_since_birth() -> None:
    center, ungrown, unfinished = worth_table.summarize(ROWS, NAMES, SNIPPETS)["cells"]
    assert center["gained_since_base"]["modern"] == pytest.approx((7.0 - 8.0) * 30)
    assert center["gained_since_birth"]["modern"] == pytest.approx((9.0 - 8.0) * 30)
    assert center["english_lost_since_base"] == pytest.approx((8.0 - 7.0) * 30)
    assert ungrown["fewer_than_center"]["modern"] == pytest.approx((2.0, 2.0, 2.0))
    assert not unfinished["finished"] and "fewer_than_center" not in unfinished


def test_the_tables_say_what_was_not_run_to_the_end() -> None:
    tables = worth_table.write_tables(worth_table.summarize(ROWS, NAMES, SNIPPETS), "en")
    assert "two stages (at 60 s)" in tables["bits"]
    assert tables["not_run"].startswith("Not run to the end: TRL, entries 1000, two stages,")


def test_a_page_before_any_run_says_so_and_names_no_picture() -> None:
    tables = worth_table.write_tables(worth_table.summarize([], NAMES, SNIPPETS), "en")
    assert tables["bits"] == tables["worth"] == tables["peers"] == "Not measured yet."
    assert all(name in tables["not_run"] for name in NAMES)


def test_births_are_listed_by_entries_and_the_last_measurement_counts() -> None:
    births = [
        {"entries": entries, "characters_per_token": 0.5, "bits_per_character": bits}
        for entries, bits in ((500, 11.0), (0, 7.5), (500, 10.5))
    ]
    rows = worth_table.write_births(births, "zh").splitlines()[2:]
    assert rows == ["| 0 | 0.50 | 7.50 |", "| 500 | 0.50 | 10.50 |"]


def test_hanlin_is_compared_with_each_peer_at_the_marks_that_both_reached() -> None:
    result = worth_table.summarize(ROWS, NAMES, SNIPPETS)
    half, end = result["peers"]
    assert {name: side.get("fewer", {}).get("modern", [0])[0] for name, side in half["sides"].items()} == {
        "Hanlin": 0,
        "TRL": pytest.approx(0.3),
        "LLaMA-Factory": pytest.approx(0.4),
    }
    assert list(end["sides"]) == ["Hanlin", "LLaMA-Factory"]
    assert "\n| 120 | LLaMA-Factory | 10,240 | 5.80 | -0.20 (" in worth_table.write_tables(result, "en")["peers"]


def test_both_languages_of_a_page_get_the_same_figures(tmp_path: Path) -> None:
    result = worth_table.summarize(ROWS, NAMES, SNIPPETS)
    lines = {}
    for language in ("en", "zh"):
        page = tmp_path / f"{language}.md"
        page.write_text("above\n\n<!-- worth: worth -->\n\nold\n\n<!-- /worth -->\n\nbelow\n", encoding="utf-8")
        worth_table.fill_page(page, worth_table.write_tables(result, language))
        text = page.read_text(encoding="utf-8")
        assert text.startswith("above") and text.endswith("below\n") and "old" not in text
        lines[language] = [line.split("|")[2:] for line in text.splitlines() if line.startswith("| ")][1:]
    assert lines["en"] == lines["zh"] and len(lines["en"]) == 4


def test_pictures_show_every_cell_and_every_peer(tmp_path: Path) -> None:
    result = worth_table.summarize(ROWS, NAMES, SNIPPETS)
    worth_pictures.draw_cells(result, tmp_path / "cells.svg")
    worth_pictures.draw_peers(result, tmp_path / "peers.svg")
    assert "two stages · 两阶段" in (tmp_path / "cells.svg").read_text(encoding="utf-8")
    peers = (tmp_path / "peers.svg").read_text(encoding="utf-8")
    assert ">TRL<" in peers and ">LLaMA-Factory<" in peers


def test_measuring_is_not_counted_and_agrees_with_the_perplexity_of_the_saved_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    texts = [f"院子里开了第{index}朵花，图书馆在城东。" for index in range(200)]
    lines = [json.dumps({"id": str(index), "text": text}, ensure_ascii=False) for index, text in enumerate(texts)]
    (data / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(worth, "ROW", 128)
    ticks = count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(ticks)))  # every look at the clock is a second later
    rows: list[dict[str, Any]] = []
    snippets = {"modern": ["春天的时候院子里开满了花。", "三加四等于七。"], "english": ["Three plus four is seven."]}
    cell = worth_cells.Cell("entries 0", entries=0)
    out = tmp_path / "out"
    before: dict[str, Any] = {"processor_seconds": 0.0, "steps": 0, "tokens": 0}
    worth.train(cell, tiny_model, data, out, snippets, [0.0, 3.0, 6.0], False, rows.append, before)
    assert [(row["at"], row["processor_seconds"]) for row in rows] == [(0.0, 1.0), (3.0, 4.0), (6.0, 7.0)]
    assert 0.9 < rows[-1]["tokens"] / (1024 * rows[-1]["steps"]) <= 1  # rows are not full to the last token

    held_out = tmp_path / "held_out.jsonl"
    flat = [text for texts in snippets.values() for text in texts]
    held_out.write_text(
        "\n".join(json.dumps({"id": str(index), "text": text}) for index, text in enumerate(flat)), encoding="utf-8"
    )
    scored = tmp_path / "scored"
    scored.mkdir()
    metrics = perplexity.run(
        Perplexity(model="./m", data="./d"), Inputs({"model": (out,), "data": (held_out,)}), scored, StageContext()
    )
    nats = sum(value for values in rows[-1]["nats"].values() for value in values)
    assert nats == pytest.approx(metrics["nats_per_token"] * metrics["tokens"], rel=0.02)  # trained in bfloat16
