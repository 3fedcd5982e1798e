"""Sources of chat templates: those that come with Hanlin (`templates/*.jinja`) by name, and those of model folders."""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import Any

from hanlin.chat.reasoning import KEEP_VARIABLE
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import is_file_name, read_json
from hanlin.core.i18n import tr
from hanlin.tokenizer.file_names import CONFIG_FILE, TEMPLATE_FILE
from hanlin.tokenizer.gguf_metadata import read_gguf_template

_GENERATION = re.compile(r"(?P<open>\{%[-+]?\s*)(?P<end>end)?generation(?P<close>\s*[-+]?%\})")
_SPECIAL_WORD = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|<(?:start|end)_of_turn>")
_DROP_VARIABLES = ("clear_thinking", "truncate_history_thinking", "drop_thinking")
"""Names of the same switch in templates of other models: true leaves the reasoning of earlier answers out."""


def packaged_names() -> tuple[str, ...]:
    """Names of the packaged chat templates."""
    files = (resources.files("hanlin.chat") / "templates").iterdir()
    return tuple(sorted(file.name.removesuffix(".jinja") for file in files if file.name.endswith(".jinja")))


def packaged_special_tokens(name: str) -> tuple[str, ...]:
    """The special tokens that a packaged template, or a Jinja file, writes. Raises UserError if there is none."""
    return tuple(dict.fromkeys(_SPECIAL_WORD.findall(read_template_source(name))))


@functools.cache
def read_packaged_template(name: str) -> str:
    """Source of a packaged template. Raises UserError if there is no such template."""
    if name not in packaged_names():
        raise UserError(
            tr("there is no packaged chat template {name!r}", name=name),
            "template",
            did_you_mean(name, packaged_names()),
        )
    return (resources.files("hanlin.chat") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def read_template_source(name: str) -> str:
    """Source of a packaged template, or of a file of your own if the name is a path or ends in `.jinja`.

    Raises:
        UserError: There is no such template or file, or it is not UTF-8.
    """
    file = Path(name).expanduser()
    if name in packaged_names() or not (is_file_name(name) or file.is_file()):
        return read_packaged_template(name)
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        what = tr("cannot be read: {strerror}", strerror=error.strerror)
        raise UserError(what, file, tr("name a packaged chat template or a Jinja file")) from error
    except UnicodeDecodeError as error:
        raise UserError(tr("not UTF-8"), file, tr("save it as UTF-8")) from error


def read_folder_template(folder: Path) -> tuple[str, Path]:
    """Source of the chat template of a model folder, or in a GGUF file, and the file that holds it.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    file = folder / TEMPLATE_FILE
    source: Any
    if folder.is_file():
        file, source = folder, with_generation_blocks(read_gguf_template(folder))
    elif file.is_file():
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(tr("cannot be read as text: {error}", error=error), file) from error
    else:
        file = folder / CONFIG_FILE
        source = read_json(file).get("chat_template")
        if isinstance(source, list):  # the older format of transformers: several named templates
            source = {row.get("name"): row.get("template") for row in source}.get("default")
    if not isinstance(source, str) or not source.strip():
        names = ", ".join(packaged_names())
        raise UserError(
            tr("there is no chat template here"),
            folder,
            tr("a base model has none: set `template` to one of {names}", names=names),
        )
    return source, file


@functools.cache
def packaged_template_sources() -> frozenset[str]:
    """The Jinja source of every packaged template."""
    return frozenset(read_packaged_template(name) for name in packaged_names())


def keep_setting(keep: bool) -> str:
    """The line that makes a template keep or leave out the reasoning of earlier answers, whatever a program says."""
    return f"{{%- set {KEEP_VARIABLE} = {str(keep).lower()} -%}}\n"


def pin_past_reasoning(source: str, keep: bool) -> str:
    """A template that does with the reasoning of earlier answers what it does by itself.

    `llama-server` sets the variables that templates ask for this, to keep it, unless it is told otherwise.
    """
    values = {KEEP_VARIABLE: keep, **dict.fromkeys(_DROP_VARIABLES, not keep)}
    lines = (f"{{%- set {name} = {str(value).lower()} -%}}\n" for name, value in values.items() if name in source)
    return "".join(line for line in lines if line not in source) + source


def without_keep_setting(source: str) -> str:
    """A template without the line of `keep_setting`."""
    return source.removeprefix(keep_setting(True)).removeprefix(keep_setting(False))


def without_generation_blocks(source: str) -> str:
    """A template without transformers' own `generation` block, which not every program knows.

    An `if true` takes its place: it writes the same text and trims the same white space around it.
    """
    return _GENERATION.sub(
        lambda block: block["open"] + ("endif" if block["end"] else "if true") + block["close"], source
    )


def with_generation_blocks(source: str) -> str:
    """The packaged template that a GGUF file holds in the form of `without_generation_blocks`; another template as it
    is.
    """
    for packaged in packaged_template_sources():
        written = without_generation_blocks(packaged)
        if source.endswith(written):
            return source.removesuffix(written) + packaged
    return source
