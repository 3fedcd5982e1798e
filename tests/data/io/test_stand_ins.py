"""Files that stand for data that is elsewhere are named, and JSON in unusual dress is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.data.report.inspect import inspect

Put = Callable[[str, Any], Path]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
TURNS = [{"role": "user", "content": "几点开门？"}, {"role": "assistant", "content": "九点。"}]
CHAT = {"messages": TURNS}


def look(path: Path) -> dict[str, Any]:
    (found,) = inspect([str(path)])
    return found


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.txt", "a.arrow"])
def test_a_pointer_to_the_data_is_named_with_the_command_that_fetches_it(put: Put, name: str) -> None:
    error = look(put(name, POINTER))["error"]
    assert "Git LFS" in error and "`git lfs pull`" in error
    assert "git-annex" in look(put(name, "/annex/objects/SHA256E-s1--ab.json\n"))["error"]


@pytest.mark.parametrize("start", ["<!DOCTYPE html>", "\ufeff\n <html lang=zh>"])
def test_a_web_page_saved_in_place_of_the_data_is_named(put: Put, start: str) -> None:
    page = f"{start}<body>404</body></html>"
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        assert "a web page" in look(put(name, page))["error"], name
    assert "error" not in look(put("a.html", page))
    assert "a web page" in look(put("b.jsonl.gz", gzip.compress(page.encode())))["error"]


@pytest.mark.parametrize("rows", [[CHAT, CHAT], CHAT, TURNS])
def test_json_that_was_encoded_twice_is_decoded_twice(put: Put, rows: Any) -> None:
    whole = look(put("a.json", json.dumps(json.dumps(rows, ensure_ascii=False))))
    assert (whole["stage"], whole["kept"]) == ("conversations", 1), whole
    lines = look(put("a.jsonl", [json.dumps(CHAT, ensure_ascii=False), json.dumps(TURNS)]))
    assert (lines["stage"], lines["rows_in"], lines["dropped"]) == ("conversations", 2, {"duplicate": 1})


def test_texts_that_are_no_rows_of_json_stay_texts(put: Put) -> None:
    texts = ["[1, 2]", '{"a": 1', "[]", "{}", "【注】" + "江南的春天来得很早。" * 20]
    found = look(put("a.jsonl", texts))
    assert (found["stage"], found["rows_in"]) == ("corpus", 5)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_object_over_several_lines_is_one_though_some_of_them_are_objects(put: Put, end: str) -> None:
    turns = ",\n".join(f"    {json.dumps(turn, ensure_ascii=False)}" for turn in TURNS)
    text = '{\n  "id": "s",\n  "messages": [\n' + turns + '\n  ],\n  "n": 1\n}\n'
    found = look(put("a.json", text.replace("\n", end)))
    assert (found["format"], found["rows_in"], found["kept"]) == ("json_objects: messages", 1, 1)
    assert look(put("b.jsonl", text + text))["dropped"] == {"duplicate": 1}


def test_lines_that_end_with_commas_are_json_lines(put: Put) -> None:
    lines = [json.dumps({"question": f"问{n}", "answer": f"答{n}"}, ensure_ascii=False) + "," for n in range(3)]
    found = look(put("a.json", "\n".join([lines[0], "{broken},", *lines[1:]])))
    assert (found["format"], found["kept"], found["dropped"]) == ("jsonl: prompt_response", 3, {"broken_json": 1})


@pytest.mark.parametrize("first", ['{"question": "a", "answer"', '{"question": "a", "answer": [', '{"question": "a'])
def test_a_broken_first_line_of_json_lines_is_still_one_line(put: Put, first: str) -> None:
    rest = "".join(json.dumps({"question": f"问{n}", "answer": f"答{n}"}) + "\n" for n in range(3))
    found = look(put("a.jsonl", f"{first}\n{rest}"))
    assert (found["rows_in"], found["kept"], found["dropped"]) == (4, 3, {"broken_json": 1})
