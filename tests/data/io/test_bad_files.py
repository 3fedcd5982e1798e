"""Bad files, one test for each kind: one clear sentence with the location, or a drop with its reason."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.data.io import json_rows, lines
from hanlin.data.io.encodings import detect_encoding
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.lines import Row
from hanlin.data.io.sources import SourceFile, list_files
from hanlin.data.ledger import Drop
from hanlin.data.report.inspect import inspect
from stage_runs import Made
from waiting import hang_limit

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
GOOD = '{"instruction": "你是谁？", "output": "我是小翰。"}\n'
CHINESE = "春天来了，院子里的花都开了。我们一起去看看吧，他说得对。\n"


def rows(path: Path, **source: Any) -> list[Row]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    layout = detect_layout(file)
    with InputFile(path) as input_file:
        return list(read_rows(file, layout, input_file))


def refusal(path: Path, **source: Any) -> str:
    with pytest.raises(UserError) as refused:
        rows(path, **source)
    return str(refused.value)


def test_a_truncated_gzip(put: Put, run: Run) -> None:
    path = put("a.jsonl.gz", gzip.compress(b"".join(os.urandom(20).hex().encode() for _ in range(9000)))[:-4000])
    assert "truncated" in refusal(path)
    with pytest.raises(UserError, match="truncated"):
        run(Corpus, path)


@hang_limit()
def test_one_line_of_200_megabytes_is_read_past(put: Put, run: Run) -> None:
    path = put("a.jsonl", GOOD)
    with path.open("ab") as file:
        file.write(b'{"instruction": "')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + GOOD.replace("谁", "什么").encode("utf-8"))
    with pytest.raises(UserError, match=r"too long to be a record \(2097\d+ bytes\)") as refused:
        run(Conversations, path)
    assert str(refused.value.where) == f"{path}:2"
    made = run(Conversations, path, on_error="drop", validation_fraction=0)
    assert made.ledger["rows_kept"] == 2 and made.ledger["dropped"] == {"line_too_long": 1}


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_overlong_lines_of_other_layouts_are_refused(put: Put, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from hanlin.data.io import tables

    for module in (lines, json_rows, tables):
        monkeypatch.setattr(module, "MAX_LINE_LENGTH", 2000)
    long = "x" * 3_000_000
    said = refusal(put(name, f"text\n{long}\n" if name.endswith("csv") else f'[{{"text": "{long}'))
    assert "more than 2000 characters" in said and f"{name}:" in said


def test_a_text_of_one_long_line_is_split_at_sentences(put: Put) -> None:
    text = CHINESE.strip() * 200_000
    parts = [row.value for row in rows(put("a.txt", text))]
    assert "".join(parts) == text and len(parts) > 1
    assert all(len(part) <= lines.MAX_DOCUMENT_CHARS and part.endswith("。") for part in parts)


def test_nul_bytes(put: Put) -> None:
    assert "NUL" in refusal(put("a.txt", b"\0" * 5000))
    assert "NUL" in refusal(put("b.txt", CHINESE.encode("utf-8") + b"\0" * 900))
    good, bad = rows(put("a.jsonl", GOOD.encode("utf-8") * 9 + b'{"instruction": "\0"}\n'))[-2:]
    assert isinstance(good.value, dict) and bad.value.reason == "broken_json"
    (row,) = rows(put("c.txt", CHINESE * 9 + "a\0b"))
    assert "\0" in row.value  # a single one is left to the rule `control_characters`


@pytest.mark.parametrize("opens", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [150, 900, 10_000, 100_000])
def test_json_nested_ten_thousand_deep(put: Put, run: Run, opens: str, depth: int) -> None:
    closes = {"[": "]", "{": "}"}
    count = depth // opens.count("[") if "[" in opens else depth
    ends = "".join(closes[char] for char in reversed(opens) if char in closes)
    deep = f'{{"instruction": "问", "output": {opens * count}1{ends * count}}}\n'
    made = run(Conversations, put("a.jsonl", GOOD + deep), on_error="drop", validation_fraction=0)
    assert made.ledger["dropped"] == {"broken_json": 1} and "nested too deeply" in made.dropped[0]["detail"]
    (row,) = inspect([str(put("b.json", f"[{deep}]"))])
    assert "nested too deeply" in row.get("error", "") or row["dropped"] == {"broken_json": 1}


@pytest.mark.parametrize(
    "parts",
    [
        ("utf-8", "gb18030"),
        ("gb18030", "utf-8"),
        ("utf-8", "gb18030", "utf-8", "gb18030"),
    ],
)
def test_mixed_encodings_in_one_file_name_a_line_of_each(put: Put, parts: tuple[str, ...]) -> None:
    path = put("a.txt", b"".join((CHINESE * 3).encode(part) for part in parts))
    with pytest.raises(UserError, match="mixed encodings") as refused:
        detect_encoding(path)
    other = 1 if parts[0] == "gb18030" else 4
    assert f"line {other} is GB18030" in refused.value.what and "encoding" in str(refused.value.hint)


def test_utf8_and_big5_in_one_file_are_told_apart(put: Put) -> None:
    traditional = "春天來了，院子裡的花都開了。我們一起去看看吧，他說得對。\n" * 3
    path = put("a.txt", traditional.encode("utf-8") + traditional.encode("big5"))
    with pytest.raises(UserError, match="line 1 is UTF-8, line 4 is Big5"):
        detect_encoding(path)


def test_of_mixed_encodings_one_can_be_named_and_the_other_lines_dropped(put: Put, run: Run) -> None:
    data = GOOD.encode("utf-8") + GOOD.replace("你", "他").encode("gb18030") * 2
    source = {"path": "./a.jsonl", "encoding": "utf-8"}
    made = run(
        Conversations, put("a.jsonl", data), source=source, on_error="drop", max_dropped=1, validation_fraction=0
    )
    assert made.ledger["rows_kept"] == 1 and made.ledger["dropped"] == {"undecodable": 2}


@pytest.mark.parametrize("data", ['text,n\n一,1\n二"",2\n"三,3\n四,4\n', 'text,n\n"一" x,1\n'])
def test_a_csv_with_a_lone_quote(put: Put, data: str) -> None:
    said = refusal(put("a.csv", data))
    assert "not CSV" in said and "a.csv:" in said and "hint" in said


def test_a_csv_with_two_columns_of_one_name(put: Put) -> None:
    assert "two columns are called 'text'" in refusal(put("a.csv", "text,text\n一,二\n"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_duplicate_keys(put: Put, run: Run, name: str) -> None:
    twice = '{"instruction": "问", "output": "好", "output": "坏"}'
    data = f"{GOOD}{twice}\n" if name == "a.jsonl" else f"[{GOOD},\n{twice}]"
    path = put(name, data)
    with pytest.raises(UserError, match="duplicate key 'output'") as refused:
        run(Conversations, path)
    assert str(refused.value.where).endswith((":2", ":3"))
    made = run(Conversations, path, on_error="drop", validation_fraction=0)
    assert made.ledger["rows_kept"] == 1 and made.dropped[0]["row"] == twice


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_not_json(put: Put, number: str) -> None:
    _, row = rows(put("a.jsonl", GOOD + f'{{"instruction": "问", "output": "答", "score": {number}}}\n'))
    assert row.value == Drop("broken_json", f"{number} is not JSON")


def test_a_number_out_of_range_is_not_json(put: Put) -> None:
    (row,) = rows(put("a.jsonl", '{"prompt": "问", "response": "答", "score": 1e999}\n'))
    assert row.value == Drop("broken_json", "the number 1e999 is too large")


def test_nan_in_the_arguments_of_a_call_breaks_the_call(put: Put, run: Run) -> None:
    turns = [
        {"from": "human", "value": "问"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": NaN}}'},
    ]
    (row,) = inspect([str(put("a.jsonl", [{"conversations": turns}]))])
    assert row["dropped"] == {"broken_tool_call": 1}


def test_nan_in_a_table_is_null(put: Put, run: Run) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = put("a.parquet", "")
    parquet.write_table(
        pyarrow.table({"prompt": ["问"], "response": ["答"], "score": [float("nan")], "raw": [b"\xff"]}), path
    )
    assert rows(path)[0].value == {"prompt": "问", "response": "答", "score": None, "raw": {"bytes": 1}}
    (row,) = inspect([str(path)])
    assert row["kept"] == 1


def test_a_directory_loop(put: Put) -> None:
    folder = put("a/b/c.txt", "x").parents[1]
    (folder / "b" / "loop").symlink_to(folder, target_is_directory=True)
    found = list_files([Source(path="./a")], Inputs({"sources.0.path": (folder,)}))
    assert [file.name for file in found.files] == ["c.txt"] and found.skipped == ("b/loop",)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (row, *_) = [row for row in inspect([str(folder)]) if row["path"].endswith("self.txt")]
    assert "cannot be read" in row["error"]


def test_a_glob_through_a_directory_loop_finds_each_file_once(put: Put) -> None:
    from hanlin.pipeline.inputs import expand_glob

    folder = put("a/b/c.txt", "x").parents[1]
    (folder / "b" / "loop").symlink_to(folder, target_is_directory=True)
    assert expand_glob(folder / "**" / "*.txt", "here") == (folder / "b" / "c.txt",)


@pytest.mark.parametrize("how", ["append", "replace", "delete"])
def test_a_file_that_changes_while_it_is_read(put: Put, run: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = put("a.jsonl", GOOD * 5000)

    def lines_that_change(self: InputFile, longest: int) -> Iterator[tuple[bytes, int, int]]:
        for number, line in enumerate(original(self, longest)):
            if number == 10:
                if how == "append":
                    with path.open("a", encoding="utf-8") as file:
                        file.write(GOOD)
                elif how == "replace":
                    path.with_suffix(".new").write_text(GOOD, encoding="utf-8")
                    os.replace(path.with_suffix(".new"), path)
                else:
                    path.unlink()
            yield line

    original = InputFile._read_lines
    monkeypatch.setattr(InputFile, "_read_lines", lines_that_change)
    with pytest.raises(UserError, match="changed while it was read"):
        run(Conversations, path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (row,) = inspect([str(tmp_path)])
    assert "not a regular file" in row["error"]


def test_a_file_without_permission_is_refused(put: Put) -> None:
    path = put("a.jsonl", GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("name", ["base64", "undefined", "rot13", "klingon", "utf-16"])
def test_an_unknown_encoding_is_refused(put: Put, name: str) -> None:
    assert "utf-16" in refusal(put("a.txt", CHINESE.encode("gbk")), encoding=name)


def test_utf_16_without_a_mark_gets_its_byte_order(put: Put) -> None:
    (row,) = rows(put("a.txt", (CHINESE * 9).encode("utf-16-be")), encoding="utf-16")
    assert row.value == (CHINESE * 9).rstrip("\n")
