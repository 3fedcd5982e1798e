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

from hanlin.language import say

_NEEDED = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "gguf", "xllamacpp", "rensa",
    "pydantic", "typer", "rich", "jinja2", "fastapi", "uvicorn", "filelock", "opencc",
)  # fmt: skip
_OPTIONAL = {"pyarrow": "parquet", "sentencepiece": "sentencepiece", "tensorboard": "tensorboard", "zstandard": "zstd"}


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
    for name in _NEEDED:
        version = _version(name)
        findings.append(Finding(name, version or "–", version is not None, "" if version else "pip install hanlin"))
    for name, extra in _OPTIONAL.items():
        version = _version(name)
        hint = "" if version else f"pip install 'hanlin[{extra}]'"
        findings.append(Finding(name, version or "–", version is not None, hint, optional=True))
    findings += [_gpu(), _cores(), _memory(), _disk()]
    return findings


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    if not hasattr(os, "sysconf"):
        return Finding(say("memory", "内存"), "?", True, optional=True)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding(say("memory", "内存"), f"{total:.1f} GiB", total >= 4, "" if total >= 4 else "4 GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    hint = "" if free >= 5 else say("free at least 5 GiB", "请至少腾出 5 GiB")
    return Finding(say("free disk space here", "此处可用磁盘"), f"{free:.1f} GiB", free >= 5, hint)
