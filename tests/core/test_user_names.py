"""Names and texts of people: what may be a file name, and how a text is quoted where it could mean something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from hanlin.core.errors import UserError
from hanlin.core.names import (
    check_name,
    check_relative_path,
    quote_comment,
    quote_markdown,
    quote_shell,
    quote_yaml,
    show_name,
)

HOSTILE = (
    "a$(touch x)-Q8_0.gguf",
    "`touch x`",
    "'; touch x; '",
    '"; touch x; "',
    "a\ntouch x",
    "a b",
    "-rf",
    "~",
    "*",
    "$HOME",
    "!!",
    "\\",
    "翰林",
    "",
    "a\u202egnp.exe",
    "\udcff",
)


@pytest.mark.parametrize(
    "name", ["翰林", "a", "my-recipe_2.1", "小 翰", "résumé", "a" * 160, "Console", "comet", "com10"]
)
def test_a_name_of_letters_digits_and_marks_is_taken(name: str) -> None:
    assert check_name(name, "a name", "here") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "/x", "a/b", "a\\b", "C:", "a:b", "*", "?", "<a>", 'a"b', "a|b"),
        *("a\0", "a\n", "a\x1b[2J", "a\x7f", "a\x85", "a\u2028", "a\u202e", "a\u200b", "\ufeffa", "\ud800", "a\udcff"),
        *("CON", "con.txt", "Nul", "aux", "prn", "com1", "LPT9.log", "COM¹", "conin$"),
        *(" a", "a ", "a.", ".a", "-a", "a" * 161, "长" * 54),
    ],
)
def test_a_name_that_leads_elsewhere_or_differs_between_systems_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        check_name(name, "a name", "here")
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["a", "a/b.jsonl", "model-00001-of-00002.safetensors", "...", "a/..b"])
def test_a_path_inside_a_folder_is_taken(path: str) -> None:
    assert check_relative_path(path, "here") == path


@pytest.mark.parametrize("path", ["", ".", "..", "../a", "a/../b", "/a", "a//b", "a/", "a\0b", "./a"])
def test_a_path_out_of_a_folder_is_refused(path: str) -> None:
    with pytest.raises(UserError):
        check_relative_path(path, "here")


def test_a_shell_reads_every_text_as_one_word(tmp_path: Path) -> None:
    texts = [text for text in HOSTILE if text != "\udcff"]
    script = "printf '%s\\0' " + " ".join(map(quote_shell, texts))
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == texts
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError):
        quote_shell("a\0b")


@pytest.mark.parametrize(
    "text", [*HOSTILE[:-1], "null", "yes", "1.0", "2026-11-29", "a: b", "# a", "- a", "[a]", "a #b"]
)
def test_yaml_reads_every_text_as_that_text(text: str) -> None:
    assert yaml.safe_load(f"key: {quote_yaml(text)}") == {"key": text}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_comment_and_a_table_stay_on_one_line(text: str) -> None:
    assert len(quote_comment(text).splitlines()) <= 1
    assert len(quote_markdown(text).splitlines()) <= 1


def test_markdown_shows_marks_and_obeys_none() -> None:
    assert quote_markdown("a|b <script> [x](y)") == "a\\|b \\<script\\> \\[x\\](y)"


def test_a_long_name_is_cut_and_escapes_are_shown() -> None:
    assert show_name("a\x1b]8;;x\x07\u202e") == "'a\\x1b]8;;x\\x07\\u202e'"
    assert len(show_name("a" * 10_000)) < 100
