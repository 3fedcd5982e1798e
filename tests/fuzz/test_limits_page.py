"""The page on model files names the limits that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.chat.rendering import work_budget
from hanlin.core import limits

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_names_every_limit(language: str) -> None:
    page = (ROOT / "docs" / language / "model_files.md").read_text(encoding="utf-8")
    values = {name: getattr(limits, name) for name in vars(limits) if name.startswith("MAX_")}
    values |= {name: getattr(work_budget, name) for name in vars(work_budget) if name.startswith("MAX_")}
    derived = {"MAX_SIZE", "MAX_GGUF_ITEMS", "MAX_VOCABULARY_CHARACTERS"}  # of numbers that the page names
    written = {name: (f"{value:g}", f"{value}", f"{int(value) >> 20} MiB") for name, value in values.items()}
    missing = {name: forms for name, forms in written.items() if not any(form in page for form in forms)}
    assert set(missing) <= derived
