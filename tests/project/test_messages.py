"""Every message of the code has one Chinese translation with the same placeholders, and the catalog holds no other."""

from __future__ import annotations

import ast
import re
import string
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import messages  # noqa: E402

from hanlin.core.i18n import join_list, language, tr, translate  # noqa: E402

COLLECTED = messages.collect()
TRANSLATED = messages.translations()
CHINESE = re.compile(r"[\u3400-\u9fff]")


def placeholders(text: str) -> set[str]:
    """Names of the fields of a format string, and how each is shown."""
    return {f"{name}!{conversion or ''}:{spec}" for _, name, spec, conversion in string.Formatter().parse(text) if name}


def is_formatted(message: str) -> bool:
    """Whether it holds placeholders; other braces are text, and such a message is never formatted."""
    return re.search(r"\{\w+(?:![rsa])?(?::[^{}\s]*)?\}", message) is not None and "{name:" not in message


def test_the_code_holds_messages() -> None:
    assert len(COLLECTED) > 900


def test_no_message_lacks_a_translation() -> None:
    missing = [message for message in COLLECTED if not TRANSLATED.get(message)]
    assert not missing, "run `make messages` and translate them"


def test_no_translation_is_left_of_a_message_that_is_gone() -> None:
    assert not TRANSLATED.keys() - COLLECTED.keys(), "run `make messages`"


def differing_placeholders(message: str) -> set[str]:
    ours, theirs = placeholders(message), placeholders(TRANSLATED[message])
    plural = {name for name in ours if name.startswith(("plural", "verb"))}
    return (ours - plural) ^ (theirs - plural)


def test_a_translation_has_the_placeholders_of_its_message() -> None:
    formatted = [message for message in COLLECTED if is_formatted(message)]
    assert len(formatted) > 400
    assert {message: wrong for message in formatted if (wrong := differing_placeholders(message))} == {}


def calls_of_tr() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(messages.SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr" and node.args:
                yield f"{file.relative_to(messages.SOURCE).as_posix()}:{node.lineno}", node


def test_no_message_is_put_together_where_it_is_used() -> None:
    """An f-string or a sum is not in the catalog, so it is shown in English to everybody."""
    assert not [place for place, call in calls_of_tr() if isinstance(call.args[0], ast.JoinedStr | ast.BinOp)]


def test_a_message_gets_a_value_for_each_placeholder() -> None:
    wrong = []
    for place, call in calls_of_tr():
        message, names = call.args[0], {keyword.arg for keyword in call.keywords}
        if isinstance(message, ast.Constant) and None not in names:
            assert isinstance(message.value, str)
            wanted = placeholders(message.value) if names or is_formatted(message.value) else set()
            if {re.split(r"[!.:\[]", field)[0] for field in wanted} != names:
                wrong.append(f"{place}: {message.value}")
    assert not wrong


def test_a_translation_is_chinese() -> None:
    odd = [
        message
        for message, text in TRANSLATED.items()
        if not CHINESE.search(text)
        and re.search(r"[A-Za-z]{2}", re.sub(r"\{[^{}]*\}", "", message))
        and not (text == message and len(message.split()) < 4)
    ]
    assert not odd


def test_chinese_sentences_have_full_width_punctuation() -> None:
    half = re.compile(r"[\u3400-\u9fff][,;:!?](?=[\s\u3400-\u9fff]|$)")
    code = re.compile(r"`[^`]*`|\{.*\}|“[^”]*”|主机:端口")
    columns = re.compile(r"[^,]+(?:,[^, ][^,]*)+,?")  # headings of a table, which the code splits at commas
    sentences = [text for text in TRANSLATED.values() if not columns.fullmatch(text)]
    assert not [text for text in sentences if half.search(code.sub("", text))]


def test_no_chinese_sentence_stands_in_the_code() -> None:
    """Outside the packages whose matter is Chinese text, a literal of Chinese is a message that left the catalog."""
    allowed = (
        "config/settings_page",
        "demo/",
        "data/",
        "evaluate/",
        "parity/",
        "export/",
        "models/merge",
        "train/dataset/mask_checks",
    )
    found = []
    for file in sorted(messages.SOURCE.rglob("*.py")):
        name = file.relative_to(messages.SOURCE).as_posix()
        if name.startswith(allowed):
            continue
        code = re.sub(r'""".*?"""|#[^\n]*', "", file.read_text(encoding="utf-8"), flags=re.S)
        found += [f"{name}: {text}" for text in re.findall(r"\"([^\"\n]*[\u3400-\u9fff]{4,}[^\"\n]*)\"", code)]
    assert not found


def test_the_reader_chooses_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    message = next(message for message in COLLECTED if not is_formatted(message) and " " in message)
    monkeypatch.setenv("HANLIN_LANG", "zh")
    assert (language(), tr(message), join_list("ab")) == ("zh", TRANSLATED[message], "a、b")
    monkeypatch.setenv("HANLIN_LANG", "en")
    assert (language(), tr(message), join_list("ab")) == ("en", message, "a, b")


def test_a_message_without_values_keeps_its_braces() -> None:
    assert tr("{not a placeholder}") == "{not a placeholder}"
    assert translate("", "zh") == ""


def test_the_unit_of_every_progress_is_a_message() -> None:
    """`progress.update(done, total, tr("files"))`: it is shown as it is."""
    plain = [
        f"{file.name}:{call.lineno}"
        for file in sorted((ROOT / "src").rglob("*.py"))
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "update"
        and len(call.args) > 2 and isinstance(call.args[2], ast.Constant)
    ]  # fmt: skip
    assert plain == []
