"""The scripts and notebooks of `examples/` and the Python of the README run, with the public API alone."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hanlin

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TEXT = "翰林院在城东，春天的时候院子里开满了花。\n\nThe library stands in the east of the town.\n"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chats") / "chats.json"
    rows = [{"instruction": f"第{n}问：你是谁？", "input": "", "output": "我是小翰。"} for n in range(12)]
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file


def run_python(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "HANLIN_LANG": "en", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_there_are_five_scripts_and_two_notebooks() -> None:
    assert len(SCRIPTS) == 5 and len(NOTEBOOKS) == 2


@pytest.mark.parametrize("example", [*SCRIPTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_an_example_uses_only_the_public_api(example: Path) -> None:
    source = code_of(example) if example.suffix == ".ipynb" else example.read_text(encoding="utf-8")
    tree = ast.parse(source)
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.startswith("hanlin.")]
    assert set(re.findall(r"\bhanlin\.(\w+)\(", source)) <= set(hanlin.__all__)


def test_cleaning_a_folder(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "texts" / "b.txt").write_text(TEXT, encoding="utf-8")
    shown = run_python(str(EXAMPLES / "clean_a_folder.py"), "texts", cwd=tmp_path)
    assert "kept; dropped:" in shown and "翰林院" in shown


def test_viewing_a_conversation(tmp_path: Path, tiny_tokenizer: Path, chats: Path) -> None:
    for words in ([], [str(chats)]):
        shown = run_python(str(EXAMPLES / "view_a_conversation.py"), str(tiny_tokenizer), *words, cwd=tmp_path)
        assert "learned" in shown and "<|eot_id|>" in shown


def test_fine_tuning(tmp_path: Path, tiny_model: Path, chats: Path) -> None:
    shown = run_python(str(EXAMPLES / "fine_tune.py"), str(tiny_model), str(chats), "2", cwd=tmp_path)
    assert "after 2 steps" in shown
    assert (tmp_path / "runs" / "fine_tune" / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_quantizing_with_a_quality_report(tmp_path: Path, tiny_model: Path, chats: Path) -> None:
    script = str(EXAMPLES / "quantize_with_quality_report.py")
    shown = run_python(script, str(tiny_model), str(chats), cwd=tmp_path)
    assert "Q8_0" in shown and "kl" in shown


def test_serving_and_asking(tmp_path: Path, tiny_model: Path) -> None:
    lines = run_python(str(EXAMPLES / "serve_and_ask.py"), str(tiny_model), cwd=tmp_path).splitlines()
    over_http, in_process = (line.partition(":")[2].strip() for line in lines[-2:])
    assert over_http == in_process


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_holds_no_outputs_and_its_cells_run(
    notebook: Path, tmp_path: Path, tiny_model: Path, chats: Path
) -> None:
    data = json.loads(notebook.read_text(encoding="utf-8"))
    assert data["nbformat"] == 4
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in data["cells"])
    names = {"HANLIN_MODEL": str(tiny_model), "HANLIN_CHATS": str(chats), "HANLIN_HOME": str(tmp_path)}
    run_python("-c", code_of(notebook), cwd=tmp_path, HANLIN_STEPS="2", **names)


def python_of(page: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return block


def test_the_python_of_the_readme_runs(tmp_path: Path, tiny_model: Path, chats: Path) -> None:
    """With a smaller recipe in the place of the quickstart's, and models under the names that the page uses."""
    code = python_of("README.md")
    assert len([line for line in code.splitlines() if line]) <= 10
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(python_of("README.zh-CN.md")))
    (tmp_path / "recipes").mkdir()
    stages = {"chats": {"kind": "conversations", "sources": [str(chats)], "validation_fraction": 0}}
    recipe = json.dumps({"name": "quickstart", "stages": stages}, ensure_ascii=False)
    (tmp_path / "recipes" / "quickstart.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    for name in ("merged", "gguf"):
        (tmp_path / "runs" / "quickstart" / name).symlink_to(tiny_model)
    assert "conversations  run" in run_python("-c", code, cwd=tmp_path)
