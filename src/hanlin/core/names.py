"""Names that people give to what is saved: one rule for them, and one function for each language that quotes them.

A recipe's name is a folder below `runs/`, a stage's a link in it, a package's the name of a file: on Windows, in a
shell and in a file manager it has to be the same name.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from pathlib import PurePosixPath

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

MAX_NAME_BYTES = 160
"""Longest name in UTF-8: a file system takes 255 bytes, and what is written beside it has endings of its own."""
_SEPARATORS = frozenset('/\\:*?"<>|')
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Categories of characters that do not print: controls, writing directions, lone surrogates, line separators."""
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.I)
"""What Windows takes for a device, with whatever ending."""
_PLAIN_YAML = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*")
_YAML_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


def describe_name_problem(name: str) -> str | None:
    """Why a text cannot be the name of something that is saved, in the user's language; None if it can."""
    if not name:
        return tr("it is empty")
    if any(unicodedata.category(character) in _UNSEEN for character in name):
        return tr("it holds a character that does not print")
    if _SEPARATORS.intersection(name):
        return tr("it holds one of {characters}", characters=" ".join(sorted(_SEPARATORS)))
    if name[0] in " .-" or name[-1] in " .":
        return tr("it begins with a space, dot or dash, or ends with a space or dot")
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return tr("it is longer than {limit} bytes", limit=MAX_NAME_BYTES)
    if _RESERVED.fullmatch(name):
        return tr("Windows has a device of that name")
    return None


def check_name(name: str, what: str, where: str) -> str:
    """Return a name that may be that of a file or folder.

    Args:
        name: The name.
        what: What is named, in the user's language: `the name of a recipe`.
        where: Where it was given, for messages.

    Raises:
        UserError: It may not.
    """
    problem = describe_name_problem(name)
    if problem is not None:
        sentence = tr("{name} cannot be {what}: {problem}", name=show_name(name), what=what, problem=problem)
        raise UserError(sentence, where, tr("write letters, digits, `-`, `_` and dots, without a path"))
    return name


def show_name(name: str, limit: int = 80) -> str:
    """A name for a message: in quotes, with what does not print as escapes, and cut if it is long."""
    shown = "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in _UNSEEN else character
        for character in name[: limit + 1]
    )
    return f"'{shown if len(name) <= limit else shown[:limit] + '…'}'"


def check_relative_path(text: str, where: str) -> str:
    """Return the path of a file inside a folder as manifests hold it: relative, with forward slashes, and not upwards.

    Raises:
        UserError: It leads elsewhere.
    """
    parts = text.split("/")
    if not text or "\0" in text or PurePosixPath(text).is_absolute() or any(part in ("", ".", "..") for part in parts):
        raise UserError(tr("{path} is no path inside a folder", path=show_name(text)), where)
    return text


def quote_shell(text: str) -> str:
    """A text as one word of a POSIX shell, whatever it holds. Raises UserError for the only one that cannot be: NUL."""
    if "\0" in text:
        raise UserError(tr("{name} cannot be written into a script", name=show_name(text)))
    return shlex.quote(text)


def quote_comment(text: str) -> str:
    """A text inside a comment of a script, which a line end in it would end."""
    return show_name(text, len(text))[1:-1]


def quote_yaml(text: str) -> str:
    """A text as a YAML scalar: plain if it reads as a text, else in double quotes, with JSON's escapes."""
    plain = _PLAIN_YAML.fullmatch(text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def quote_markdown(text: str) -> str:
    """A text on one line of Markdown, without meaning as a table, as HTML or as a link."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)
