"""Generated pages are current, links lead somewhere, and commands, benchmarks and paths that pages name exist."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from hanlin.config.kinds import KINDS
from hanlin.config.schema import json_schema
from hanlin.config.settings_page import markdown
from hanlin.core.i18n import Language, translate

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_settings_page_is_current(language: Language) -> None:
    page = ROOT / "docs" / language / "settings.md"
    assert page.read_text(encoding="utf-8") == markdown(language), "run `make docs`"


def test_the_recipe_schema_is_current() -> None:
    text = (ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(json_schema())), "run `make docs`"


def test_every_setting_is_explained_in_both_languages() -> None:
    from hanlin.config.settings_page import rows_of

    for kind in KINDS.values():
        for row in rows_of(kind.settings):
            assert row.description, f"{kind.name}.{row.name} lacks its description"
            assert translate(row.description, "zh") != row.description


def test_every_setting_is_read_somewhere() -> None:
    from hanlin.config.settings_page import rows_of

    code = "\n".join(
        file.read_text(encoding="utf-8")
        for file in (ROOT / "src" / "hanlin").rglob("*.py")
        if "settings/" not in file.as_posix()
    )
    names = set(re.findall(r"\.(\w+)|[\"'](\w+)[\"']", code))
    read = {name for pair in names for name in pair}
    for kind in KINDS.values():
        for row in rows_of(kind.settings):
            assert row.name.split(".")[-1] in read, f"{kind.name}.{row.name}"


def test_both_readmes_have_the_same_headings_and_commands() -> None:
    english = (ROOT / "README.md").read_text(encoding="utf-8")
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^#+ ", english, re.M)) == len(re.findall(r"^#+ ", chinese, re.M))

    def commands(text: str) -> list[str]:
        return re.findall(r"^(?:hanlin|make) .*$", text, re.M)

    assert [c.split("#")[0].strip() for c in commands(english)] == [c.split("#")[0].strip() for c in commands(chinese)]


PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    lost = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not lost


def commands_of(page: Path) -> list[list[str]]:
    """The words of each `hanlin` command in a page's code, without comments and what follows `--`."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    return words_of(re.findall(r"^(hanlin .+)$", blocks, re.M) + re.findall(r"`(hanlin [^`]+)`", text))


def words_of(lines: list[str]) -> list[list[str]]:
    return [re.split(r"\s#|\s--\s", line)[0].split()[1:] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    assert find_wrong(commands_of(page)) == []


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_command_and_page_in_the_comments_of_a_recipe_exists(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert find_wrong(words_of(re.findall(r"^# +(hanlin .+)$", text, re.M))) == []
    named = re.findall(r"\bdocs/[\w./]+\.\w+", text)
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_every_command_that_a_message_proposes_exists_with_its_options() -> None:
    catalog = read_po(io.BytesIO((ROOT / "src/hanlin/locale/zh_CN/LC_MESSAGES/hanlin.po").read_bytes()))
    texts = [text for message in catalog if message.id for text in (str(message.id), str(message.string))]
    lines = [line for text in texts for line in re.findall(r"`(hanlin [a-z][^`]*)`", text)]  # `hanlin {command}` is any
    assert len(lines) > 30
    assert find_wrong(words_of(lines)) == []


def find_wrong(commands: list[list[str]]) -> list[str]:
    """The commands that do not exist, or lack an option that is given."""
    from typer import Context
    from typer.main import get_command

    from hanlin.cli.main import app

    root = get_command(app)
    wrong = []
    for words in commands:
        command, rest = root, list(words)
        while rest and hasattr(command, "get_command"):
            if not re.fullmatch(r"[a-z][a-z-]*", rest[0]):
                break
            command = command.get_command(Context(command), name := rest.pop(0))
            if command is None:
                wrong.append(f"hanlin {' '.join(words)}: no command {name}")
                break
        if command is None:
            continue
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        options = {word.split("=")[0].replace("_", "-") for word in rest if re.match(r"--?[a-z]", word)}
        missing = options - known - {"--help", "-h"}
        if missing:
            wrong.append(f"hanlin {' '.join(words)}: no option {' '.join(sorted(missing))}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    """Paths below the repository or, as in the architecture page, below `src/hanlin/`."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|bench|docs|examples|recipes)/[\w./-]+)`", text)
    named += re.findall(r"(?<![\w/.<-])((?:[a-z_]+/)+\w+\.(?:py|go))\b", text)
    roots = (ROOT, ROOT / "src" / "hanlin")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []


def test_every_benchmark_that_a_page_names_is_there() -> None:
    named = {name for page in PAGES for name in re.findall(r"make bench-([a-z_-]+)", page.read_text(encoding="utf-8"))}
    assert "data" in named
    assert [name for name in sorted(named) if not (ROOT / "bench" / f"{name.replace('-', '_')}.py").is_file()] == []


def table_names(page: str, heading: str, column: int) -> set[str]:
    """Code spans in one column of the tables below a heading of an English page."""
    text = (ROOT / "docs" / "en" / page).read_text(encoding="utf-8")
    section = re.split(rf"^## {re.escape(heading)}$", text, maxsplit=1, flags=re.M)[1].split("\n## ")[0]
    cells = [line.split("|")[column] for line in section.splitlines() if line.startswith("| ")]
    return {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


def test_the_page_of_rules_lists_those_that_apply_only_if_they_are_named() -> None:
    from hanlin.config.settings.rules import CHAT_RULES, CHOSEN_TEXT_RULES, TURN_RULES

    assert table_names("data_rules.md", "Rules", 1) == {*CHOSEN_TEXT_RULES, *TURN_RULES} - {*CHAT_RULES}


def test_the_page_of_results_names_rules_and_reasons_of_the_ledger() -> None:
    from hanlin.config.reasons import DROP_REASONS
    from hanlin.config.settings.rules import ALL_TEXT_RULES, TURN_RULES

    names = table_names("data_on_real_text.md", "Counts and false positives", 1)
    assert len(names) > 15
    assert names - {*DROP_REASONS, *ALL_TEXT_RULES, *TURN_RULES} == set()


def test_the_page_of_formats_lists_every_format_and_what_cannot_be_written() -> None:
    from hanlin.config.settings import sources
    from hanlin.data.formats.writers import LOST_PARTS, OUTPUT_FORMATS, UNWRITABLE_REASONS

    formats = {
        *sources.DOCUMENT_FORMAT_NAMES,
        *sources.CHAT_FORMAT_NAMES,
        *sources.PREFERENCE_FORMAT_NAMES,
        *sources.UNPAIRED_FORMAT_NAMES,
    }
    containers = {"text", "text_blocks", "text_lines"}
    assert formats - containers == table_names("data_formats.md", "Reading", 2) - {"format"} - containers
    assert table_names("data_formats.md", "Writing", 1) == {*OUTPUT_FORMATS}
    assert table_names("data_formats.md", "Writing", 3) - {*LOST_PARTS} <= {*UNWRITABLE_REASONS}
