"""The package as others install it: a wheel in an empty environment, with the pinned and with the lowest versions."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "tests" / "recipes" / "short_pipeline.yaml"


def run(*command: object, **options: object) -> str:
    """The output of a command; its errors are the assertion's message."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=environment,
        **options,
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-4000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    (built,) = folder.glob("hanlin-*.whl")
    return built


def lowest_versions() -> list[str]:
    """Each direct dependency at the lowest version that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = []
    for text in project["dependencies"]:
        requirement = Requirement(text)
        (bound, *_) = [item.version for item in requirement.specifier if item.operator in (">=", "==")]
        marker = f"; {requirement.marker}" if requirement.marker else ""
        lines.append(f"{requirement.name}=={bound}{marker}")
    return lines


@pytest.mark.slow
def test_the_wheel_holds_everything_that_is_no_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "hanlin"
    files = [file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert len(files) > 20
    assert {file.relative_to(package.parent).as_posix() for file in files} <= names
    assert "hanlin/locale/zh_CN/LC_MESSAGES/hanlin.mo" in names
    for folder, shipped in (("recipes", ROOT.glob("recipes/*.yaml")), ("docs/zh", ROOT.glob("docs/zh/*.md"))):
        assert {f"hanlin/shipped_{folder}/{file.name}" for file in shipped} <= names
    assert {"hanlin/shipped_docs/llms.txt", "hanlin/shipped_docs/SKILL.md"} <= names


@pytest.mark.slow
def test_a_wheel_made_from_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """`pip install` of a source distribution builds its wheel from what that holds."""
    run(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT)
    (built,) = tmp_path.glob("hanlin-*.whl")
    assert set(zipfile.ZipFile(built).namelist()) == set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.parametrize("versions", ["pinned", "lowest"])
def test_the_demo_runs_from_the_wheel_in_an_empty_environment(wheel: Path, versions: str, tmp_path: Path) -> None:
    constraints = ROOT / "constraints.txt"
    if versions == "lowest":
        constraints = tmp_path / "lowest.txt"
        constraints.write_text("\n".join(lowest_versions()) + "\n", encoding="utf-8")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    binaries = tmp_path / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
    assert run(binaries / "hanlin", "--version", cwd=tmp_path).startswith("hanlin ")
    run(binaries / "hanlin", "run", RECIPE, "--home", tmp_path, cwd=tmp_path)
    assert "name: hanlin" in run(binaries / "hanlin", "docs", "skill", cwd=tmp_path)
    assert "hanlin docs NAME" in run(binaries / "hanlin", "docs", "llms.txt", cwd=tmp_path)
    assert "quickstart" in run(binaries / "hanlin", "recipe", "ls", cwd=tmp_path)
    told = run("env", "HANLIN_LANG=zh", binaries / "hanlin", "status", RECIPE, "--home", tmp_path, cwd=tmp_path)
    assert "已完成" in told
