"""Children of Hanlin: the command and the environment that they start with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hanlin.core.process import child_environment, keep_working_folder_out, python_command, run_process


def test_a_python_child_finds_nothing_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("print('planted')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/nowhere", ""]))
    look = "import importlib.util, subprocess, sys; print(importlib.util.find_spec('planted'), flush=True)"
    below = f"{look}; subprocess.run([sys.executable, '-c', {look!r}])"
    done = run_process(python_command("-c", below), cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["None", "None"], done.stderr


def test_an_empty_entry_of_pythonpath_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/a", "", "/b", ""]))
    monkeypatch.setenv("VIRTUAL_ENV", "/v")
    environment = child_environment({"A": "1", "PYTHONSAFEPATH": ""}, without=["VIRTUAL_ENV"])
    assert environment["PYTHONPATH"] == os.pathsep.join(["/a", "/b"])
    assert environment["A"] == "1"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert "VIRTUAL_ENV" not in environment


def test_what_a_library_starts_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    keep_working_folder_out()
    assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ["PYTHONPATH"] == ""


def test_a_command_may_name_another_python() -> None:
    assert python_command("-m", "x", python="python") == ["python", "-P", "-m", "x"]
    assert python_command("-m", "x")[0] == sys.executable


def test_the_memory_of_a_process_is_its_own_and_not_its_parents() -> None:
    held = bytearray(b"x") * 300_000_000  # what getrusage tells a child of the parent it was forked from
    code = "from hanlin.core.process import peak_host_memory; print(peak_host_memory())"
    done = run_process(python_command("-c", code), capture_output=True, text=True)
    assert len(held) > int(done.stdout) > 1_000_000
