"""How a command shows its help and refuses what was typed: sections, both languages, lines of at most 80 columns.

Typer's plain help cuts summaries off and counts a full-width character as one column; its rich help loads rich, which
takes longer than the rest of `hanlin --help`.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import expand_home
from hanlin.core.i18n import tr
from hanlin.core.text import cell_width

if TYPE_CHECKING:
    from typer.core import TyperOption

WIDTH = 80
NARROWEST = 30
_NUMBER = re.compile(r"-[0-9.]+(e-?[0-9]+)?")
_CLOSING = "，。；：、！？）”》】,.;:!?)"
"""Marks that do not begin a line."""


def wrap_cells(text: str, width: int) -> list[str]:
    """Wrap a text into lines of at most `width` columns, at spaces and between full-width characters.

    Example:
        `wrap_cells("训练 a tokenizer", 6)` is `["训练 a", "tokeni", "zer"]`.
    """
    lines: list[str] = []
    line = ""
    for word in _unbreakable(text):
        while cell_width(word) > width:
            lines += [line.rstrip()] if line.strip() else []
            line, word = "", word.lstrip()
            head = next(end for end in range(len(word), 0, -1) if cell_width(word[:end]) <= width)
            if head == len(word):
                break
            lines.append(word[:head])
            word = word[head:]
        if line and cell_width(line + word.rstrip()) > width:
            lines.append(line.rstrip())
            line, word = "", word.lstrip()
        line += word
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _unbreakable(text: str) -> Iterator[str]:
    """Words with the spaces before them; full-width characters one by one, with the marks that follow them."""
    word = ""
    for character in " ".join(text.split()):
        wide = cell_width(character) == 2
        if word and character not in _CLOSING and (character == " " or wide or cell_width(word[-1]) == 2):
            yield word
            word = ""
        word += character
    if word:
        yield word


class Formatter(typer.Context.formatter_class):  # type: ignore[valid-type, misc]
    """Click's formatter of help pages, with widths in columns and headings in the reader's language."""

    width: int
    current_indent: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(*args, **{**kwargs, "width": max(min(columns, WIDTH) - 2, NARROWEST)})

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, tr("Usage: ") if prefix is None else prefix)

    def write_heading(self, heading: str) -> None:
        headings = {"Arguments": tr("Arguments"), "Options": tr("Options")}
        self.write(f"{'':>{self.current_indent}}{headings.get(heading, heading)}{tr(':')}\n")

    def write_text(self, text: str) -> None:
        indent = " " * self.current_indent
        paragraphs = [wrap_cells(paragraph, self.width - self.current_indent) for paragraph in text.split("\n\n")]
        self.write("\n\n".join("\n".join(indent + line for line in lines) for lines in paragraphs) + "\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        indent = " " * self.current_indent
        widths = [cell_width(first) for first, _ in rows if cell_width(first) <= col_max]
        column = max(widths, default=col_max) + col_spacing
        if self.width - self.current_indent - column < NARROWEST // 2:
            column = 2 * col_spacing  # a narrow terminal: descriptions go below their options
        for first, second in rows:
            lines = wrap_cells(_translate_notes(second), self.width - self.current_indent - column)
            if cell_width(first) + col_spacing > column:
                self.write(f"{indent}{first}\n")
            else:
                self.write(f"{indent}{first}{' ' * (column - cell_width(first))}{lines.pop(0)}".rstrip() + "\n")
            for line in lines:
                self.write(f"{indent}{' ' * column}{line}".rstrip() + "\n")


_NOTES = re.compile(r"(?P<help>.*)(?P<gap>^|  )\[(?P<notes>.*)\]", re.DOTALL | re.MULTILINE)
"""Click's notes after a description: `  [env var: HANLIN_HOME; default: .; required]`."""


def _translate_notes(text: str) -> str:
    """A description with Click's notes in the reader's language."""
    match = _NOTES.fullmatch(text)
    if match is None:
        return text
    notes = [_translate_note(*note.partition(": ")) for note in match["notes"].split("; ")]
    return f"{match['help']}{match['gap']}[{'; '.join(notes)}]"


def _translate_note(name: str, colon: str, value: str) -> str:
    if name == "default" and colon:
        return tr("default: {default}", default=value)
    if name == "env var" and colon:
        return tr("environment variable: {name}", name=value)
    return tr("required") if name == "required" and not colon else f"{name}{colon}{value}"


class _Context(typer.Context):
    formatter_class = Formatter


class _TranslatedHelp:
    """What commands and groups share: the help option in the reader's language, and help for no arguments at all."""

    no_args_is_help: bool

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        option: TyperOption | None = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.help = tr("show this page")
        return option

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        words = {"[OPTIONS]": tr("[OPTIONS]"), "COMMAND [ARGS]...": tr("COMMAND [ARGS]...")}
        return [words.get(piece, piece) for piece in pieces]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help:
            typer.echo(ctx.get_help())
            ctx.exit()
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return rest


