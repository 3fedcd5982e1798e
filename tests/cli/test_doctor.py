"""What `hanlin doctor` finds: the packages that the project's own metadata names, and what is too old or missing."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanlin.cli.commands import doctor
from hanlin.cli.main import app

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(lines: list[str]) -> list[str]:
    return [re.split(r"[\[<>=; ]", line, maxsplit=1)[0] for line in lines]


def test_every_package_that_the_project_can_use_is_looked_for() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = names(PROJECT["dependencies"]) + [
        name for extra in extras if extra != "dev" for name in names(extras[extra])
    ]
    assert [name for name in wanted if name not in {check.name for check in doctor.run_checks()}] == []


def test_an_old_or_missing_package_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "wandb":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = {check.name: check for check in doctor.run_checks()}
    assert not checks["torch"].ok and not checks["torch"].optional
    assert checks["torch"].version == "1.0, not >=2.13" and checks["torch"].hint == "pip install hanlin"
    assert not checks["wandb"].ok and checks["wandb"].optional
    assert checks["wandb"].hint == "pip install 'hanlin[wandb]'"
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
