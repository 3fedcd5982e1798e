"""The layers of the house: who may import whom, and what must start without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "hanlin"
HEAVY = {"torch", "transformers", "peft", "accelerate", "gguf", "xllamacpp", "numpy", "fastapi", "uvicorn", "rensa"}

WORDS = {"language", "errors", "records", "job", "settings", "model_files", "model_refusals"}
LAYERS: dict[str, set[str]] = {
    "tokens": WORDS | {"tokens"},
    "model": WORDS | {"tokens", "model"},
    "data": WORDS | {"tokens", "model", "data"},
    "train": WORDS | {"tokens", "model", "train"},
    "export": WORDS | {"tokens", "model", "export", "engines", "contract"},
    "contract": WORDS | {"tokens", "model", "engines", "contract"},
    "engines": WORDS | {"tokens", "model", "engines"},
    "demo": WORDS | {"demo"},
    "evaluate": WORDS | {"tokens", "model", "data", "engines", "evaluate"},
    "serve": WORDS | {"tokens", "model", "engines", "evaluate", "serve"},
    "artifacts": WORDS,
    "stages": WORDS,
    "recipe": WORDS | {"stages"},
    "torchrun": WORDS,
    "worker": WORDS | {"stages", "artifacts", "torchrun"},
    "pipeline": WORDS | {"stages", "artifacts", "recipe", "worker", "torchrun"},
    "forecast": WORDS | {"stages", "artifacts", "recipe", "pipeline", "forecast"},
    "pages": WORDS,
    "report": WORDS | {"stages", "artifacts", "recipe", "pipeline", "pages"},
    "settings_page": WORDS | {"stages"},
    "doctor": WORDS,
    "upload": WORDS | {"artifacts"},
    "commands": WORDS
    | {"tokens", "data", "pages", "engines", "contract", "evaluate", "serve", "commands", "forecast"}
    | {"stages", "artifacts", "pipeline", "recipe", "report", "settings_page", "upload"},
    "cli": WORDS
    | {"stages", "artifacts", "recipe", "pipeline", "report", "settings_page", "doctor", "serve", "evaluate", "train"}
    | {"commands"},
}


def imports_of(file: Path) -> tuple[set[str], set[str]]:
    """The rooms of ours that a file imports anywhere, and the outside packages that it imports at module level."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    rooms: set[str] = set()
    outside: set[str] = set()
    inside_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "hanlin" else [f"hanlin.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "hanlin":
                if len(parts) > 1 and parts[1] != "__version__":
                    rooms.add(parts[1])
            elif id(node) not in inside_functions:
                outside.add(parts[0])
    return rooms, outside


FILES = sorted(SOURCE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down_only(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        return
    allowed = LAYERS.get(room, WORDS if room in WORDS else None)
    assert allowed is not None, f"{room} stands in no layer: add it to LAYERS"
    rooms, _ = imports_of(file)
    assert rooms <= allowed | {room}, f"{file.name} imports {sorted(rooms - allowed)} from above or beside it"


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in FILES
        if room_of(file) not in {"model", "train", "export", "engines", "evaluate", "serve", "data"}
    ],
    ids=lambda file: str(file.relative_to(SOURCE)),
)
def test_control_and_words_import_nothing_heavy(file: Path) -> None:
    _, outside = imports_of(file)
    assert not outside & (HEAVY - ({"numpy"} if room_of(file) == "tokens" else set()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_has_grown_past_five_hundred_lines(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 520, f"{file.name} has {lines} lines: which noun is missing?"


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
    recipes = SOURCE.parents[1]
    code = (
        "import sys, os; sys.argv = ['hanlin', *sys.argv[1:]]\n"
        "from hanlin.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'xllamacpp', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    home = ["--home", str(tmp_path)] if arguments[0] == "plan" else []
    done = subprocess.run([sys.executable, "-c", code, *arguments, *home], cwd=recipes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
