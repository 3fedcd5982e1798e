"""What can be checked of the container without a daemon: its files are there, its commands start, nobody is root.

The steps themselves were run by hand in a clean folder; `docs/en/platforms.md` says which.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from hanlin.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def is_sent(name: str) -> bool:
    """Whether `.dockerignore` lets a file or folder of the checkout through: the last line that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        if fnmatch.fnmatch(name, line.lstrip("!")):
            sent = line.startswith("!")
    return sent


def test_every_file_that_is_copied_is_there_and_sent_to_the_builder() -> None:
    copies = [text.split() for name, text in instructions() if name == "COPY" and not text.startswith("--from")]
    named = [source for words in copies for source in words[:-1]]
    assert named and all((ROOT / source).exists() and is_sent(source) for source in named)
    assert not is_sent(".git") and not is_sent("runs") and not is_sent(".env")


def test_what_the_build_reads_is_copied() -> None:
    copied = " ".join(text for name, text in instructions() if name == "COPY")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in re.findall(r'(?:readme = |license-files = \[)"([^"]+)"', project):
        assert name in copied.split()
    shipped = re.findall(
        r'"([\w.-]+)(?:/[\w*./]*)?"[,)]', (ROOT / "setup.py").read_text(encoding="utf-8").partition("class ")[0]
    )
    assert {"recipes", "llms.txt", "SKILL.md", "docs"} == set(shipped) <= set(copied.split())


def test_the_last_user_is_not_root_and_is_named_by_its_number() -> None:
    users = [text for name, text in instructions() if name == "USER"]
    assert users and users[-1].isdigit() and int(users[-1]) > 0


def test_health_is_asked_on_the_port_that_is_exposed() -> None:
    port = next(text for name, text in instructions() if name == "EXPOSE")
    check = next(text for name, text in instructions() if name == "HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/health" in check
    assert any(
        "/health" in line for line in (ROOT / "src/hanlin/serve/app.py").read_text(encoding="utf-8").splitlines()
    )


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_runs_a_command_that_exists_without_rights(name: str) -> None:
    service = SERVICES[name]
    command: Any = get_command(app)
    loaded = command.get_command(None, service["command"][0])
    options = {flag for param in loaded.params for flag in param.opts}
    assert all(word in options for word in service["command"] if word.startswith("--"))
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged") and "user" not in service


def test_the_demo_is_made_before_it_is_served_and_only_this_machine_reaches_it() -> None:
    assert SERVICES["serve"]["depends_on"] == {"demo": {"condition": "service_completed_successfully"}}
    recipe = Path(SERVICES["demo"]["command"][1])
    assert (ROOT / "recipes" / recipe.name).is_file() and recipe.parent.name == "recipes"
    stages = yaml.safe_load((ROOT / "recipes" / recipe.name).read_text(encoding="utf-8"))["stages"]
    model = Path(SERVICES["serve"]["command"][1].partition("=")[2])
    assert model.parts[:4] == ("/", "data", "runs", recipe.stem) and model.name in stages
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["serve"]["ports"])
    assert "HANLIN_API_KEY" in SERVICES["serve"]["environment"]


def test_torch_is_pinned_for_both_builds() -> None:
    assert re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    arguments = dict(text.partition("=")[::2] for name, text in instructions() if name == "ARG")
    assert arguments["TORCH"] == "cpu" and SERVICES["demo"]["build"]["args"]["TORCH"] == "${TORCH:-cpu}"
