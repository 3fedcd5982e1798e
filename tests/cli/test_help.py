"""The help of the commands: sections, one line each in both languages, nothing cut off, nothing heavy loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from hanlin.cli.help import wrap_cells
from hanlin.cli.table import entries, sections
from hanlin.config.kinds import KINDS
from hanlin.core.text import cell_width


def hanlin(*words: str, language: str = "en", columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HANLIN_LANG": language, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "hanlin", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")


def test_every_kind_of_stage_has_a_command_in_one_section() -> None:
    names = [entry.name for section in sections() for entry in section.entries]
    assert len(set(names)) == len(names)
    assert {name.replace("_", "-") for name in KINDS} <= set(names)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_command_has_one_line_of_help_and_none_is_cut_off(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANLIN_LANG", language)
    shown = hanlin("--help", language=language).stdout
    lines = shown.splitlines()
    assert max(map(cell_width, lines)) <= 80
    for entry in entries().values():
        assert f"  {entry.name} " in shown
        assert sum(line.endswith(f"  {entry.summary}") for line in lines) == 1, entry.name
        assert not entry.summary.endswith((".", "。")) and entry.summary[0] == entry.summary[0].upper()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("words", [["sft"], ["corpus"], ["serve"], ["data"], ["data", "report"], ["tokens", "view"]])
def test_the_help_of_a_command_fits_eighty_columns(words: list[str], language: str) -> None:
    done = hanlin(*words, "--help", language=language)
    assert done.returncode == 0, done.stderr
    assert max(map(cell_width, done.stdout.splitlines())) <= 80
    assert ("用法：" in done.stdout) == (language == "zh")


def test_help_fits_a_narrow_terminal() -> None:
    for words in ([], ["sft"], ["template", "check"]):
        for language in ("en", "zh"):
            lines = hanlin(*words, "--help", language=language, columns=40).stdout.splitlines()
            assert len(lines) > 5 and max(map(cell_width, lines)) <= 40, words


def test_the_list_of_commands_loads_neither_pydantic_nor_rich() -> None:
    code = (
        "import sys, json; sys.argv = ['hanlin', '--help']\n"
        "from hanlin.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"pydantic", "pydantic_core", "rich", "yaml", "numpy", "torch"} & set(modules)
    assert not [name for name in modules if name.startswith("hanlin.cli.commands.")]


def test_a_command_without_arguments_shows_its_help() -> None:
    for words in ([], ["sft"], ["data"]):
        assert hanlin(*words).stdout == hanlin(*words, "--help").stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "error: hanlin: there is no command 'trian'\n  hint: did you mean pretrain?"),
        (["inspect", "x"], "error: hanlin: there is no command 'inspect'\n  hint: did you mean data inspect?"),
        (["data", "conver"], "error: hanlin data: there is no command 'conver'\n  hint: did you mean convert?"),
        (["plan", "--untl", "x"], "error: hanlin plan: no option --untl\n  hint: did you mean --until?"),
        (["plan"], "error: hanlin plan: recipe is missing\n  hint: see `hanlin plan --help`"),
        (["doctor", "--json=3"], "error: hanlin doctor: --json takes no value"),
        (["sft", "--lora.rank"], "error: hanlin sft: --lora.rank needs a value"),
        (["sft", "x"], "error: hanlin sft: 'x' follows no option\n  hint: write --option value"),
        (["serve", "x", "--port", "99999"], "error: hanlin serve, --port: not accepted: "),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_sentence(words: list[str], sentence: str) -> None:
    done = hanlin(*words)
    assert done.returncode == 2 and done.stderr.startswith(sentence), done.stderr


def test_what_is_typed_wrong_is_told_in_chinese_without_a_word_of_english() -> None:
    for words, sentence in (
        (["serve", "x", "--port", "abc"], "错误：hanlin serve, --port: 取值无效：须为整数\n"),
        (["serve", "x", "--port", "99999"], "错误：hanlin serve, --port: 取值无效：须不大于 65535\n"),
        (["doctor", "--json=3"], "错误：hanlin doctor: --json 不接受取值\n"),
    ):
        assert hanlin(*words, language="zh").stderr == sentence
    shown = hanlin("ui", "--help", language="zh").stdout
    assert "hanlin ui [选项] [folder]" in shown and "[默认：8080; 0<=x<=65535]" in shown
    assert not any(word in shown for word in ("OPTIONS", "default", "required", "env var"))


def test_a_command_may_be_typed_with_underscores() -> None:
    assert hanlin("train_tokenizer", "--help").stdout == hanlin("train-tokenizer", "--help").stdout


def test_lines_break_at_spaces_and_between_full_width_characters() -> None:
    assert wrap_cells("训练 a tokenizer", 6) == ["训练 a", "tokeni", "zer"]
    assert wrap_cells("一二三，四", 6) == ["一二", "三，四"]
    assert wrap_cells("", 6) == [""]


def test_an_interrupt_is_told_in_a_sentence_with_exit_code_130() -> None:
    code = (
        "import sys; sys.argv = ['hanlin', 'schema']\n"
        "import hanlin.config.schema as schema\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "schema.json_schema = interrupted\n"
        "from hanlin.cli.main import main\n"
        "main()\n"
    )
    environment = {**os.environ, "HANLIN_LANG": "en"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "\nstopped; the same command goes on from here\n"
