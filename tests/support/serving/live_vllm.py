"""A real vLLM that serves a folder on a loopback port, for the time of a test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS_TO_START = 600


def vllm_program() -> str:
    """The program that HANLIN_VLLM names; without it the test is skipped."""
    named = os.environ.get("HANLIN_VLLM", "")
    if not named:
        pytest.skip("needs a vLLM in an environment of its own (HANLIN_VLLM names its program, see docs/en/vllm.md)")
    program = shutil.which(named)
    assert program, f"HANLIN_VLLM names no program: {named}"
    return program


def vllm_environment() -> dict[str, str]:
    """Variables for a vLLM of its own environment: without our packages, with a small cache, and off the network."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return environment | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


@contextmanager
def live_vllm(folder: Path, log: Path, *options: str) -> Iterator[str]:
    """The address of a vLLM that serves `folder`; what it prints goes to `log`."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [vllm_program(), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "tiny", "--dtype", "bfloat16", "--enforce-eager", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=vllm_environment(), cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(process, address, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start: {log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
