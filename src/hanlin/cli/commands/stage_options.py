"""Options of a stage's command, made from its settings class: `--lora.rank 16` is the setting `lora.rank`.

Values are read as in a recipe (YAML), and checked by the settings class alone. A setting that takes several values
takes them one after another (`--sources a.jsonl b.jsonl`, so that a pattern of the shell works), repeated or with
commas; a path needs no `./` before it, and a mapping no braces (`--sources.fields prompt=ask response=reply`).
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from hanlin.chat.packaged import packaged_names
from hanlin.cli.help import HelpCommand
from hanlin.cli.options import read_rule
from hanlin.config.recipe_file import read_value
from hanlin.config.references import HUB_PREFIXES
from hanlin.config.settings.base import Settings, setting_info
from hanlin.config.settings_page import Row, rows_of
from hanlin.core.errors import UserError
from hanlin.core.files import is_file_name
from hanlin.core.i18n import tr

_METAVARS = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}
_LONGEST_METAVAR = 24
_PAIR = re.compile(r"(?P<name>[^\s={}\[\]:,\"']+)=(?P<value>.*)", re.DOTALL)
"""A value of a mapping as `name=value`."""


@dataclass(frozen=True, slots=True)
class SettingOption:
    """The option of one setting.

    `row` describes the setting; `annotation` is its type. `many` settings take several values. `is_path` settings name
    what a stage reads: themselves, or in the field `path_field` of the settings they hold (`sources`, in `path`).
    `names_file` settings name a packaged text or a file (`template`).
    """

    row: Row
    annotation: Any
    many: bool
    is_path: bool
    path_field: str = ""
    names_file: bool = False

    @property
    def name(self) -> str:
        """The dotted name of the setting."""
        return self.row.name

    @property
    def flag(self) -> str:
        """What is typed: `--lora.loraplus-lr-ratio`."""
        return "--" + self.name.replace("_", "-")

    @property
    def takes_list(self) -> bool:
        """Whether it takes several values."""
        return self.many or self.takes_mapping or tuple in _origins(self.annotation)

    @property
    def takes_mapping(self) -> bool:
        """Whether its value is a mapping of names to values, which `name=value` writes without braces."""
        return get_origin(self.annotation) is dict

    @property
    def takes_none(self) -> bool:
        """Whether `none` is the value of no settings and no number, as descriptions write it."""
        origins = _origins(self.annotation)
        return type(None) in origins and (self.names_file or not {str, "none"} & origins)

    @property
    def parameter(self) -> str:
        """The name of the function's parameter, an identifier."""
        return self.name.replace(".", "__")


def options_of(settings: type[Settings]) -> list[SettingOption]:
    """The options of a settings class, nested settings after the one that holds them."""
    rows = {row.name: row for row in rows_of(settings)}
    return list(_options(settings, rows, ""))


def _options(settings: type[Settings], rows: Mapping[str, Row], prefix: str) -> Iterator[SettingOption]:
    for name, field in settings.model_fields.items():
        nested = _settings_in(field.annotation)
        path_field = next((_path_field(inner) for inner in nested if _path_field(inner)), "")
        many = get_origin(field.annotation) is tuple
        is_path = bool(setting_info(field).types) or bool(path_field)
        names_file = setting_info(field).resource is not None
        yield SettingOption(rows[prefix + name], field.annotation, many, is_path, path_field, names_file)
        for inner in nested:
            yield from _options(inner, rows, f"{prefix}{name}.")


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _settings_in(argument)]


def _path_field(settings: type[Settings]) -> str:
    """The first field of settings that may be written as a path alone, such as `path` of a source."""
    name, field = next(iter(settings.model_fields.items()))
    return name if setting_info(field).types and "_from_text" in vars(settings) else ""


# --- options of a command ---------------------------------------------------------------------------------------------


def parameters_of(options: Sequence[SettingOption]) -> list[inspect.Parameter]:
    """Keyword parameters for a function that Typer makes a command of: a list of texts for each option."""
    return [
        inspect.Parameter(
            option.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=[],
            annotation=Annotated[
                list[str],
                typer.Option(option.flag, help=_help(option), metavar=_metavar(option), show_default=False),
            ],
        )
        for option in options
    ]


def _origins(annotation: Any) -> set[Any]:
    """The types, generic types without their arguments, and literal values in an annotation."""
    origin = get_origin(annotation)
    inner = set(get_args(annotation)) if origin is Literal else {x for a in get_args(annotation) for x in _origins(a)}
    return inner | {origin or annotation}


def _metavar(option: SettingOption) -> str:
    if option.takes_mapping:
        return "NAME=VALUE..."
    return _metavar_of_one(option) + ("..." if option.many else "")


def _metavar_of_one(option: SettingOption) -> str:
    if option.is_path:
        return "PATH"
    if option.names_file:
        return "NAME|FILE"
    leaves = list(_leaves(option.annotation))
    choices = "|".join(str(leaf) for leaf in leaves if not isinstance(leaf, type))
    names = "|".join(dict.fromkeys(_METAVARS.get(leaf, "YAML") for leaf in leaves if isinstance(leaf, type)))
    metavar = "|".join(part for part in (choices, names) if part)
    return metavar if len(metavar) <= _LONGEST_METAVAR else "NAME" if choices else "YAML"


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types and the literal values that an annotation is made of."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is dict or not get_args(annotation):
        if annotation not in (type(None), Ellipsis):
            yield get_origin(annotation) or annotation
    else:
        for argument in get_args(annotation):
            yield from _leaves(argument)


