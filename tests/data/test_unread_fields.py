"""No field of a row vanishes unnamed: what a record does not carry is counted, shown and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.config.settings.data import Corpus
from hanlin.data.formats.documents import ParsedText, read_document, read_titled_document
from hanlin.data.ledger import count_unread_fields, describe_unread_fields
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
TEXT = "江南的春天来得很早，河边的柳树在二月里就已经发了芽，孩子们放了学都爱到桥上去看船。"
LONG = "这一段摘要比元数据所能容纳的还要长一些。" * 20


def rows(count: int = 3) -> list[dict[str, Any]]:
    return [
        {"text": TEXT + str(n) * 5, "url": "https://a.example", "summary": LONG, "boxes": {"x": 1}}
        for n in range(count)
    ]


def test_the_ledger_and_the_metrics_count_unread_fields(put: Put, run: Callable[..., Made]) -> None:
    made = run(Corpus, put("a.jsonl", [*rows(), {"text": TEXT}, {"text": "", "summary": LONG}]))
    counts = {"boxes": 3, "summary": 3}
    assert made.ledger["unread_fields"] == made.ledger["files"][0]["unread_fields"] == counts
    assert made.metrics["unread_fields"] == counts
    assert all(row["meta"] == {"url": "https://a.example"} for row in made.kept[:3])


def test_inspect_and_convert_name_unread_fields(put: Put, tmp_path: Path) -> None:
    (row,) = inspect([str(put("a.jsonl", rows(2)))])
    assert row["unread_fields"] == {"boxes": 2, "summary": 2}
    shown = CliRunner().invoke(app, ["data", "inspect", str(put("a.jsonl", rows(2)))]).output
    assert "unread fields: boxes 2, summary 2" in shown


def test_fields_that_become_the_heading_are_read() -> None:
    (parsed,) = read_document({"title": LONG, "paragraphs": [TEXT], "summary": LONG})
    assert isinstance(parsed, ParsedText) and parsed.text == f"{LONG}\n{TEXT}" and parsed.unread == ("summary",)
    (parsed,) = read_titled_document({"title": LONG, "text": TEXT})
    assert isinstance(parsed, ParsedText) and parsed.text == f"{LONG}\n{TEXT}" and parsed.unread == ()


def test_the_largest_counts_come_first() -> None:
    assert describe_unread_fields({"lang": 3, "score": 5}) == "unread fields: score 5, lang 3"


def test_a_file_with_names_without_end_is_counted_in_bounded_memory() -> None:
    counts: Counter[str] = Counter()
    for n in range(1000):
        count_unread_fields(counts, [f"key{n}"])
    assert len(counts) <= 201 and counts.total() == 1000


def test_what_a_stage_wrote_has_no_unread_field(put: Put, run: Callable[..., Made]) -> None:
    first = run(Corpus, put("a.jsonl", rows()))
    assert run(Corpus, first.out).ledger["unread_fields"] == {}
