"""Tables and JSON in the shapes that people export: read, or named for what they are with the way out."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.data.formats.convert import convert
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, is_splittable, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
ROWS = [{"question": "几点开门？", "answer": "九点。"}, {"question": "周一开吗？", "answer": "不开。"}]


def read(path: Path, **source: Any) -> tuple[str, list[Any]]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    layout = detect_layout(file)
    with InputFile(path) as input_file:
        return layout.container, [row.value for row in read_rows(file, layout, input_file)]


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as refused:
        read(path)
    return refused.value


# ---------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_tables_are_read_whatever_separates_their_columns(put: Put, name: str, mark: str, encoding: str) -> None:
    lines = [
        "问题;回答",
        "图书馆开门的时间是？;九点。",
        '"要带的东西\n有什么？";"借书证，\n还有身份证。"',
        "怎么办证？;去服务台办。",
    ]
    container, rows = read(put(name, "\r\n".join(lines).replace(";", mark).encode(encoding)))
    assert container in ("csv", "tsv")
    assert rows[0] == {"问题": "图书馆开门的时间是？", "回答": "九点。"}
    assert rows[1] == {"问题": "要带的东西\n有什么？", "回答": "借书证，\n还有身份证。"} and len(rows) == 3


def test_a_table_of_one_column_stays_one(put: Put) -> None:
    assert read(put("a.csv", "text\n甲；乙\n丙\n"))[1] == [{"text": "甲；乙"}, {"text": "丙"}]


@pytest.mark.parametrize(
    "text",
    [
        "Good evening.\t晚上好。\nSee you.\t再见。\nThanks a lot.\t多谢。\n",
        "一共有几个梨？\t3\n还剩几个桃？\t12\n谁拿走了苹果？\t小明\n",
        "体育\t球队昨晚赢了比赛，球迷们很高兴。\n财经\t股市今天收盘上涨。\n教育\t学校下周开学。\n",
    ],
)
@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
def test_a_table_without_heading_says_so_and_is_read_by_numbers(
    put: Put, run: Callable[..., Made], name: str, text: str
) -> None:
    path = put(name, text)
    (found,) = inspect([str(path)])
    assert "the first row looks like data, not like a heading" in found["error"] and "'2'" in found["error"]
    made = run(Conversations, path, source={"fields": {"prompt": "1", "response": "2"}}, validation_fraction=0)
    assert made.ledger["rows_in"] == 3 and made.kept[0]["messages"][0]["text"] == text.partition("\t")[0]
    assert made.kept[0]["source"].endswith(":1")


def test_a_column_of_sentences_without_heading_is_read_whole(put: Put) -> None:
    lines = ["如果中學畢業之後去讀書就要繼續修讀這一門課", "我哋聽日先至決定去邊度食飯同埋睇戲好唔好呀"]
    assert read(put("a.csv", "\n".join(lines) + "\n"))[1] == [{"1": line} for line in lines]


def test_numbers_as_fields_say_that_there_is_no_heading(put: Put) -> None:
    _, rows = read(put("a.csv", "你好,您好\n再会,再见\n"), fields={"prompt": "1", "response": "2"})
    assert rows == [{"1": "你好", "2": "您好"}, {"1": "再会", "2": "再见"}]


def test_an_exam_without_heading_is_named_an_exam(put: Put) -> None:
    rows = "What is a pear?,a fruit,a stone,a metal,a paper,A\nWhat is iron?,a fruit,a stone,a metal,a paper,C\n"
    (found,) = inspect([str(put("a.csv", rows))])
    assert "questions of an exam" in found["error"]


def test_prose_with_tabs_and_commas_is_prose(put: Put) -> None:
    text = "\t从前有座山，山里有座庙。\n\t庙里有个老和尚，正在讲故事。\n\t讲的是什么，谁也没有听清。\n"
    assert read(put("a.txt", text))[0] == "text"
    assert read(put("b.txt", "一，二\n三，四\n五，六\n"))[0] == "text"
    assert read(put("c.txt", "one, two\nthree, four\nfive, six\n"))[0] == "text"


# ---------------------------------------------------------------------------------------------------------- binary


def make_zip(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return data.getvalue()


def make_tar(mode: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("a.jsonl"))
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.xlsx", make_zip("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook"),
        ("a.csv", make_zip("xl/workbook.xml"), "Excel workbook"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "Excel workbook"),
        ("a.docx", make_zip("word/document.xml"), "word processor"),
        ("a.zip", make_zip("a.jsonl", "b.jsonl"), "archive"),
        ("a.jsonl", make_zip("a.jsonl"), "archive"),
        ("a.tar", make_tar("w"), "archive"),
        ("a.tar.gz", make_tar("w:gz"), "archive"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0\4", "archive"),
        ("a.pdf", b"%PDF-1.7\n", "PDF"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",  # archives hold the time at which they are made
)
def test_workbooks_and_archives_are_named_with_the_way_out(put: Put, name: str, data: bytes, what: str) -> None:
    error = refusal(put(name, data))
    assert what in str(error) and error.hint


# ------------------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_a_comma_after_each_line_loses_no_row(put: Put, name: str) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "," * (row is not ROWS[-1]) + "\n" for row in ROWS)
    assert read(put(name, text))[1] == ROWS
    assert read(put("b.jsonl", text.replace("}\n", "},\n")))[1] == ROWS


def test_commas_before_closing_brackets_lose_no_row(put: Put) -> None:
    assert read(put("a.jsonl", '{"a": "x, }", "b": [1, 2,],}\n'))[1] == [{"a": "x, }", "b": [1, 2]}]
    assert read(put("a.json", '[\n{"a": 1},\n{"a": 2},\n]'))[1] == [{"a": 1}, {"a": 2}]
    assert read(put("b.json", '[\n{"a": 1,},\n{"a": [2, ], },\n]'))[1] == [{"a": 1}, {"a": [2]}]
    rows = [{"a": "，} " * 40, "b": number} for number in range(20_000)]
    text = ",\n".join(json.dumps(row, ensure_ascii=False)[:-1] + ",\n}" for row in rows)
    assert read(put("c.json", f"[{text}]"))[1] == rows


def test_objects_behind_each_other_on_one_line_are_rows(put: Put) -> None:
    assert read(put("a.jsonl", '{"a": 1}{"a": 2} {"a": 3}\n{"a": 4}\n'))[1] == [
        {"a": number} for number in (1, 2, 3, 4)
    ]
    rows = read(put("b.jsonl", '{"a": 1}\n{"a": 2} and more\n{"a": 3}\n'))[1]
    assert isinstance(rows[1], Drop) and rows[1].reason == "broken_json"


@pytest.mark.parametrize(
    ("mark", "command"), [("_!_", "s/_!_/"), ("|||", "s/|||/"), ("+++$+++", "s/+++\\$+++/"), ("[SEP]", "s/\\[SEP\\]/")]
)
def test_columns_that_a_longer_mark_divides_are_named_with_the_command_that_writes_tabs(
    put: Put, mark: str, command: str
) -> None:
    lines = "".join(f"{number}{mark}几点开门？{mark}九点。\n" for number in range(3))
    error = refusal(put("a.txt", lines))
    assert repr(mark) in str(error) and command in str(error.hint)
    assert read(put("a.txt", lines), format="text")[0] == "text"
    assert read(put("b.txt", lines + "没有列的一行。\n"))[0].startswith("text")


@pytest.mark.parametrize("comment", ["// rows of 2024", "# rows", "/* rows\n of 2024 */"])
def test_a_comment_before_a_list_is_named(put: Put, comment: str) -> None:
    error = refusal(put("a.json", f'{comment}\n[\n{{"a": 1}},\n{{"a": 2}}\n]'))
    assert "comments" in str(error.hint) and error.where is not None and error.where.endswith("a.json:1")


@pytest.mark.parametrize("mark", [";", ",", "|", "\t"])
@pytest.mark.parametrize("start", ["sep=", "\ufeffSEP="])
def test_the_line_in_which_excel_names_the_separator_is_no_heading(put: Put, mark: str, start: str) -> None:
    text = f"{start}{mark}\r\nquestion;answer\r\n几点开门？;九点。\r\n周一开吗？;不开。\r\n".replace(";", mark)
    assert read(put("a.csv", text))[1] == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"a": 1},\n{"a": 2,, }\n]', "a comma before }"),
        ('[\n{"a": 1},\n{"b": 1, "a": }\n]', "Expecting value"),
    ],
)
def test_what_is_wrong_inside_an_object_of_a_list_is_named_with_its_line(text: str, message: str, put: Put) -> None:
    error = refusal(put("a.json", text))
    assert message in str(error) and "a.json:3" in str(error)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value",
    [
        {"data": ROWS},
        {"version": "1.0", "info": {"n": [1]}, "data": ROWS, "end": [1, 2]},
        {"RECORDS": ROWS},
        {"features": [{"name": "question"}], "rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]},
        {"question": [row["question"] for row in ROWS], "answer": [row["answer"] for row in ROWS]},
        {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]},
        {"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
    ],
)
def test_rows_inside_one_object_are_rows(put: Put, value: Any, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert read(put("a.json", text))[1] == ROWS


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value",
    [
        {"result": {"list": ROWS}},
        {"code": 0, "data": {"total": 2, "conversations": ROWS}, "message": ""},
        {"response": {"body": {"page": 1, "items": ROWS}}, "ok": True},
        {"data": {"rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]}},
    ],
)
@pytest.mark.parametrize("times", [1, 3000])
def test_the_only_list_of_rows_below_objects_is_read(put: Put, value: Any, indent: int | None, times: int) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    whole = text[: text.index("[") + 1] + ", ".join([text[text.index("[") + 1 : text.rindex("]")]] * times)
    container, rows = read(put("a.json", whole + text[text.rindex("]") :]))
    assert container == "json_wrapped" and rows == ROWS * times


def test_fields_beside_rows_below_objects_are_named_as_unread(put: Put) -> None:
    value = {"code": 0, "result": {"total": 2, "list": ROWS, "page": 1}, "message": "ok"}
    (found,) = inspect([str(put("a.json", json.dumps(value)))])
    assert found["unread_fields"] == {"code": 1, "result.total": 1, "result.page": 1, "message": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"version": "1.1", "data": ROWS, "license": "CC", "note": ""},
        {"version": "1.1", "license": "CC", "data": [{"question": "无", "answer": ""}, *ROWS]},
        {"train": ROWS[:1], "version": "1.1", "dev": ROWS[1:], "license": {"name": "CC"}},
        {"version": 2, "columns": ["question", "answer"], "data": [list(row.values()) for row in ROWS], "license": 1},
    ],
)
def test_fields_beside_the_rows_of_a_file_are_named_as_unread_once(put: Put, value: Any, tmp_path: Path) -> None:
    """Whatever becomes of the first row."""
    path = put("a.json", json.dumps(value, ensure_ascii=False))
    (found,) = inspect([str(path)])
    assert found["kept"] == 2 and found["unread_fields"] == {"license": 1, "version": 1}
    (stats,) = convert([str(path)], "messages", tmp_path / "out.jsonl")
    assert stats.kept == 2 and stats.unread_fields == {"license": 1, "version": 1}


def test_row_numbers_of_pandas_say_nothing(put: Put) -> None:
    value = {"columns": ["question", "answer"], "index": [0, 1], "data": [list(row.values()) for row in ROWS]}
    (found,) = inspect([str(put("a.json", json.dumps(value)))])
    assert found["kept"] == 2 and found["unread_fields"] == {}


def test_several_lists_of_rows_below_objects_are_named_with_the_way_out(put: Put) -> None:
    (found,) = inspect([str(put("a.json", json.dumps({"data": {"first": ROWS, "second": ROWS}})))])
    assert "data.first" in found["error"] and "data.second" in found["error"] and "jq '.data.first'" in found["error"]


def test_rows_by_their_ids_keep_them(put: Put) -> None:
    text = json.dumps({"q1": ROWS[0], "q2": ROWS[1]})
    assert read(put("a.json", text))[1] == [{"id": "q1", **ROWS[0]}, {"id": "q2", **ROWS[1]}]


@pytest.mark.parametrize("count", [3000, 30000])
@pytest.mark.parametrize("indent", [None, 1])
def test_large_objects_are_told_by_their_beginning(put: Put, count: int, indent: int | None) -> None:
    rows = [{"question": f"第{n}问？", "answer": f"第{n}答。"} for n in range(count)]
    for value in (
        {"version": 2, "data": rows},
        {"question": [row["question"] for row in rows], "answer": [row["answer"] for row in rows]},
    ):
        _, found = read(put("a.json", json.dumps(value, ensure_ascii=False, indent=indent)))
        assert found == rows


@pytest.mark.parametrize("indent", [None, 1])
def test_the_instances_of_lmflow_are_rows(put: Put, indent: int | None) -> None:
    value = {"type": "text2text", "instances": [{"input": "一", "output": "二"}] * 400}
    container, rows = read(put("a.json", json.dumps(value, ensure_ascii=False, indent=indent)))
    assert container == "json_wrapped" and rows == value["instances"]


def test_a_row_that_the_viewer_cut_is_a_drop(put: Put) -> None:
    rows = [{"row": ROWS[0], "truncated_cells": []}, {"row": ROWS[1], "truncated_cells": ["answer"]}]
    _, (first, second) = read(put("a.json", json.dumps({"rows": rows})))
    assert first == ROWS[0] and second == Drop("truncated_cells", "answer")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好呀"}]},
        {"data": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好呀"}]},
        {"prompt": [{"role": "user", "content": "你好"}], "completion": [{"role": "assistant", "content": "你好呀"}]},
        {"instruction": "一", "instances": [{"input": "", "output": "二"}]},
        {"title": "咏柳", "paragraphs": ["碧玉妆成一树高", "万条垂下绿丝绦"]},
        {"id": 3, "data": ["你好", "你好呀"]},
        {"id": 4, "data": {"messages": [{"role": "user", "content": "你好"}]}},
        {"instruction": "一", "output": "二", "meta": {"list": [{"source": "三"}]}},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_that_is_a_row_itself_stays_one(put: Put, row: Any, indent: int | None) -> None:
    assert read(put("a.json", json.dumps(row, ensure_ascii=False, indent=indent)))[1] == [row]


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("[\n  {'question': 'a', 'answer': 'b'}\n]", 2, "double quotes"),
        ('[\n  {"question": \'a\', "answer": "b"}\n]', 2, "double quotes"),
        ('[\n  // rows\n  {"question": "a", "answer": "b"}\n]', 2, "no comments"),
        ('[\n  {"question": "a", "answer": "b"}, # one\n  {"question": "c", "answer": "d"}\n]', 2, "no comments"),
        ('[\n  {"question": "a", "answer": "b"} /* one */,\n  {"question": "c", "answer": "d"}\n]', 2, "no comments"),
        ('{"data": [\n  {"question": "a", // why\n   "answer": "b"}]}', 2, "no comments"),
        ('// rows\n[\n  {\n"question": "a", "answer": "b"}\n]', 1, "no comments"),
        ('[\n  {"question": "a", "answer": "b"}\n]\n# end', 4, "no comments"),
    ],
)
def test_single_quotes_and_comments_in_json_are_named_with_their_line_and_the_way_out(
    put: Put, text: str, line: int, hint: str
) -> None:
    refused = refusal(put("a.json", text))
    assert str(refused.where).endswith(f"a.json:{line}") and hint in (refused.hint or "")


def test_a_line_with_a_comment_or_single_quotes_is_a_drop_that_says_so(put: Put) -> None:
    lines = ['{"question": "a", "answer": "b"}', "// rows", "{'question': 'a'}", '{"question": "c"} # why']
    _, rows = read(put("a.jsonl", "\n".join(lines)))
    details = [row.detail for row in rows[1:] if isinstance(row, Drop)]
    assert [detail.rpartition(": ")[2] for detail in details] == ["a comment", "single quotes", "a comment"]


# -------------------------------------------------------------------------------------------------------- literals


def test_lists_as_python_writes_them_are_rows_whatever_the_suffix(put: Put) -> None:
    container, rows = read(put("a.jsonl", "['a', 1]\n['b', 2]\n"))
    assert container == "literals" and rows == [{"1": "a", "2": 1}, {"1": "b", "2": 2}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_dictionaries_as_python_writes_them_are_rows(put: Put, name: str) -> None:
    container, rows = read(put(name, "".join(f"{row}\n" for row in [*ROWS, {"question": "x", "answer": None}])))
    assert container == "literals" and rows == [*ROWS, {"question": "x", "answer": None}]


def test_a_line_that_is_no_literal_is_a_drop(put: Put) -> None:
    _, rows = read(put("a.txt", "['a', 1]\n['b', 2]\n" + "['c', 3]\n" * 6 + "['d', open('x')]\n"))
    assert len(rows) == 9 and isinstance(rows[-1], Drop) and rows[-1].reason == "broken_json"


def test_lists_in_lines_are_read_when_their_values_are_named(put: Put, run: Callable[..., Made]) -> None:
    text = "河边的柳树在二月里就发了芽，孩子们放了学都爱到桥上去看船，老人们坐在树下说从前的事。"
    path = put("a.txt", "".join(f"['第{n}页', '{n}：{text}', {n}]\n" for n in range(4)))
    (found,) = inspect([str(path)])
    assert "each line is a list without names" in found["error"] and "fields" in found["error"]
    made = run(Corpus, path, source={"fields": {"text": "2"}}, validation_fraction=0, dedup="none")
    assert [row["text"] for row in made.kept] == [f"{n}：{text}" for n in range(4)]


def test_lists_with_one_text_are_documents(put: Put, run: Callable[..., Made]) -> None:
    text = "河边的柳树在二月里就发了芽，孩子们放了学都爱到桥上去看船，老人们坐在树下说从前的事。"
    path = put("a.txt", "".join(f"['https://a.example/{n}', '{n}：{text}', {n}]\n" for n in range(4)))
    made = run(Corpus, path, validation_fraction=0, dedup="none")
    assert [row["text"] for row in made.kept] == [f"{n}：{text}" for n in range(4)]
    assert made.kept[3]["meta"] == {"1": "https://a.example/3", "3": 3}


def test_lines_of_literals_can_be_read_from_the_middle(put: Put) -> None:
    path = put("a.txt", "['a', 1]\n['b', 2]\n")
    assert is_splittable(detect_layout(SourceFile(path, path.name, 0, Source(path=str(path)))))