def _help(option: SettingOption) -> str:
    row, metavar = option.row, _metavar_of_one(option)
    choices = metavar == "NAME" and " | " in row.limits
    bounds = row.limits if choices else re.sub(r"^[^<>=]*", "", row.limits)  # the metavar names the type
    default = row.default if row.default not in ("", "–", "()", "(…)", "{}") else ""
    notes = [note for note in (bounds, tr("default: {default}", default=default) if default else "") if note]
    return tr(row.description) + (f" [{'; '.join(notes)}]" if notes else "")


class StageCommand(HelpCommand):
    """The command of a stage; its help lists nested settings in sections of their own.

    `many_flags` are the options that take several values: in Typer every option of a setting may be repeated, so that
    one that is written twice gets a message of ours.
    """

    many_flags: frozenset[str] = frozenset()

    def flags_of_several_values(self) -> frozenset[str]:
        return self.many_flags

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            head, dot, _ = param.opts[0].removeprefix("--").partition(".")
            title = head.replace("-", "_") if dot else tr("Settings")
            if not dot and param.name in ("out", "seed", "home", "as_json", "help"):
                title = tr("Options")
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(title, []).append(record)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


# --- values -----------------------------------------------------------------------------------------------------------


def settings_from(options: Sequence[SettingOption], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Settings as plain data, as a recipe would hold them.

    Args:
        options: The options of the settings class.
        texts: What was typed for each option, by its parameter's name.

    Raises:
        UserError: A value is not YAML, or settings are given for what is no mapping.

    Example:
        `--data a,b --lora.rank 8` is `{"data": ["./a", "./b"], "lora": {"rank": 8}}`.
    """
    data: dict[str, Any] = {}
    for option in options:
        if typed := texts.get(option.parameter):
            values = [value for text in typed for value in _values(option, text)]
            if len(typed) > 1 and not option.takes_list:
                raise UserError(tr("given {times} times", times=len(typed)), option.flag, tr("write it once"))
            keys = option.name.split(".")
            parent = next((other for other in options if other.name == keys[0]), option)
            value: Any = values if option.many or len(values) > 1 else values[0]
            if option.takes_mapping and all(isinstance(item, dict) for item in values):
                value = {name: entry for item in values for name, entry in item.items()}
            _assign(data, keys, value, parent, option.flag)
    return data


def _values(option: SettingOption, text: str) -> list[Any]:
    if option.is_path:
        exists = os.path.lexists(text)
        if text.startswith(("{", "[")) and not exists:
            return _paths_in(option, read_value(text, option.flag))
        parts = [text] if exists or not option.many else text.split(",")
        paths = [part.strip() for part in parts if part.strip()]
        if not paths:
            raise UserError(tr("a path is empty"), option.flag, tr("name a file or folder; `.` is the working folder"))
        return [as_path(path) for path in paths]
    if option.takes_none and text in ("none", "None"):
        return [None]
    if option.names_file and (is_file_name(text) or os.path.isfile(text)) and text not in packaged_names():
        return [as_path(text)]
    if option.takes_mapping and (pair := _PAIR.fullmatch(text)):
        return [{pair["name"]: read_value(pair["value"], option.flag)}]
    if option.name == "rules":
        values = [read_rule(part, option.flag) for part in _split(text)]
    elif option.many:
        values = [read_value(part, option.flag) for part in _split(text)]
    else:
        return [read_value(text, option.flag)]
    return values[0] if option.many and len(values) == 1 and isinstance(values[0], list) else values


def _paths_in(option: SettingOption, value: Any) -> list[Any]:
    """Paths written as YAML or JSON: in the texts of a list, and in the path field of each mapping."""
    values = value if isinstance(value, list) and option.many else [value]
    for index, item in enumerate(values):
        if isinstance(item, str) and item:
            values[index] = as_path(item)
        elif isinstance(item, dict) and option.path_field and isinstance(path := item.get(option.path_field), str):
            item[option.path_field] = as_path(path)
    return values


def as_path(text: str) -> str:
    """A path as recipes write it: what begins with nothing else is a path from here."""
    return text if text.startswith(("./", "../", "/", "~", *HUB_PREFIXES)) else f"./{text}"


def _split(text: str) -> list[str]:
    """Split a text at the commas that are in no bracket and no quotation: `a,[b,c]` is `a` and `[b,c]`."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[{(") - (character in ")}]")
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()] or [""]


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)


def _assign(data: dict[str, Any], keys: list[str], value: Any, parent: SettingOption, flag: str) -> None:
    """Put a value at a dotted name; below a list (`--sources a --sources.format sharegpt`), into each of its items."""
    head, *rest = keys
    if not rest:
        if head in data:
            hint = tr("write it once")
            raise UserError(tr("given both here and in --{name}", name=parent.name), flag, hint)
        data[head] = value
        return
    below = data.setdefault(head, {})
    items = below if isinstance(below, list) else [below]
    for index, item in enumerate(items):
        if isinstance(item, str) and parent.path_field:
            item = items[index] = {parent.path_field: item}
        if not isinstance(item, dict):
            what = tr("needs settings in --{head}, not {value}", head=head, value=_shown(item))
            raise UserError(what, flag, tr("leave one of the two options out"))
        _assign(item, rest, value, parent, flag)
    if not isinstance(below, list):
        data[head] = items[0]
