"""The two locks: `constraints.txt` for pip, `uv.lock` for uv. `make lock` gives both the same versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (ROOT / "uv.lock").read_text(encoding="utf-8")
LOCK = tomllib.loads(TEXT)
PINS = {
    str(canonicalize_name(name)): version
    for name, separator, version in (
        line.partition("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )
    if separator
}
FOR_CUDA = re.compile(r"nvidia-|cuda-|triton$")
"""What torch from PyPI brings on Linux; `constraints.txt` was made beside the torch for processors alone."""


def packages_named(name: str) -> list[Mapping[str, Any]]:
    return [package for package in LOCK["package"] if package["name"] == name]


def installed_with(extra: str, python: str) -> Iterator[tuple[str, str]]:
    """Name and version of every package that `uv sync --extra EXTRA` installs on Linux."""
    environment = {key: str(value) for key, value in default_environment().items()}
    environment |= {"python_full_version": f"{python}.9", "python_version": python}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
    environment["extra"] = f"extra-{len('hanlin')}-hanlin-{extra}"  # how uv writes an extra that has conflicts
    (hanlin,) = packages_named("hanlin")
    waiting = [*hanlin["dependencies"], *hanlin["optional-dependencies"][extra]]
    seen = set()
    while waiting:
        needed = waiting.pop()
        if "marker" in needed and not Marker(needed["marker"]).evaluate(environment):
            continue
        extras = tuple(needed.get("extra", ()))
        for package in packages_named(needed["name"]):
            key = (package["name"], package["version"], extras)
            if needed.get("version", package["version"]) != package["version"] or key in seen:
                continue
            seen.add(key)
            waiting += package.get("dependencies", ())
            for name in extras:
                waiting += package.get("optional-dependencies", {}).get(name, ())
            yield key[:2]


def test_the_lock_was_made_from_these_requirements() -> None:
    (hanlin,) = packages_named("hanlin")
    extras = PROJECT["optional-dependencies"]
    declared = {(text, "") for text in PROJECT["dependencies"]}
    for extra, texts in extras.items():
        for text in texts:
            own = Requirement(text)
            unfolded = [item for name in own.extras for item in extras[name]] if own.name == "hanlin" else [text]
            declared |= {(item, extra) for item in unfolded}
    wanted = {
        (str(canonicalize_name(requirement.name)), str(requirement.specifier), extra)
        for requirement, extra in ((Requirement(text), extra) for text, extra in declared)
    }
    locked = set()
    for item in hanlin["metadata"]["requires-dist"]:
        specifier = str(Requirement(f"x{item.get('specifier', '')}").specifier)
        for extra in re.findall(r"extra == '([\w-]+)'", item.get("marker", "")) or [""]:
            locked.add((item["name"], specifier, extra))
    locked = {item for item in locked if item[0] != "hanlin"}
    assert locked <= wanted
    assert {item[:2] for item in locked} == {item[:2] for item in wanted}  # an extra of extras is written once
    assert hanlin["metadata"]["provides-extras"] == list(extras)
    assert LOCK["requires-python"] == PROJECT["requires-python"]


def test_both_locks_install_the_same_versions() -> None:
    for python in ("3.11", "3.12", "3.13"):
        installed = dict(installed_with("dev", python))
        assert len(installed) > 150
        other = {name: version for name, version in installed.items() if PINS.get(name) != version}
        assert {name for name in other if not FOR_CUDA.match(name)} <= {"setuptools"}


def test_every_pin_of_pip_is_a_version_of_the_lock() -> None:
    for name, version in PINS.items():
        assert version in [package["version"] for package in packages_named(name)], name


def test_only_swanlab_gets_an_older_protobuf() -> None:
    assert dict(installed_with("sentencepiece", "3.12"))["protobuf"] == PINS["protobuf"]
    assert dict(installed_with("swanlab", "3.12"))["protobuf"].startswith("6.")


def test_the_lock_names_no_registry_but_pypi() -> None:
    assert {package["source"].get("registry") for package in LOCK["package"]} == {"https://pypi.org/simple", None}
    assert [package["name"] for package in LOCK["package"] if "registry" not in package["source"]] == ["hanlin"]
    assert set(re.findall(r"https?://[^/\"]+", TEXT)) == {"https://pypi.org", "https://files.pythonhosted.org"}
    assert TEXT.count("://") == len(re.findall(r"https://(?:pypi\.org|files\.pythonhosted\.org)/", TEXT))


def test_every_file_of_the_lock_has_a_hash_and_the_address_that_pypi_gave_it() -> None:
    address = re.compile(r"https://files\.pythonhosted\.org/packages/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+")
    for package in LOCK["package"]:
        for file in [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]:
            assert address.fullmatch(file["url"]), file["url"]
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"])
