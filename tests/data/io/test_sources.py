"""Which files are read, in which order and under which names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.data.io.sources import list_files

Put = Callable[[str, Any], Path]


def names_of(*paths: Path) -> list[str]:
    sources = [Source(path=str(path)) for path in paths]
    inputs = Inputs({f"sources.{place}.path": (path,) for place, path in enumerate(paths)})
    return [file.name for file in list_files(sources, inputs).files]


def test_a_folder_is_walked_in_sorted_order(put: Put) -> None:
    for name in ("b.txt", "a/z.jsonl", "a/b/c.txt.gz", "c.csv"):
        put(name, "x")
    assert names_of(put("d.md", "x").parent) == ["c.txt.gz", "z.jsonl", "b.txt", "c.csv", "d.md"]


def test_hidden_files_and_other_kinds_are_skipped_and_listed(put: Put) -> None:
    put(".git/a.txt", "x")
    put("photo.png", "x")
    folder = put("a.txt", "x").parent
    found = list_files([Source(path="./x")], Inputs({"sources.0.path": (folder,)}))
    assert [file.name for file in found.files] == ["a.txt"] and found.skipped == ("photo.png",)


def test_a_file_that_is_named_is_read_with_any_suffix(put: Put) -> None:
    assert names_of(put("notes.log", "x")) == ["notes.log"]


def test_files_with_one_name_get_unique_names_without_the_machines_folders(put: Put) -> None:
    assert names_of(put("a/x.txt", ""), put("b/x.txt", ""), put("b/y.txt", "")) == ["a/x.txt", "b/x.txt", "y.txt"]


def test_a_file_that_is_read_twice_gets_a_number(put: Put) -> None:
    path = put("x.txt", "")
    assert names_of(path, path) == ["x.txt", "x.txt(2)"]


def test_only_the_training_records_of_an_artifact_are_read(put: Put) -> None:
    for name in ("validation.jsonl", "dropped.jsonl", "ledger.json", "manifest.json", "documents-00001.jsonl"):
        put(name, "{}")
    assert names_of(put("documents-00000.jsonl", "{}").parent) == ["documents-00000.jsonl", "documents-00001.jsonl"]


def test_the_card_of_a_hub_dataset_is_not_read_as_data(put: Put) -> None:
    put("hub/README.md", "# 数据")
    folder = put("hub/data/train.jsonl", "{}").parents[1]
    found = list_files([Source(path="./hub")], Inputs({"sources.0.path": (folder,)}))
    assert [file.name for file in found.files] == ["train.jsonl"] and found.skipped == ("README.md",)
    assert names_of(put("notes/README.md", "# 笔记").parent) == ["README.md"]


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        names_of(tmp_path / "none")


def test_a_folder_without_a_readable_file_is_refused(put: Put) -> None:
    with pytest.raises(UserError, match="no file to read"):
        names_of(put("photo.png", "x").parent)
