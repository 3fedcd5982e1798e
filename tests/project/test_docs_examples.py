"""What pages say to type is accepted: recipes in YAML blocks, values of options, scripts, names of Python.

`test_docs.py` checks that commands and options exist; here their values are read as the command would read them, up to
the point where it would look at files.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hanlin
from hanlin.config.kinds import KINDS
from hanlin.config.recipe import build_recipe
from hanlin.config.settings.base import references
from hanlin.config.validation import read_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OTHERS = ("model_name_or_path", "services")
"""Keys of YAML blocks that are another program's: a run of LLaMA-Factory, a compose file."""
TOP = {"name", "seed", "root", "launch", "report"}
DATA_KINDS = ("conversations", "preferences", "unpaired_preferences", "corpus")
"""The stages whose settings a block may show alone, the one that is meant first."""
STANDS_FOR: dict[str, dict[str, Any]] = {
    "documents": {"kind": "corpus", "sources": "./text"},
    "conversations": {"kind": "conversations", "sources": "./chats"},
    "preferences": {"kind": "preferences", "sources": "./pairs"},
    "unpaired_preferences": {"kind": "unpaired_preferences", "sources": "./judged"},
    "tokenizer": {"kind": "train_tokenizer", "text": "./text", "entries": 600},
    "model": {"kind": "import_gguf", "gguf": "./model.gguf"},
    "adapter": {"kind": "import_checkpoint", "checkpoint": "./adapter", "holds": "adapter"},
    "importance": {"kind": "imatrix", "model": "./model", "data": "./text"},
    "quality_model": {"kind": "quality_model", "good": "./good", "bad": "./bad"},
    "gguf": {"kind": "gguf", "model": "./model"},
    "evaluation": {"kind": "probe", "model": "./model"},
    "files": {"kind": "demo_world"},
}
"""A stage for each type of artifact, put where a block reads a stage that the page leaves out."""


def blocks(page: Path, languages: str) -> Iterator[str]:
    """The fenced blocks of a page in one of some languages (`yaml|yml`; empty: without a language)."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(rf"^```(?:{languages})\n(.*?)^```", text, re.M | re.S)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def whole(block: dict[str, Any]) -> dict[str, Any]:
    """A recipe with what a block shows: a recipe, its top, some of its stages, or settings of a data stage."""
    if "stages" in block:
        recipe = dict(block)
    elif all(isinstance(value, dict) and "kind" in value for value in block.values()):
        recipe = {"stages": dict(block)}
    elif set(block) <= TOP:
        recipe = {**block, "stages": {"world": {"kind": "demo_world"}}}
    else:
        name = next(name for name in DATA_KINDS if set(block) <= set(KINDS[name].settings.model_fields))
        recipe = {"stages": {name: {"kind": name, "sources": "./rows", **block}}}
    stages = dict(recipe["stages"])
    for name, stage in recipe["stages"].items():
        kind = KINDS[stage["kind"]]
        if kind.group:  # a page on one matter of training leaves out what is trained on what
            stages[name] = stage = {"model": "./model", "data": "./rows", **stage}
        settings = read_settings(kind.settings, {k: v for k, v in stage.items() if k != "kind"}, name, name, kind.name)
        for reference in references(settings):
            head = reference.text.partition("/")[0]
            if head not in stages and re.fullmatch(r"\w+", head):
                stages[head] = next(STANDS_FOR[made] for made in reference.types if made in STANDS_FOR)
    return {**recipe, "stages": stages}


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "yaml"))], ids=name_of)
def test_every_recipe_on_a_page_is_accepted(page: Path) -> None:
    for text in blocks(page, "yaml"):
        block = yaml.safe_load(text)
        if not any(key in block for key in OTHERS):
            build_recipe(whole(block), name_of(page))


# --- commands ---------------------------------------------------------------------------------------------------------


def typed_commands(page: Path) -> list[list[str]]:
    """The words of each `hanlin` command in a page's blocks, without comments, variables of the shell put in."""
    lines: list[list[str]] = []
    for block in blocks(page, "|bash|sh"):
        text = block.replace("\\\n", " ")
        for name, value in re.findall(r"^(\w+)=(\S+)$", text, re.M):
            text = text.replace(f"${name}", value)
        for line in re.findall(r"^(?:\w+=\S+ )*(hanlin .+)$", text, re.M):
            lines.append(shlex.split(re.split(r"\s#|\s&&\s", line)[0])[1:])
    return lines


