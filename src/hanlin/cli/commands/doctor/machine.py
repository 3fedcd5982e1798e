"""Processor, memory and disks of this machine, and how it starts processes."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from hanlin.cli.commands.doctor.check import Check
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import SPAWN_VARIABLE, available_cores, forks, run_process, total_memory

_X86 = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_ARM = ("asimd", "sve", "bf16", "i8mm")
LEAST_MEMORY_GIB, LEAST_DISK_GIB = 4, 5


def check_machine(home: Path) -> list[Check]:
    """Processor, memory, the start of processes, and the disks that Hanlin writes to.

    Args:
        home: The folder of artifacts.
    """
    return [_processor(), _memory(), _processes(), *_disks(home), _temporary()]


def _processor() -> Check:
    machine = platform.machine().lower()
    flags = read_instruction_sets()
    is_x86 = machine in ("x86_64", "amd64", "i686")
    ok = not is_x86 or "avx2" in flags or not flags
    hint = "" if ok else tr("the embedded llama.cpp needs AVX2")
    return Check("machine", tr("processor"), f"{available_cores()} × {machine} {' '.join(flags)}".rstrip(), ok, hint)


def read_instruction_sets() -> list[str]:
    """The instruction sets that decide what is fast; empty if the system does not say."""
    names = _ARM if platform.machine().lower() in ("aarch64", "arm64") else _X86
    text = ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if sys.platform == "darwin" and (program := shutil.which("sysctl")):
            done = run_process([program, "-a"], capture_output=True, text=True, errors="replace")
            text = (
                done.stdout.lower().replace("feat_", "").replace("advsimd", "asimd").replace(".", " ").replace(":", " ")
            )
    words = set(text.split())
    return [name for name in names if name in words]


def _memory() -> Check:
    size = total_memory()
    if size is None:
        return Check("machine", tr("memory"), "?", True, optional=True)
    total = size / 2**30
    ok = total >= LEAST_MEMORY_GIB
    return Check("machine", tr("memory"), f"{total:.1f} GiB", ok, "" if ok else f"{LEAST_MEMORY_GIB} GiB")


def _processes() -> Check:
    try:
        is_forking = forks()
    except UserError as error:
        return Check("machine", tr("processes"), f"{SPAWN_VARIABLE}: {error.what}", False, error.hint or "")
    how = (
        tr("fork: stages share the imports of the first") if is_forking else tr("spawn: each stage imports torch again")
    )
    return Check("machine", tr("processes"), how, True)


def _disks(home: Path) -> list[Check]:
    rows = [(tr("free disk space here"), home, False)]
    try:
        from hanlin.pipeline.hubs import hugging_face, modelscope
    except ModuleNotFoundError:  # a required package, which the list of packages tells
        return [_disk(*row) for row in rows]
    rows.append((tr("free disk space of the hubs' caches"), hugging_face.cache_folder(), True))
    if modelscope.cache_folder().is_dir():
        rows.append((tr("free disk space of ModelScope's cache"), modelscope.cache_folder(), True))
    return [_disk(*row) for row in rows]


def _disk(name: str, folder: Path, optional: bool) -> Check:
    existing = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), Path("/"))
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return Check("machine", name, f"{free:.1f} GiB · {folder}", False, tr("it cannot be written to"), optional)
    ok = free >= LEAST_DISK_GIB
    hint = "" if ok else tr("free at least 5 GiB") + ("; hanlin cache ls" if optional else "")
    return Check("machine", name, f"{free:.1f} GiB · {folder}", ok, hint, optional)


def _temporary() -> Check:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return Check("machine", tr("temporary files"), "–", False, tr("name a folder in TMPDIR"))
    return Check("machine", tr("temporary files"), folder, True)
