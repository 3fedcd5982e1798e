"""Ollama's choice between a Modelfile's template and that in the GGUF file is told right in the documentation.

Source of the rule: `server/images.go` of Ollama (`shouldPreferChatTemplate`). It looks for words in both templates.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from hanlin.chat.packaged import packaged_names, read_packaged_template

DOCS = Path(__file__).resolve().parents[2] / "docs"


def prefers_jinja(name: str) -> bool:
    jinja = read_packaged_template(name)
    go = (resources.files("hanlin.parity") / "go_templates" / f"{name}.gotmpl").read_text(encoding="utf-8")
    in_jinja = ("tools" in jinja or "tool_call" in jinja) + ("<think>" in jinja and "</think>" in jinja)
    return in_jinja > (".Tools" in go) + (".Thinking" in go)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_names_the_template_that_ollama_takes(language: str) -> None:
    page = (DOCS / language / "ollama.md").read_text(encoding="utf-8")
    go, jinja = (
        set(re.findall(r"`([^`]+)`", row.split("|")[1]))
        for row in page.splitlines()
        if "`chatml`" in row or "`hermes` `llama3.1`" in row
    )
    assert jinja == {name for name in packaged_names() if prefers_jinja(name)}
    assert go == set(packaged_names()) - jinja