def read_command(words: list[str]) -> None:
    """Read a command's words as its parser does, and the settings of a stage's command as a recipe of that stage.

    Raises:
        UserError, ClickException: The words are refused.
    """
    from typer.main import get_command

    from hanlin.cli.commands.stage_options import StageCommand, options_of, settings_from
    from hanlin.cli.main import app

    command: Any = get_command(app)
    with command.make_context("hanlin", list(words), resilient_parsing=False) as context:
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, rest, parent=context)
        kind = KINDS.get(str(context.info_name).replace("-", "_"))
        if kind is not None and isinstance(command, StageCommand):
            settings = settings_from(options_of(kind.settings), context.params)
            build_recipe({"stages": {kind.name: {"kind": kind.name, **settings}}}, " ".join(words))


@pytest.mark.parametrize("page", [page for page in PAGES if typed_commands(page)], ids=name_of)
def test_every_command_of_a_page_is_read_with_its_values(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = []
    for words in typed_commands(page):
        try:
            read_command(words)
        except Exception as error:
            wrong.append(f"hanlin {' '.join(words)}: {error}")
    assert wrong == []


def code_of(script: Path) -> str:
    """The code of a script and of the files beside it that it imports."""
    code = script.read_text(encoding="utf-8")
    names = re.findall(r"^from (\w+) import|^import (\w+)", code, re.M)
    beside = [script.with_name(f"{one or other}.py") for one, other in names]
    return code + "".join(file.read_text(encoding="utf-8") for file in beside if file.is_file())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_of_a_script_that_a_page_runs_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lost = []
    for script, rest in re.findall(r"python3? ((?:bench|scripts|examples)/\w+\.py)([^`\n]*)", text):
        code = code_of(ROOT / script)
        options = re.findall(r"(?<!\S)(--[a-z][\w-]*)", rest.split("  #")[0])
        lost += [f"{script} {option}" for option in options if f'"{option}"' not in code]
    assert lost == []


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "python"))], ids=name_of)
def test_every_name_of_hanlin_in_the_python_of_a_page_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hanlin"):
                file = ROOT / "src" / f"{str(node.module).replace('.', '/')}.py"  # read, since it may need an extra
                defined = {getattr(one, "name", "") for one in ast.parse(file.read_text(encoding="utf-8")).body}
                assert [alias.name for alias in node.names if alias.name not in defined] == []
        assert [name for name in re.findall(r"\bhanlin\.([A-Za-z]\w*)\(", code) if name not in hanlin.__all__] == []


def test_every_variable_target_and_extra_that_a_page_names_exists() -> None:
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for folder in ("src", "tests", "bench", "scripts")
        for file in (ROOT / folder).rglob("*.py")
    )
    code += "".join((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "Dockerfile", "compose.yaml"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lost = []
    for page in PAGES:
        if page.name == "CHANGELOG.md" or "decisions" in page.parts:  # these tell of what was
            continue
        text = page.read_text(encoding="utf-8")
        lost += [f"{name_of(page)}: {name}" for name in re.findall(r"\bHANLIN_[A-Z_]+\b", text) if name not in code]
        typed = "\n".join([*blocks(page, "|bash|sh"), *re.findall(r"`(make [^`\n]+)`", text)])
        named = re.findall(r"^make ([a-z][\w-]*)", typed, re.M)
        lost += [f"{name_of(page)}: make {name}" for name in named if name not in targets and "bench-" not in name]
        listed = ",".join(re.findall(r"hanlin\[([a-z][a-z,-]*)\]", text)).split(",")
        lost += [f"{name_of(page)}: hanlin[{name}]" for name in listed if name and name not in extras]
    assert lost == []
