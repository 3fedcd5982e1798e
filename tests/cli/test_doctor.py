"""What `hanlin doctor` finds: what works, what does not, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.commands.doctor import accelerators, app, environment, machine
from hanlin.cli.commands.doctor.accelerators import TorchBuild, judge_nvidia, read_torch_build
from hanlin.cli.commands.doctor.check import Check
from hanlin.cli.main import app as hanlin
from hub_server import hub_server

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(lines: list[str]) -> list[str]:
    return [re.split(r"[\[<>=; ]", line, maxsplit=1)[0] for line in lines]


def by_name(*extra: Check) -> dict[str, Check]:
    return {check.name.rpartition(": ")[2]: check for check in [*app.run_checks(Path(".")), *extra]}


def test_every_package_that_the_project_can_use_is_looked_for() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = names(PROJECT["dependencies"]) + [
        name for extra in extras if extra != "dev" for name in names(extras[extra])
    ]
    assert set(wanted) - by_name().keys() == set()


def test_an_old_or_missing_package_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "wandb":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = by_name()
    assert checks["torch"].state == "fails"
    assert checks["torch"].found == "1.0, not >=2.13" and checks["torch"].hint == "pip install hanlin"
    assert checks["wandb"].state == "absent" and checks["wandb"].hint == "pip install 'hanlin[wandb]'"
    result = CliRunner().invoke(hanlin, ["doctor"])
    assert result.exit_code == 1 and "1.0, not >=2.13" in result.stdout and "wandb" in result.stdout


def test_half_an_installation_is_told_and_not_died_of(tmp_path: Path) -> None:
    """The names of these packages lead nowhere, as if they were not installed."""
    missing = ("packaging", "httpx2", "httpcore2", "filelock", "torch", "numpy")
    (tmp_path / "without.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n"
        "from hanlin.__main__ import main\nsys.argv[0] = 'hanlin'\nmain()\n",
        encoding="utf-8",
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "without.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)

    shown = run("doctor")
    assert shown.returncode == 1 and "Traceback" not in shown.stderr
    assert "pip install hanlin" in shown.stdout and "8000" in shown.stdout
    planned = run("plan", "recipe.yaml", "--json")
    assert planned.returncode == 2 and "Traceback" not in planned.stderr
    assert json.loads(planned.stdout)["error"]["code"] == "missing_package"


def test_it_fits_on_one_screen_and_tells_programs_everything() -> None:
    shown = CliRunner().invoke(hanlin, ["doctor"]).stdout
    assert len(shown.splitlines()) <= 24
    rows = json.loads(CliRunner().invoke(hanlin, ["doctor", "--json"]).stdout)
    assert all(row.keys() == {"group", "name", "found", "state", "ok", "hint"} for row in rows)
    assert {row["state"] for row in rows} <= {"works", "absent", "fails"}
    assert len(rows) > 50 and len(CliRunner().invoke(hanlin, ["doctor", "--all"]).stdout.splitlines()) > 50


def test_extras_that_do_not_go_together_are_not_installed_by_one_line() -> None:
    from hanlin.cli.commands.doctor.app import _summarize_extras

    rows = [Check("extra", f"{name}: x", "", False) for name in ("ray", "swanlab", "wandb", "web-tests")]
    (shown,) = _summarize_extras(rows)
    assert shown.hint == "pip install 'hanlin[ray,wandb]'" and "swanlab" in shown.found
    (alone,) = _summarize_extras(rows[1:2])
    assert alone.hint == "pip install 'hanlin[swanlab]'"


def build(cuda: str) -> TorchBuild:
    return TorchBuild("2.13.0", cuda, "", "")


PAGE = "| NVIDIA-SMI 535.1   Driver Version: 535.1   CUDA Version: {} |"


@pytest.mark.parametrize(
    ("cuda", "driver", "said"),
    [
        ("12.8", "12.8", ""),
        ("12.8", "12.2", ""),  # minor versions are compatible
        ("11.8", "12.2", ""),
        ("13.0", "12.4", "torch wants CUDA 13.0, the driver knows 12.4: update the driver, or pip install"),
        ("", "12.6", "this torch has no CUDA: pip install --force-reinstall torch --index-url "),
    ],
)
def test_a_torch_that_the_driver_cannot_run_is_told(cuda: str, driver: str, said: str) -> None:
    check = judge_nvidia(build(cuda), ["H200, 141 GB, 535.1"], PAGE.format(driver))
    assert check.ok == (not said) and said in check.hint
    if said:
        assert check.hint.endswith(f"whl/cu{driver.replace('.', '')}")


def test_what_torch_was_built_for_is_read_without_importing_it() -> None:
    found = read_torch_build()
    assert found is not None and found.version.startswith(importlib.metadata.version("torch").partition("+")[0])
    assert bool(found.cuda) == ("+cpu" not in found.version and not found.hip and not found.xpu)


def test_a_driver_that_does_not_answer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = accelerators._nvidia(build("12.8"))
    assert check is not None and check.state == "fails" and "restart the machine" in check.hint


def test_a_small_disk_or_one_that_cannot_be_written_to_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage: Any = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    check = machine._disk("disk", tmp_path / "not" / "yet", False)
    assert check.state == "fails" and check.hint == "free at least 5 GiB"
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert machine._disk("disk", tmp_path, False).hint == "it cannot be written to"


def test_a_port_in_use_is_told_with_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = environment._port(port)
    assert check.state == "absent" and check.hint.endswith(f"--port {port + 1}")
    assert environment._port(port).ok


def test_an_encoding_without_chinese_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.locale, "getpreferredencoding", lambda do_setlocale: "ANSI_X3.4-1968")
    check = environment._encoding()
    assert not check.ok and check.hint.endswith("export LANG=C.UTF-8")


def test_hubs_are_named_and_asked_only_with_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
        assert by_name()["hf:"].found == server.url and server.seen == []
        reached, unreached = environment.check_network()
    assert reached.ok and "ms" in reached.found
    assert unreached.state == "fails" and "hf:owner/name" in unreached.hint
    monkeypatch.setenv("HF_ENDPOINT", "ftp://x")
    assert by_name()["hf:"].state == "fails"


def test_a_proxy_is_told_without_its_password_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://hub.example")
    assert by_name()["proxy"].found == "http: 127.0.0.1:9"
    for check in environment.check_network():
        assert check.state == "fails" and "refused" in check.found and "secret" not in check.found


def test_a_word_that_is_no_way_to_start_processes_is_told_with_all_other_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HANLIN_START", "foo")
    result = CliRunner().invoke(hanlin, ["doctor", "--json"])
    (wrong,) = [row for row in json.loads(result.stdout) if "HANLIN_START" in row["found"]]
    assert result.exit_code == 1 and wrong["state"] == "fails" and wrong["hint"] == "fork or spawn"


def test_how_processes_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine._processes().found.startswith("fork")
    monkeypatch.setenv("HANLIN_START", "spawn")
    assert machine._processes().found.startswith("spawn")
