"""SECURITY.md: each guarantee has a test that exists, in both languages, and each limit is the number in the code."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("SECURITY.md", "SECURITY.zh-CN.md")
UNITS = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20}


def rows(page: str, columns: int) -> list[list[str]]:
    """The rows of the tables of a page whose last cell is code."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == columns and row[-1].startswith("`")]


@functools.cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("page", PAGES)
def test_every_guarantee_has_a_test_that_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    guarantees = [title.rstrip(".。") for title in re.findall(r"^- \*\*(.+?)\*\*", text, re.MULTILINE)]
    tested = {row[0]: re.findall(r"`([^`]+)`", row[1]) for row in rows(page, 2)}
    assert guarantees == list(tested) and len(guarantees) > 15
    for names in tested.values():
        for name in names:
            file, _, function = name.partition("::")
            assert function in functions_of(file), name


def test_both_languages_name_the_same_tests_and_limits() -> None:
    english, chinese = ([re.findall(r"`([^`]+)`", row[1]) for row in rows(page, 2)] for page in PAGES)
    assert english == chinese
    assert [row[1:] for row in rows(PAGES[0], 3)] == [row[1:] for row in rows(PAGES[1], 3)]


@pytest.mark.parametrize("row", rows(PAGES[0], 3), ids=lambda row: row[-1].strip("`").rpartition(".")[2])
def test_every_limit_is_the_number_in_the_code(row: list[str]) -> None:
    number, _, unit = row[1].partition(" ")
    assert float(number.replace(",", "")) * UNITS[unit] == value_of(row[2].strip("`"))


def value_of(name: str) -> Any:
    """A constant of a module, or the default of a field of a class."""
    module, _, attribute = name.rpartition(".")
    if module.rpartition(".")[2][0].isupper():
        module, _, owner = module.rpartition(".")
        return getattr(getattr(importlib.import_module(module), owner)(), attribute)
    return getattr(importlib.import_module(module), attribute)
