"""pip and uv install the same versions: `constraints.txt` and `uv.lock`, which `python scripts/lock.py` writes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "uv.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def packages() -> list[dict[str, Any]]:
    return list(tomllib.loads(TEXT)["package"])


def test_both_files_hold_the_same_versions(packages: list[dict[str, Any]]) -> None:
    pinned = {
        canonicalize_name(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    locked: dict[str, set[str]] = {}
    for package in packages:
        if package["name"] != "hanlin":
            locked.setdefault(package["name"], set()).add(package["version"])
    assert len(pinned) > 100
    assert {name: locked[name] for name in pinned if name in locked and locked[name] != {pinned[name]}} == {}
    assert [name for name in pinned if name not in locked] == []


def test_all_is_locked_that_the_project_names(packages: list[dict[str, Any]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {(requirement := Requirement(text)).name: requirement for text in project["dependencies"]}
    for extra in project["optional-dependencies"].values():
        named |= {(requirement := Requirement(text)).name: requirement for text in extra}
    del named["hanlin"]  # extras that an extra includes
    locked = {package["name"]: package.get("version", "") for package in packages}
    for name, requirement in named.items():
        assert requirement.specifier.contains(locked[canonicalize_name(name)]), name
    (own,) = [package for package in packages if package["name"] == "hanlin"]
    assert set(own["metadata"]["provides-extras"]) == set(project["optional-dependencies"])


def test_all_comes_from_the_public_index_with_a_hash(packages: list[dict[str, Any]]) -> None:
    for package in packages:
        own = package["name"] == "hanlin"
        assert package["source"] == ({"editable": "."} if own else {"registry": "https://pypi.org/simple"})
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        assert own or files, package["name"]
        for file in files:
            assert file["url"].startswith("https://files.pythonhosted.org/") and file["hash"].startswith("sha256:")
    assert not re.search(r"file://|/(?:tmp|root|home|opt|work)/", TEXT)
