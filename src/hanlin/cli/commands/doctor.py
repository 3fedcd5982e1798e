"""What this machine has of what Hanlin can use, and the install line for what it lacks.

Owns the looking; imports nothing heavy (versions are read from package metadata).
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

from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json, print_table
from hanlin.core.i18n import say
from hanlin.core.process import total_memory

_FOR_WORK = "dev"
"""The extra that only those need who change Hanlin itself."""
_PROGRAMS = {
    "vllm": ("HANLIN_VLLM", ("serve --engine vllm", "serve --engine vllm")),
    "llama-server": ("", ("serve --engine llama_server", "serve --engine llama_server")),
    "go": ("", ("template modelfile: a real check of Ollama's form", "template modelfile：真实检查 Ollama 的模板")),
}
"""Programs that commands can use, the variable that names one elsewhere, and what for."""


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "What is installed here, what is missing, and how to get it.", "检查本机环境：装了什么，缺什么，如何补。"
        )
    )(doctor)


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    found: str
    good: bool
    hint: str = ""
    optional: bool = False


def examine() -> list[Finding]:
    findings = [
        Finding(
            "Python",
            platform.python_version(),
            sys.version_info >= (3, 11),
            "" if sys.version_info >= (3, 11) else say("install Python 3.11 or newer", "请安装 Python 3.11 或更新版本"),
        )
    ]
    findings += _packages()
    findings += [_program(name) for name in _PROGRAMS]
    findings += [_gpu(), _cores(), _memory(), _disk()]
    return findings


def _packages() -> list[Finding]:
    """What Hanlin's own metadata asks for: what is needed, then what each extra brings, with the versions it names."""
    needed: list[Finding] = []
    optional: list[Finding] = []
    for line in importlib.metadata.requires("hanlin") or ():
        asked = Requirement(line)
        extra = next((name for name in _extras() if _is_for(asked, name)), None)
        if extra == _FOR_WORK or (extra is None and asked.marker is not None and not asked.marker.evaluate()):
            continue
        install = "pip install hanlin" if extra is None else f"pip install 'hanlin[{extra}]'"
        (needed if extra is None else optional).append(_package(asked, install, extra is not None))
    return needed + optional


def _extras() -> list[str]:
    return importlib.metadata.metadata("hanlin").get_all("Provides-Extra") or []


def _is_for(asked: Requirement, extra: str) -> bool:
    marker = asked.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _package(asked: Requirement, install: str, optional: bool) -> Finding:
    try:
        version = importlib.metadata.version(asked.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(asked.name, "–", False, install, optional)
    fits = asked.specifier.contains(version, prereleases=True)
    found = version if fits else say(f"{version}, not {asked.specifier}", f"{version}，要求 {asked.specifier}")
    return Finding(asked.name, found, fits, "" if fits else install, optional)


def _program(name: str) -> Finding:
    variable, purpose = _PROGRAMS[name]
    found = shutil.which(os.environ.get(variable) or name)
    return Finding(name, found or "–", found is not None, "" if found else say("for ", "用于 ") + say(*purpose), True)


def _gpu() -> Finding:
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding(
            "GPU", say("none: everything runs on the CPU", "无：全部在 CPU 上运行"), False, "", optional=True
        )
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, encoding="utf-8", timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Finding("GPU", say("nvidia-smi does not answer", "nvidia-smi 无响应"), False, "", optional=True)
    return Finding("GPU", "; ".join(shown.strip().splitlines()), True)


def _cores() -> Finding:
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((row for row in file if row.startswith("flags")), "")
        flags = " ".join(name for name in ("avx2", "avx512f", "amx_bf16") if name in line)
    except OSError:
        pass
    good = "avx2" in flags or not flags
    hint = "" if good else say("the embedded llama.cpp needs AVX2", "内置 llama.cpp 需要 AVX2")
    return Finding(say("processor", "处理器"), f"{os.cpu_count()} × {platform.machine()} {flags}", good, hint)


def _memory() -> Finding:
    size = total_memory()
    if size is None:
        return Finding(say("memory", "内存"), "?", True, optional=True)
    total = size / 2**30
    return Finding(say("memory", "内存"), f"{total:.1f} GiB", total >= 4, "" if total >= 4 else "4 GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    hint = "" if free >= 5 else say("free at least 5 GiB", "请至少腾出 5 GiB")
    return Finding(say("free disk space here", "此处可用磁盘"), f"{free:.1f} GiB", free >= 5, hint)


def doctor(as_json: AsJson = False) -> None:
    findings = examine()
    if as_json:
        print_json([{"what": f.what, "found": f.found, "good": f.good, "hint": f.hint} for f in findings])
    else:
        rows = [["✓" if f.good else ("–" if f.optional else "✗"), f.what, f.found, f.hint] for f in findings]
        heads = [" ", *say("what,found,how to get it", "项目,结果,如何补齐").split(",")]
        print_table(heads, rows, ["green" if f.good else ("" if f.optional else "red") for f in findings])
    if any(not f.good and not f.optional for f in findings):
        raise typer.Exit(1)
