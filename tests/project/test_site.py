"""The documentation site builds without a warning, in both languages, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hanlin

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed (pip install 'hanlin[docs]')"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: English pages at its root, Chinese ones below `zh/`."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # a child's warnings are the packages' own, not those that this suite makes errors
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"}
    built = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300)
    output = built.stdout + built.stderr
    warnings = [line for line in output.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert not warnings, "\n".join(warnings)
    assert built.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """`docs/hooks.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@needs_mkdocs
def test_every_page_is_built_in_both_languages(site: Path) -> None:
    for file in sorted((DOCS / "en").rglob("*.md")):
        name = "" if file.stem == "index" else file.stem
        assert (site / name / "index.html").is_file()
        assert (site / "zh" / name / "index.html").is_file()


@needs_mkdocs
def test_a_page_leads_to_the_same_page_in_the_other_language(site: Path) -> None:
    page = (site / "migration" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<a href="\.\./zh/migration/" hreflang="zh"', page)


@needs_mkdocs
def test_every_decision_is_reachable_in_both_languages(site: Path) -> None:
    for folder in (site, site / "zh"):
        index = (folder / "decisions" / "index.html").read_text(encoding="utf-8")
        assert 'href="../decisions/"' in (folder / "migration" / "index.html").read_text(encoding="utf-8")
        for file in sorted((DOCS / "decisions").glob("[0-9]*.md")):
            assert f'href="{file.stem}/"' in index
            assert (folder / "decisions" / file.stem / "index.html").is_file()


@needs_mkdocs
def test_the_api_page_shows_every_public_name(site: Path) -> None:
    names = [name for name in getattr(hanlin, "__all__", ()) if not name.startswith("_")]
    for folder in (site, site / "zh"):
        page = (folder / "api" / "index.html").read_text(encoding="utf-8")
        assert [name for name in names if f'id="hanlin.{name}"' not in page] == []


@needs_mkdocs
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    tags = re.compile(r"<(?:link|script|img|iframe|source|video|audio)\b[^>]*>")
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        loaded = [tag for tag in tags.findall(text) if 'rel="canonical"' not in tag and 'rel="alternate"' not in tag]
        assert [tag for tag in loaded if re.search(r'(?:src|href)="(?:https?:)?//', tag)] == [], page
        assert 'class="mermaid"' not in text, f"{page}: the theme would fetch a program to draw this"
    for sheet in sorted(site.rglob("*.css")):
        assert not re.search(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@needs_mkdocs
def test_every_local_link_of_the_site_leads_somewhere(site: Path) -> None:
    dead = set()
    for page in pages(site):
        for link in re.findall(r'(?:href|src)="([^"#?:]+)[#?"]', page.read_text(encoding="utf-8")):
            start = site if link.startswith("/") else page.parent
            target = Path(os.path.normpath(start / link.lstrip("/")))
            if not (target.is_file() or (target / "index.html").is_file()):
                dead.add((page.relative_to(site).as_posix(), link))
    assert not dead


def test_a_link_out_of_the_docs_becomes_its_text(hooks: ModuleType) -> None:
    text = "see [`the recipe`](../../Makefile), [chat](chat.md#files) and [a paper](https://arxiv.org/abs/2106.09685)"
    expected = "see `the recipe`, [chat](chat.md#files) and [a paper](https://arxiv.org/abs/2106.09685)"
    assert hooks.without_outside_links(text, "en/serving.md") == expected
    assert hooks.without_outside_links("[gone](../../no_such_file)", "en/serving.md") == "[gone](../../no_such_file)"
