"""Citation, contributing guides and issue templates agree with the code and with each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import hanlin

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("CONTRIBUTING.md", "CONTRIBUTING.zh-CN.md")
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.zh-CN.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str) -> list[str]:
    """Rows of the tables of a page, without their headings."""
    return [line for line in text.splitlines() if line.startswith("| ")]


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def is_path(span: str) -> bool:
    return " " not in span and bool(re.search(r"/|\.(py|toml|yml|md)$", span))


def matches(span: str) -> list[Path]:
    """Files and folders that a path means, below the repository or the package; `<name>` is any name."""
    pattern = re.sub(r"<\w+>", "*", span).rstrip("/")
    return [path for folder in (ROOT, ROOT / "src" / "hanlin") for path in folder.glob(pattern)]


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == hanlin.__version__
    assert citation["license"] == "Apache-2.0"
    released = re.search(rf"^## \[{re.escape(citation['version'])}\] - (\S+)$", read("CHANGELOG.md"), re.M)
    assert released, "the changelog has no dated section of this version"
    assert released[1] == str(citation["date-released"])


def test_both_contributing_guides_name_the_same_files_in_each_row() -> None:
    english, chinese = (rows(read(name)) for name in GUIDES)
    assert len(english) > 15
    assert [sorted(code_spans(row)) for row in english] == [sorted(code_spans(row)) for row in chinese]


@pytest.mark.parametrize("row", rows(read(GUIDES[0]))[1:], ids=lambda row: row.split("|")[1].strip())
def test_every_path_of_how_to_add_exists(row: str) -> None:
    assert [span for span in code_spans(row) if is_path(span) and not matches(span)] == []


@pytest.mark.parametrize("row", rows(read(GUIDES[0]))[1:], ids=lambda row: row.split("|")[1].strip())
def test_every_name_of_how_to_add_is_in_a_file_of_its_row(row: str) -> None:
    """Tables, classes and functions are where the guide says: `TURN_RULES` in a file that the same row names."""
    paths = [path for span in code_spans(row) if is_path(span) for path in matches(span) if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    names = [span for span in code_spans(row) if re.fullmatch(r"[A-Za-z]\w*_\w+|[A-Z]\w+", span)]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_make_target_that_a_guide_names_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.M))
    for name in GUIDES:
        named = set(re.findall(r"(?:^|`)make ([\w-]+)", read(name), re.M))
        assert named, f"{name} names no target"
        assert named - targets == set()


@pytest.mark.parametrize("chinese", TEMPLATES, ids=lambda file: file.name)
def test_issue_forms_ask_the_same_in_both_languages(chinese: Path) -> None:
    def form(file: Path) -> list[tuple[Any, ...]]:
        template = yaml.safe_load(file.read_text(encoding="utf-8"))
        items = [
            (item["type"], item.get("id"), item.get("validations"), len(item["attributes"].get("options", [])))
            for item in template["body"]
        ]
        return [(template["title"], template["labels"]), *items]

    assert form(chinese) == form(chinese.with_name(chinese.name.replace(".zh-CN", "")))


def test_every_issue_form_has_a_chinese_counterpart() -> None:
    forms = {file.name for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")} - {"config.yml"}
    assert {name for name in forms if ".zh-CN" not in name} == {file.name.replace(".zh-CN", "") for file in TEMPLATES}
