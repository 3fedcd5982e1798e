"""The layers: who may import whom, down to folders and files, and what must start without torch."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from layers import (
    FILES,
    GRAPH,
    HEAVY,
    HEAVY_ALLOWED,
    MAY_IMPORT,
    ORDER,
    SOURCE,
    WITHOUT_NUMPY,
    covers,
    cycles,
    group_of,
    imports_of,
    row_of,
)

MODULES = [module for module in FILES if module]


def forbidden_imports(module: str) -> list[str]:
    """The modules of a higher layer or of a sibling that a module imports."""
    row = row_of(module)
    assert row is not None, f"{module} has no row in tests/support/layers.py"
    allowed = [row, *MAY_IMPORT[row].split()]
    top = module.partition(".")[0]
    if row_of(top) == top and top != row and not row.startswith("models.folder"):
        allowed.append(top)
    return sorted(other for other in GRAPH[module] if other and not any(covers(prefix, other) for prefix in allowed))


def test_a_file_imports_only_what_its_package_may() -> None:
    assert {module: wrong for module in MODULES if (wrong := forbidden_imports(module))} == {}


@pytest.mark.parametrize("package", sorted(ORDER))
def test_inside_a_package_imports_point_down(package: str) -> None:
    groups = ORDER[package]
    wrong = []
    for module, others in GRAPH.items():
        if not module.startswith(package + "."):
            continue
        mine = module[len(package) + 1 :].partition(".")[0]
        level = group_of(groups, mine)
        assert level is not None, f"{package}.{mine} has no place in ORDER of tests/support/layers.py"
        for other in others:
            if other.startswith(package + "."):
                its = group_of(groups, other[len(package) + 1 :].partition(".")[0])
                if its is None or its > level:
                    wrong.append(f"{module} imports {other}")
    assert not wrong


def test_relative_imports_and_public_names_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hanlin" / "core" / "x.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr("layers.SOURCE", tmp_path / "hanlin")
    file.write_text(
        "def f():\n    from ..config import recipe\n    from .i18n import tr\n    from hanlin import Recipe\n"
    )
    assert imports_of(file)[0] == {"config.recipe", "core.i18n", "api"}


def test_no_two_files_reach_each_other() -> None:
    assert cycles(GRAPH) == []


def test_no_two_sibling_folders_reach_each_other() -> None:
    parents = {""} | {".".join(module.split(".")[:depth]) for module in MODULES for depth in (1, 2, 3)}
    for parent in sorted(parents):
        siblings: dict[str, set[str]] = defaultdict(set)
        start = f"{parent}." if parent else ""
        for module, others in GRAPH.items():
            if module.startswith(start) and module:
                mine = module[len(start) :].partition(".")[0]
                siblings[mine] |= {
                    other[len(start) :].partition(".")[0] for other in others if other and other.startswith(start)
                } - {mine}
        assert cycles(siblings) == [], f"in {parent or 'hanlin'}"


def misplaced_packages(module: str) -> set[str]:
    """The packages of others that a module may not import: heavy ones load where they are needed."""
    outside = imports_of(FILES[module])[1]
    forbidden: set[str] = set()
    if not any(covers(prefix, module) for prefix in HEAVY_ALLOWED) or covers("models.folder", module):
        forbidden |= HEAVY
    if not covers("export.gguf", module):
        forbidden.add("gguf")
    if not covers("serve", module) and (not covers("web", module) or covers("web.pages", module)):
        forbidden |= {"fastapi", "uvicorn"}
    if any(covers(prefix, module) for prefix in WITHOUT_NUMPY):
        forbidden.add("numpy")
    return outside & forbidden


def test_heavy_packages_are_imported_where_they_are_needed() -> None:
    assert {module: wrong for module in MODULES if (wrong := misplaced_packages(module))} == {}


def test_no_file_has_grown_past_five_hundred_lines() -> None:
    """A longer file holds two nouns."""
    lines = {module: len(FILES[module].read_text(encoding="utf-8").splitlines()) for module in MODULES}
    assert {module: count for module, count in lines.items() if count > 510} == {}


def test_no_folder_holds_more_than_fifteen_files() -> None:
    files = Counter(file.parent for file in FILES.values() if file.name != "__init__.py")
    root = SOURCE.parents[1]
    files.update(file.parent for file in (root / "tests").rglob("*.py") if file.name != "conftest.py")
    assert {str(folder.relative_to(root)): count for folder, count in files.items() if count > 15} == {}


def test_every_folder_says_in_one_docstring_what_it_owns() -> None:
    for module, file in FILES.items():
        if file.name == "__init__.py" and module:
            text = file.read_text(encoding="utf-8")
            assert re.fullmatch(r'""".+?"""\n*', text, re.S), f"{module}: an __init__ holds its docstring, nothing else"


def test_every_name_that_stands_as_text_is_there() -> None:
    """Stage functions, backends and modules that are started with `-m` are named in strings, which no import checks."""
    from hanlin.config.kinds import KINDS
    from hanlin.inference.registry import ENGINE_PROCESS, ENGINES

    settings = [f"hanlin.config.settings.{kind.settings_class}" for kind in KINDS.values()]
    for text in [
        *settings,
        *(kind.run for kind in KINDS.values()),
        *ENGINES.values(),
        ENGINE_PROCESS,
    ]:
        module, _, name = text.partition(":")
        assert inspect.getattr_static(importlib.import_module(module), name)
    named = re.compile(r"\"(hanlin(?:\.\w+)+)\"")
    for file in FILES.values():
        for name in named.findall(file.read_text(encoding="utf-8")):
            assert name.removeprefix("hanlin.") in FILES, f"{file.name} names {name}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["kinds"],
        ["data", "--help"],
        ["sft", "--help"],
        ["tokens", "view", "--help"],
        ["template", "check", "--help"],
        ["plan", "recipes/quickstart.yaml"],
    ],
)
def test_help_and_plan_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, os; sys.argv = ['hanlin', *sys.argv[1:]]\n"
        "from hanlin.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'xllamacpp', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    home = ["--home", str(tmp_path)] if arguments[0] == "plan" else []
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, *home],
        cwd=SOURCE.parents[1],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


STARTERS = {
    "subprocess": re.compile(r"Popen|run|call|check_call|check_output|getoutput|getstatusoutput"),
    "os": re.compile(r"system|popen|exec\w+|spawn\w+|posix_spawnp?|startfile"),
    "sys": re.compile(r"executable|_base_executable"),
    "asyncio": re.compile(r"create_subprocess_\w+"),
    "pty": re.compile(r"spawn"),
    "runpy": re.compile(r"run_\w+"),
    "multiprocessing": re.compile(r"(?!connection|parent_process)\w+"),
    "concurrent.futures": re.compile(r"ProcessPoolExecutor"),
    "torch.multiprocessing": re.compile(r"\w+"),
}
"""What starts a process, or begins the command of one, by module; pipes and waiting for processes are no start."""


def starts_of(source: str) -> set[str]:
    """What a file uses that starts processes; a type such as `subprocess.Popen[bytes]` is no use."""
    tree = ast.parse(source)
    types = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in types:
            module, names = ast.unparse(node.value), [node.attr]
        elif isinstance(node, ast.ImportFrom) and node.module:
            module, names = node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            module, names = "", [alias.name for alias in node.names if alias.name.startswith("torch.multiprocessing")]
        else:
            continue
        pattern = STARTERS.get(module.removeprefix("_"))
        used |= {f"{module}.{name}" for name in names if not module or (pattern and pattern.fullmatch(name))}
    return used


def test_every_process_is_started_by_core_process() -> None:
    """Only there is the working folder kept off the path of a Python child."""
    used = {module: starts for module, file in FILES.items() if (starts := starts_of(file.read_text(encoding="utf-8")))}
    assert used.pop("core.process") == {"subprocess.Popen", "subprocess.run", "sys.executable"}
    assert used == {}, "start processes with start_process, run_process and python_command of core/process"


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.Popen(['x'])",
        "from subprocess import run",
        "import sys\ncommand = [sys.executable, '-c', '']",
        "import os\nos.execvp('x', [])",
        "import multiprocessing\nmultiprocessing.get_context('spawn')",
        "from multiprocessing import Process",
        "from concurrent.futures import ProcessPoolExecutor",
        "import torch.multiprocessing",
        "import functools, subprocess\nstart = functools.partial(subprocess.Popen, ['x'])",
    ],
)
def test_a_start_of_a_process_is_seen(source: str) -> None:
    assert starts_of(source)
    assert starts_of("import subprocess, os\nx: subprocess.Popen[bytes]\nos.fork()\nsubprocess.PIPE") == set()
