"""Python, the packages of Hanlin's own metadata, and programs that commands can use. Nothing of them is imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import TYPE_CHECKING

from hanlin.cli.commands.doctor.check import Check, Group
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DEVELOPMENT_EXTRAS = ("dev", "docs", "clients", "web-tests")
"""The extras for those who change Hanlin itself."""
EXTRAS_ALONE = ("swanlab",)
"""Extras that change versions which others need (`protobuf`, docs/*/platforms.md): not in one line with them."""


def check_python() -> Check:
    """The interpreter and the system."""
    ok = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} · {platform.system()} {platform.machine()}"
    return Check("python", "Python", found, ok, "" if ok else tr("install Python 3.11 or newer"))


def check_packages() -> list[Check]:
    """The packages of Hanlin's own metadata: the required ones, then those of each extra; without the package that
    reads these lines, it alone.
    """
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        return [Check("package", "packaging", "–", False, "pip install hanlin")]
    required: list[Check] = []
    optional: list[Check] = []
    extras = importlib.metadata.metadata("hanlin").get_all("Provides-Extra") or []
    for line in importlib.metadata.requires("hanlin") or ():
        requirement = Requirement(line)
        extra = next((name for name in extras if _is_for(requirement, name)), None)
        skipped = extra is None and requirement.marker is not None and not requirement.marker.evaluate()
        if extra == "dev" or skipped:
            continue
        install = "pip install hanlin" if extra is None else f"pip install 'hanlin[{extra}]'"
        (required if extra is None else optional).append(_package(requirement, install, extra))
    return required + optional


def _is_for(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _package(requirement: Requirement, install: str, extra: str | None) -> Check:
    optional = extra is not None
    group: Group = "extra" if optional else "package"
    name = f"{extra}: {requirement.name}" if optional else requirement.name
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(group, name, "–", False, install, optional)
    fits = requirement.specifier.contains(version, prereleases=True)
    if not fits:
        version = tr("{version}, not {specifier}", version=version, specifier=requirement.specifier)
    return Check(group, name, version, fits, "" if fits else install, optional)


def check_programs() -> list[Check]:
    """Programs that a command can use."""
    return [
        _program("vllm", "serve --engine vllm", os.environ.get("HANLIN_VLLM", "")),
        _program("llama-server", "serve --engine llama_server"),
        _program("go", tr("template modelfile: check Ollama's template by rendering it")),
    ]


def _program(name: str, purpose: str, path: str = "") -> Check:
    """A program that a command can use; `path` names one that is not on the PATH."""
    program = shutil.which(path or name)
    hint = "" if program else tr("for {purpose}", purpose=purpose)
    return Check("program", name, program or "–", program is not None, hint, True)
