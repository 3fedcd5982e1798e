"""What the tests keep themselves to: none can fail because a machine is slow or busy."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parents[1]
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time"}
CLOCK = re.compile(rf"\btime\.({'|'.join(CLOCKS)})(_ns)?\(")


def reads_a_clock(node: ast.AST) -> bool:
    return any(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr.removesuffix("_ns") in CLOCKS
        and ast.unparse(call.func.value) in ("time", "resource")
        for call in ast.walk(node)
    )


def timed_asserts(tree: ast.Module) -> list[int]:
    """Lines of assertions about how long something took: a difference of two times, or a name that was given one."""
    lines = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        durations = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and any(is_duration(part) for part in ast.walk(node.value))
            for target in ast.walk(ast.Tuple(node.targets))
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                names = {name.id for name in ast.walk(node.test) if isinstance(name, ast.Name)}
                if any(is_duration(part) for part in ast.walk(node.test)) or names & durations:
                    lines.append(node.lineno)
    return lines


def is_duration(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and reads_a_clock(node.left)


@pytest.mark.parametrize(
    "text",
    [
        "start = time.monotonic()\n    assert time.monotonic() - start < 5",
        "start = time.process_time()\n    seconds = time.process_time() - start\n    assert seconds < 1",
        "start = time.time()\n    a, seconds = 1, time.time() - start\n    assert 0 < seconds < 1, a",
    ],
)
def test_an_assertion_about_seconds_is_found(text: str) -> None:
    assert timed_asserts(ast.parse(f"def test() -> None:\n    {text}\n"))


def test_no_test_asserts_how_long_something_takes() -> None:
    """Say it by what a slow machine does not change (`tests/support/waiting.py`); seconds belong to `bench/`."""
    texts = {path.relative_to(TESTS).as_posix(): path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    found = {name: timed_asserts(ast.parse(text)) for name, text in texts.items() if CLOCK.search(text)}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_example_of_hypothesis_has_a_deadline() -> None:
    assert settings().deadline is None


def test_no_two_files_of_tests_have_one_name() -> None:
    """Folders of tests are no packages, so that a second module of a name could not be imported."""
    names = Counter(file.name for file in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
