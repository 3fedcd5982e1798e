"""Layouts of rows: JSON of four kinds, CSV, Parquet, Arrow, and plain text of three kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import format_samples
from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.data.io import lines
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.json_rows import read_json_rows
from hanlin.data.io.layout import detect_layout, detect_text_container, read_rows
from hanlin.data.io.lines import Row
from hanlin.data.io.sources import SourceFile, list_files
from hanlin.data.ledger import Drop

Put = Callable[[str, Any], Path]


def read(path: Path, **source: Any) -> tuple[str, list[Row]]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    layout = detect_layout(file)
    with InputFile(path) as input_file:
        return layout.container, list(read_rows(file, layout, input_file))


ROWS = [{"text": "一"}, {"text": "二\n行", "n": 2}, {"text": "三"}]


@pytest.mark.parametrize(
    ("name", "data", "container"),
    [
        ("a.jsonl", "\n".join(json.dumps(row) for row in ROWS), "jsonl"),
        ("a.jsonl", "\ufeff" + "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n", "jsonl"),
        ("a.json", "\n".join(json.dumps(row) for row in ROWS), "jsonl"),
        ("a.json", json.dumps(ROWS, indent=1, ensure_ascii=False), "json_list"),
        ("a.json", json.dumps(ROWS), "json_list"),
        ("a.jsonl", json.dumps(ROWS, indent=1), "json_list"),
        ("a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS), "json_objects"),
        ("a.json", "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n", "json_list"),
        ("a.txt", json.dumps(ROWS), "json_list"),
        ("a", "\n".join(json.dumps(row) for row in ROWS), "jsonl"),
    ],
)
def test_json_is_read_in_every_layout_it_comes_in(put: Put, name: str, data: str, container: str) -> None:
    found, rows = read(put(name, data))
    assert found == container
    assert [row.value for row in rows] == ROWS


def test_rows_have_their_line_number(put: Put) -> None:
    _, rows = read(put("a.json", json.dumps(ROWS, indent=1)))
    assert [row.line for row in rows] == [2, 5, 9]
    _, rows = read(put("a.jsonl", '{"a": 1}\n\n{"a": 2}\n'))
    assert [row.line for row in rows] == [1, 3]


@given(rows=st.lists(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5), min_size=1))
@pytest.mark.parametrize("piece", [1, 3, 50])
def test_a_json_list_in_chunks_is_the_list(piece: int, rows: list[Any]) -> None:
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    pieces = iter([text[start : start + piece] for start in range(0, len(text), piece)])
    assert [row.value for row in read_json_rows(Path("x"), pieces, is_list=True)] == rows


@pytest.mark.parametrize("indent", [None, 1])
def test_splits_in_one_object_are_read_one_after_another(put: Put, indent: int | None) -> None:
    data = {"train": ROWS[:2], "valid": [], "test": ROWS[2:]}
    container, rows = read(put("a.json", json.dumps(data, indent=indent)))
    assert container == "json_splits" and [row.value for row in rows] == ROWS


@pytest.mark.parametrize("indent", [None, 1])
def test_splits_behind_fields_about_the_file_are_all_read(put: Put, indent: int | None) -> None:
    data = {"version": 2, "train": ROWS[:2], "note": "x", "dev": ROWS[2:]}
    container, rows = read(put("a.json", json.dumps(data, indent=indent)))
    assert container == "json_splits" and [row.value for row in rows] == ROWS


@pytest.mark.parametrize("tail", ["", "]", "],", '], "test": {}}', ']} {"a": 1}', '], "train": []}'])
def test_broken_splits_are_refused(put: Put, tail: str) -> None:
    with pytest.raises(UserError, match="not JSON"):
        read(put("a.json", '{"train": [{"a": 1}' + tail))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('[\n{"a": 1},\n{"a": 2,,}\n]', 3),
        ('[\n{"a": 1}\n{"a": 2}\n]', 3),
        ('[\n{"a": 1},\n{"a": 2}', 3),
        ('[\n{"a": 1},\n{"a": "x', 3),
        ('[\n{"a": 1},\n{"a": 2}]\n{"b": 1}', 4),
        ('{\n"a": 1\n}\n{\n"a" 2\n}', 5),
    ],
)
def test_broken_json_names_its_line(put: Put, data: str, line: int) -> None:
    path = put("a.json", data)
    with pytest.raises(UserError, match="not JSON") as refusal:
        read(path)
    assert refusal.value.where == f"{path}:{line}"


def test_a_broken_line_of_json_lines_is_a_drop_with_its_text(put: Put) -> None:
    _, rows = read(put("a.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n'))
    assert [row.value for row in rows[::2]] == [{"a": 1}, {"a": 3}]
    assert isinstance(rows[1].value, Drop) and rows[1].value.reason == "broken_json" and rows[1].raw == '{"a": '


def test_a_first_line_that_is_broken_does_not_hide_json_lines(put: Put) -> None:
    container, rows = read(put("a.jsonl", '{"a" 1}\n{"a": 2}\n{"a": 3}\n'))
    assert container == "jsonl" and [row.value for row in rows[1:]] == [{"a": 2}, {"a": 3}]


def test_an_undecodable_line_is_a_drop_with_its_byte(put: Put) -> None:
    good = '{"text": "春天的花"}\n'.encode()
    _, rows = read(put("a.jsonl", good * 3 + b'{"text": "\xff"}\n' + good))
    assert rows[3].value == Drop("undecodable", f"byte {3 * len(good) + 10}")
    assert len(rows) == 5


def test_deeply_nested_json_is_a_broken_line(put: Put) -> None:
    _, rows = read(put("a.jsonl", '{"a": 1}\n' + "[" * 100_000 + "\n"))
    assert rows[1].value.reason == "broken_json"


def test_csv_keeps_line_ends_in_quotes_and_counts_lines(put: Put) -> None:
    container, rows = read(put("a.csv", 'text,n\r\n"一\r\n二",1\r\n三,2\r\n'))
    assert container == "csv"
    assert rows == [Row(2, {"text": "一\n二", "n": "1"}), Row(4, {"text": "三", "n": "2"})]


def test_a_csv_row_with_other_columns_is_a_drop(put: Put) -> None:
    _, rows = read(put("a.csv", "a,b\n1,2\n1,2,3\n"))
    assert rows[1].value == Drop("broken_csv", "3 columns instead of 2")


def test_csv_with_an_open_quote_is_refused(put: Put) -> None:
    with pytest.raises(UserError, match="not CSV"):
        read(put("a.csv", 'a,b\n1,2\n"1,2\n'))


def test_parquet_is_read(put: Put) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = put("a.parquet", "")
    parquet.write_table(pyarrow.table({"prompt": ["问", "再问"], "response": ["答", None]}), path)
    assert read(path) == (
        "parquet",
        [Row(1, {"prompt": "问", "response": "答"}), Row(2, {"prompt": "再问", "response": None})],
    )


@pytest.mark.parametrize("kind", ["arrow", "feather"])
def test_arrow_is_read_as_a_stream_and_for_random_access(put: Put, kind: str) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"prompt": f"问{n}", "turns": [{"role": "user", "content": None}]} for n in range(3)]
    path = put(f"a.{kind}", format_samples.table(kind, rows))
    assert read(path) == ("arrow", [Row(n + 1, row) for n, row in enumerate(rows)])
    with pytest.raises(UserError, match="not Arrow"):
        read(put(f"b.{kind}", path.read_bytes()[:-200]))


def test_a_folder_that_datasets_saved_is_read(put: Put) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"text": f"第{n}篇"} for n in range(5)]
    folder = put("saved/data-00000-of-00001.arrow", format_samples.table("arrow", rows)).parent
    put("saved/state.json", '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    put("saved/dataset_info.json", '{"features": {}}')
    found = list_files([Source(path="./saved")], Inputs({"sources.0.path": (folder,)}))
    assert [row.value for file in found.files for row in read(file.path)[1]] == rows
    assert set(found.skipped) == {"dataset_info.json", "state.json"}


def test_a_broken_parquet_file_is_refused(put: Put) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="not Parquet"):
        read(put("a.parquet", b"PAR1 but no table"))


PASSAGE = "春天的时候院子里开满了花，学士们坐在树下读书，谈论古今的文章。" * 5


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("一行\n", "text"),
        ("<!DOCTYPE html>\n<html>\n<body>\n\n<p>春天</p>\n\n</body></html>", "text"),
        ("\n\n".join(f"{n}{PASSAGE}" for n in range(9)), "text_blocks"),
        ("\n\n".join(f"{n}{PASSAGE}\n{PASSAGE}" for n in range(9)), "text_blocks"),
        ("\n".join(f"{n}{PASSAGE}" for n in range(9)), "text_lines"),
        ("\n".join(f"第{n}句话很短。" for n in range(99)), "text"),
        ("\n\n".join(f"甲：第{n}句台词。" for n in range(99)), "text"),
        ("\n".join(["第一章 春", *[PASSAGE] * 9, "第二章 夏", *[PASSAGE] * 9]), "text"),
        ("\n\n".join(["第一章 春", *[PASSAGE] * 9, "第二章 夏", *[PASSAGE] * 9]), "text"),
        ("\n\n".join(f"第{n}回\n{PASSAGE}\n{PASSAGE}" for n in range(1, 9)), "text_blocks"),
        (
            "\n\n".join("\n".join(["so on the line goes without ever coming to its end, and"] * 9) for _ in "abcd"),
            "text",
        ),
    ],
)
def test_the_layout_of_plain_text_follows_from_the_length_of_its_blocks(text: str, layout: str) -> None:
    assert detect_text_container(text, ".txt") == layout


def test_markdown_is_one_document(put: Put) -> None:
    container, rows = read(put("a.md", "\n\n".join([PASSAGE] * 4)))
    assert container == "text" and len(rows) == 1


def test_the_setting_overrides_what_text_looks_like(put: Put) -> None:
    path = put("a.txt", "一\n二\n\n三\r\n")
    assert [row.value for row in read(path, format="text_lines")[1]] == ["一", "二", "三"]
    assert [row.value for row in read(path, format="text_blocks")[1]] == ["一\n二", "三"]
    assert [(row.line, row.value) for row in read(path, format="text")[1]] == [(1, "一\n二\n\n三")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_are_normalized(put: Put, end: str) -> None:
    assert [row.value for row in read(put("a.txt", f"一{end}二{end}"))[1]] == ["一\n二"]


def test_a_unicode_line_separator_does_not_end_a_line_of_json(put: Put) -> None:
    _, rows = read(put("a.jsonl", '{"text": "一\u2028二\x85三"}\n'))
    assert [row.value for row in rows] == [{"text": "一\u2028二\x85三"}]


def test_a_very_long_text_is_split_without_loss(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_DOCUMENT_CHARS", 50)
    said = [f"第{n}句话不长也不短。" for n in range(40)]
    _, rows = read(put("a.txt", "\n".join(said)))
    assert len(rows) > 5
    assert "\n".join(row.value for row in rows) == "\n".join(said)


def test_python_lists_in_lines_are_rows_with_numbered_values(put: Put) -> None:
    container, rows = read(put("a.txt", "['http://x', '一行字', 8]\n['http://y', '又一行', 2]\n"))
    assert container == "literals"
    assert [row.value for row in rows] == [
        {"1": "http://x", "2": "一行字", "3": 8},
        {"1": "http://y", "2": "又一行", "3": 2},
    ]
