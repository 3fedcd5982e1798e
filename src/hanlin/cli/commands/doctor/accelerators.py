"""Graphics processors and their like: what there is, what its driver knows, and what torch was built for.

torch is not imported, which takes seconds: the file `version.py` in its folder says what it was built for.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hanlin.cli.commands.doctor.check import Check
from hanlin.core.i18n import tr
from hanlin.core.process import run_process

INSTALL_TORCH = "https://pytorch.org/get-started/locally"
_SECONDS = 10
_INDEX = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{build}"


class TorchBuild(NamedTuple):
    """What the installed torch was built for: its version, and the versions of CUDA, ROCm and XPU, or empty texts."""

    version: str
    cuda: str
    hip: str
    xpu: str


def check_accelerators() -> list[Check]:
    """Every kind of accelerator that is here, and whether the installed torch can use it; one row if there is none."""
    build = read_torch_build()
    if build is None:
        return []  # the list of packages tells it
    checks = [check for check in (_nvidia(build), _amd(build), _ascend(), _apple(build), _intel(build)) if check]
    if checks:
        return checks
    return [Check("accelerator", "GPU", tr("none; everything runs on the CPU"), False, "", optional=True)]


def read_torch_build() -> TorchBuild | None:
    """What the installed torch was built for; None if there is no torch."""
    try:
        spec = importlib.util.find_spec("torch")
        if spec is None or not spec.submodule_search_locations:
            return None
        text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    except (OSError, ImportError, ValueError):
        return None

    def value(name: str) -> str:
        match = re.search(rf"^{name}(?:: [^=]+)? = ['\"]([^'\"]*)['\"]", text, re.MULTILINE)
        return match[1] if match else ""

    return TorchBuild(value("__version__"), value("cuda"), value("hip"), value("xpu"))


def _run(command: list[str]) -> str | None:
    """What a program prints, or None if it does not answer; with what it says of it in the first place."""
    try:
        done = run_process(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _nvidia(build: TorchBuild) -> Check | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        if not any(Path("/dev").glob("nvidia[0-9]*")):
            return None
        hint = tr(
            "install the driver's programs: nvidia-smi comes with the driver, and into containers with --gpus all"
        )
        return Check("accelerator", "NVIDIA", tr("there is a device, but no nvidia-smi"), False, hint)
    query = "--query-gpu=name,memory.total,driver_version"
    shown, page = _run([program, query, "--format=csv,noheader"]), _run([program])
    if not shown:
        hint = tr("restart the machine, or load the driver: sudo modprobe nvidia")
        return Check("accelerator", "NVIDIA", tr("nvidia-smi does not answer"), False, hint)
    return judge_nvidia(build, shown.strip().splitlines(), page or "")


def judge_nvidia(build: TorchBuild, devices: list[str], page: str) -> Check:
    """Whether torch can use NVIDIA GPUs with the driver that is here.

    Args:
        build: What torch was built for.
        devices: A line for each GPU.
        page: The page of nvidia-smi, which names the newest CUDA that the driver knows.

    A driver runs programs of its own major version of CUDA and of older ones (NVIDIA's minor version compatibility).
    """
    match = re.search(r"CUDA Version: *(\d+)\.(\d+)", page)
    known = f"{match[1]}.{match[2]}" if match else "?"
    found = f"{'; '.join(devices)} · CUDA {known} · torch {build.version}"
    if not build.cuda:
        wanted = f"cu{match[1]}{match[2]}" if match else "cu126"
        hint = tr("this torch has no CUDA: {command}", command=_INDEX.format(build=wanted))
        return Check("accelerator", "NVIDIA", found, False, hint)
    if match and int(build.cuda.partition(".")[0]) > int(match[1]):
        hint = tr("torch wants CUDA {wanted}, the driver knows {known}: update the driver, or {command}",
                  wanted=build.cuda, known=known, command=_INDEX.format(build=f"cu{match[1]}{match[2]}"))  # fmt: skip
        return Check("accelerator", "NVIDIA", found, False, hint)
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return Check("accelerator", "NVIDIA", found, False, tr("hidden: unset CUDA_VISIBLE_DEVICES"), True)
    return Check("accelerator", "NVIDIA", found, True)


def _amd(build: TorchBuild) -> Check | None:
    if not Path("/dev/kfd").exists():
        return None
    hint = "" if build.hip else tr("this torch has no ROCm: see {page}", page=INSTALL_TORCH)
    return Check("accelerator", "AMD", f"ROCm {build.hip or '–'} · torch {build.version}", bool(build.hip), hint)


def _ascend() -> Check | None:
    if not any(Path("/dev").glob("davinci[0-9]*")):
        return None
    installed = importlib.util.find_spec("torch_npu") is not None
    hint = "" if installed else "pip install torch_npu"
    return Check("accelerator", "Ascend NPU", "torch_npu" if installed else "–", installed, hint)


def _apple(build: TorchBuild) -> Check | None:
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return None
    return Check("accelerator", "Apple GPU (MPS)", f"torch {build.version}", True)


def _intel(build: TorchBuild) -> Check | None:
    return Check("accelerator", "Intel XPU", f"torch {build.version}", True, "", True) if build.xpu else None
