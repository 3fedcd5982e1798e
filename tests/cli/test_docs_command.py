"""`hanlin docs`: every page without a network, for people and programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from hanlin.cli.commands.agents.pages import find_page, list_pages
from hanlin.cli.main import app
from hanlin.cli.table import entries
from hanlin.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    get_command(app)(["docs", *words], standalone_mode=False)
    return capsys.readouterr().out


def test_every_page_of_both_languages_is_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for language in ("en", "zh"):
        listed = json.loads(show(capsys, "--lang", language, "--json"))
        files = {file.stem for file in (ROOT / "docs" / language).glob("*.md")}
        assert {row["page"] for row in listed} == {*files, "llms", "skill"} and all(row["title"] for row in listed)
    assert show(capsys, "hubs", "--lang", "zh") == (ROOT / "docs" / "zh" / "hubs.md").read_text(encoding="utf-8")
    assert json.loads(show(capsys, "agents", "--lang", "en", "--json"))["title"] == "For programs and coding agents"
    assert "hubs" in show(capsys, "--lang", "en")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llms.txt", "llms.txt"),
        ("llms", "llms.txt"),
        ("SKILL.md", "SKILL.md"),
        ("skill", "SKILL.md"),
        ("docs/en/agents.md", "docs/en/agents.md"),
        ("data-formats", "docs/en/data_formats.md"),
        ("mistakes.md#a", "docs/en/mistakes.md"),
    ],
)
def test_a_page_has_the_name_that_links_to_it_have(name: str, file: str) -> None:
    assert find_page(name, "en").file == ROOT / file


def test_no_page_is_a_sentence_with_a_hint() -> None:
    with pytest.raises(UserError) as told:
        find_page("agnets", "en")
    assert told.value.code == "not_found" and "agents" in str(told.value.hint)


def test_every_link_of_the_list_for_language_models_leads_somewhere() -> None:
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20 and all((ROOT / link).is_file() for link in links)


def test_the_skill_has_the_form_that_agents_load_and_names_commands_that_exist() -> None:
    head, _, body = (ROOT / "SKILL.md").read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
    fields = yaml.safe_load(head)
    assert fields.keys() == {"name", "description"} and fields["name"] == "hanlin" and len(fields["description"]) < 1024
    assert len(body.splitlines()) < 60
    assert set(re.findall(r"`hanlin ([a-z-]+)", body)) <= entries().keys()
    pages = {page.name for page in list_pages("en")}
    assert set(re.findall(r"`hanlin docs ([a-z_]+)`", body)) <= pages
