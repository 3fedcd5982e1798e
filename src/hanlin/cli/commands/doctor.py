"""`hanlin doctor`: which packages, programs and hardware this machine has, and how to install what it lacks.

Imports nothing heavy: versions are read from package metadata.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

import typer
from packaging.requirements import Requirement

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json, print_table
from hanlin.core.i18n import tr
from hanlin.core.process import run_process, total_memory

app = new_app()
DEVELOPMENT_EXTRA = "dev"
"""The extra for those who change Hanlin itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked for: `name`, the version or size that there is, and the `hint` if it is not enough."""

    name: str
    version: str
    ok: bool
    hint: str = ""
    optional: bool = False


def run_checks() -> list[Check]:
    """Check Python, packages, programs, GPU, processor, memory and disk of this machine."""
    checks = [
        Check(
            "Python",
            platform.python_version(),
            sys.version_info >= (3, 11),
            "" if sys.version_info >= (3, 11) else tr("install Python 3.11 or newer"),
        )
    ]
    checks += _packages()
    checks += [
        _program("vllm", "serve --engine vllm", os.environ.get("HANLIN_VLLM", "")),
        _program("llama-server", "serve --engine llama_server"),
        _program("go", tr("template modelfile: check Ollama's template by rendering it")),
    ]
    checks += [_gpu(), _processor(), _memory(), _disk()]
    return checks


def _packages() -> list[Check]:
    """The packages of Hanlin's own metadata: the required ones, then those of each extra."""
    required: list[Check] = []
    optional: list[Check] = []
    for line in importlib.metadata.requires("hanlin") or ():
        requirement = Requirement(line)
        extra = next((name for name in _extras() if _is_for(requirement, name)), None)
        skipped = extra is None and requirement.marker is not None and not requirement.marker.evaluate()
        if extra == DEVELOPMENT_EXTRA or skipped:
            continue
        install = "pip install hanlin" if extra is None else f"pip install 'hanlin[{extra}]'"
        (required if extra is None else optional).append(_package(requirement, install, extra is not None))
    return required + optional


def _extras() -> list[str]:
    return importlib.metadata.metadata("hanlin").get_all("Provides-Extra") or []


def _is_for(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _package(requirement: Requirement, install: str, optional: bool) -> Check:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(requirement.name, "–", False, install, optional)
    fits = requirement.specifier.contains(version, prereleases=True)
    if not fits:
        version = tr("{version}, not {specifier}", version=version, specifier=requirement.specifier)
    return Check(requirement.name, version, fits, "" if fits else install, optional)


def _program(name: str, purpose: str, path: str = "") -> Check:
    """A program that a command can use; `path` names one that is not on the PATH."""
    program = shutil.which(path or name)
    hint = "" if program else tr("for {purpose}", purpose=purpose)
    return Check(name, program or "–", program is not None, hint, True)


def _gpu() -> Check:
    command = shutil.which("nvidia-smi")
    if command is None:
        return Check("GPU", tr("none; everything runs on the CPU"), False, "", optional=True)
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        shown = run_process(query, capture_output=True, text=True, encoding="utf-8", timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Check("GPU", tr("nvidia-smi does not answer"), False, "", optional=True)
    return Check("GPU", "; ".join(shown.strip().splitlines()), True)


def _processor() -> Check:
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((row for row in file if row.startswith("flags")), "")
        flags = " ".join(name for name in ("avx2", "avx512f", "amx_bf16") if name in line)
    except OSError:
        pass
    good = "avx2" in flags or not flags
    hint = "" if good else tr("the embedded llama.cpp needs AVX2")
    return Check(tr("processor"), f"{os.cpu_count()} × {platform.machine()} {flags}", good, hint)


def _memory() -> Check:
    size = total_memory()
    if size is None:
        return Check(tr("memory"), "?", True, optional=True)
    total = size / 2**30
    return Check(tr("memory"), f"{total:.1f} GiB", total >= 4, "" if total >= 4 else "4 GiB")


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 2**30
    hint = "" if free >= 5 else tr("free at least 5 GiB")
    return Check(tr("free disk space here"), f"{free:.1f} GiB", free >= 5, hint)


@command(
    app,
    tr("Tells how to install what is missing; exits with 1 if it is required."),
)
def doctor(as_json: AsJson = False) -> None:
    checks = run_checks()
    if as_json:
        print_json([{"name": c.name, "version": c.version, "ok": c.ok, "hint": c.hint} for c in checks])
    else:
        rows = [["✓" if c.ok else ("–" if c.optional else "✗"), c.name, c.version, c.hint] for c in checks]
        headings = [" ", *tr("what,found,how to get it").split(",")]
        print_table(headings, rows, ["green" if c.ok else ("" if c.optional else "red") for c in checks])
    if any(not c.ok and not c.optional for c in checks):
        raise typer.Exit(1)