class HelpCommand(_TranslatedHelp, TyperCommand):
    """A command whose help is in the reader's language and which refuses words that it has no use for."""

    context_class = _Context

    def flags_of_several_values(self) -> frozenset[str]:
        """The options that take the values after them up to the next option; none beside arguments without a name."""
        if any(param.param_type_name == "argument" for param in self.params):
            return frozenset()
        return frozenset(flag for param in self.params if getattr(param, "multiple", False) for flag in param.opts)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = repeat_flags(args, self.flags_of_several_values())
        extra_allowed, ctx.allow_extra_args = ctx.allow_extra_args, True
        try:
            rest = super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", None) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise
        ctx.params = {name: _with_home(value) for name, value in ctx.params.items()}
        if rest and not extra_allowed:
            what = tr("'{rest}' follows no option", rest=rest[0])
            raise UserError(what, ctx.command_path, tr("write --option value"), "usage")
        return rest


def _with_home(value: Any) -> Any:
    """A path that was given (`expand_home`), or each of several; any other value as it is."""
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return expand_home(value) if isinstance(value, Path) else value


def repeat_flags(args: Sequence[str], flags: frozenset[str]) -> list[str]:
    """Write an option that takes several values before each of them, as Typer reads them.

    Example:
        `["--sources", "a", "b", "--seed", "1"]` is `["--sources", "a", "--sources", "b", "--seed", "1"]`.
    """
    repeated: list[str] = []
    flag, has_value = "", True
    for index, arg in enumerate(args):
        if arg == "--":
            return [*repeated, *args[index:]]
        if arg.startswith("--"):
            name, equals, _ = arg.replace("_", "-").partition("=")
            flag, has_value = name if name in flags else "", bool(equals)
        elif arg.startswith("-") and len(arg) > 1 and has_value and not _NUMBER.fullmatch(arg):
            flag = ""
        elif flag and has_value:
            repeated.append(flag)
        else:
            has_value = True
        repeated.append(arg)
    return repeated


class HelpGroup(_TranslatedHelp, TyperGroup):
    """A group of commands; what it does not know gets a suggestion."""

    context_class = _Context

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name = args[0].replace("_", "-")
        if not name.startswith("-") and name not in self.list_commands(ctx):
            what = tr("there is no command '{args}'", args=args[0])
            nested = self._find_in_groups(ctx, name)
            hint = tr("did you mean {near}?", near=nested) if nested else did_you_mean(name, self.list_commands(ctx))
            raise UserError(what, ctx.command_path, hint, "usage")
        return super().resolve_command(ctx, args)

    def _find_in_groups(self, ctx: Any, name: str) -> str | None:
        """The command of a group below this one that has this name, with the group: `data inspect` for `inspect`."""
        for group in self.list_commands(ctx):
            command = self.get_command(ctx, group)
            if isinstance(command, TyperGroup) and name in command.list_commands(ctx):
                return f"{group} {name}"
        return None

    def command_rows(self, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Sections of commands: the title of each, and names with summaries."""
        summaries = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, (command.help or "").partition("\n")[0]) for name, command in summaries if command is not None]
        yield tr("Commands"), rows

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections = list(self.command_rows(ctx))
        longest = max((len(name) for _, rows in sections for name, _ in rows), default=0)
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(longest), summary) for name, summary in rows])


def new_app(help: str = "") -> typer.Typer:
    """A group of commands with the help of this file."""
    return typer.Typer(
        cls=HelpGroup,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def command(app: typer.Typer, help: str = "", **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give `app` the decorated function as a command with the help of this file."""
    return app.command(cls=HelpCommand, help=help, **options)


def usage_error(error: typer.TyperException) -> UserError:
    """What Typer refuses, as the one sentence in which every command refuses."""
    context: Any = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "hanlin"
    name, option = type(error).__name__, getattr(error, "option_name", "")
    if name == "NoSuchOption":
        options = {opt.lstrip("-"): opt for param in context.command.get_params(context) for opt in param.opts}
        near = difflib.get_close_matches(option.lstrip("-"), options, n=1)
        hint = tr("did you mean {near}?", near=options[near[0]]) if near else tr("see `{where} --help`", where=where)
        return UserError(tr("no option {option}", option=option), where, hint)
    if name == "BadOptionUsage" and error.message.endswith("does not take a value."):
        return UserError(tr("{option} takes no value", option=option), where)
    if name == "BadOptionUsage":
        return UserError(tr("{option} needs a value", option=option), where)
    param = getattr(error, "param", None)
    if param is None:
        return UserError(error.format_message().rstrip("."), where)
    label = param.opts[0] if param.param_type_name == "option" else param.display_name_raw
    if name == "MissingParameter":
        hint = tr("see `{where} --help`", where=where)
        return UserError(tr("{label} is missing", label=label), where, hint)
    return UserError(tr("not accepted: {value}", value=_describe_value(error)), f"{where}, {label}")


def _describe_value(error: typer.TyperException) -> str:
    """What Typer says of a value; what pydantic said to it, in the reader's language."""
    errors = getattr(error.__cause__, "errors", None)
    if errors is None:
        return error.message
    from hanlin.config.validation import describe_problem

    return describe_problem(errors()[0])
