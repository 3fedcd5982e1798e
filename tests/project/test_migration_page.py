"""The pages for people who come from other tools name settings and kinds that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
LANGUAGES = ("en", "zh")
PEERS = sorted(path.stem for path in (DOCS / "en").glob("peer_*.md"))


def page(language: str) -> str:
    return (DOCS / language / "migration.md").read_text(encoding="utf-8")


def words(schema: Any) -> Iterator[str]:
    """Every name of a property, and every constant (the kinds among them), of a JSON schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {}) if isinstance(schema.get("properties"), dict) else ()
        yield from (value for value in [schema.get("const"), *schema.get("enum", ())] if isinstance(value, str))
        for value in schema.values():
            yield from words(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from words(value)


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of settings and kinds: what the recipe's schema, which is generated from the settings classes, holds."""
    return set(words(json.loads((DOCS / "recipe.schema.json").read_text(encoding="utf-8"))))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_setting_in_the_first_column_exists(language: str, known: set[str]) -> None:
    rows = [line.split("|")[1] for line in page(language).splitlines() if line.startswith("| ")]
    named = {span for row in rows for span in re.findall(r"`([\w.]+)`", row)}
    assert len(named) > 40
    assert sorted(span for span in named if not set(span.split(".")) <= known) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_recipe_of_the_page_has_settings_that_exist(language: str, known: set[str]) -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page(language), re.DOTALL)]
    (recipe,) = [block for block in blocks if "stages" in block]
    for stage in recipe["stages"].values():
        assert stage["kind"] in known
        assert sorted(set(stage) - {"kind"} - known) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("peer", PEERS)
def test_every_setting_and_kind_that_a_peers_page_leads_to_exists(peer: str, language: str, known: set[str]) -> None:
    text = (DOCS / language / f"{peer}.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in text.splitlines() if line.startswith("| ")][1:]
    named = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 5, "a peer's page has a table that translates its settings"
    settings = {span for span in named if not span.startswith("hanlin ")}
    assert sorted(span for span in settings if not set(span.split(".")) <= known) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_peer_has_a_page_that_the_index_leads_to(language: str) -> None:
    index = (DOCS / language / "peers.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((peer_\w+)\.md\)", index)) == set(PEERS)
    assert len(PEERS) >= 17
    for peer in PEERS:
        text = (DOCS / language / f"{peer}.md").read_text(encoding="utf-8")
        assert text.count("\n## ") == 4, f"{peer}: when it, when Hanlin, how to move, how to use both"
