"""`hanlin data inspect`, `convert`: what is in a file, and one format from another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import command
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, echo_data, print_json
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.core.records import ROLES

if TYPE_CHECKING:
    from hanlin.chat.template import ChatTemplate

Paths = Annotated[list[str], typer.Argument(help=tr("files, folders or globs"), show_default=False)]
Format = Annotated[str, typer.Option("--format", help=tr("format of the records; auto: detected"))]
Encoding = Annotated[str, typer.Option(help=tr("character encoding; auto: detected"))]
Fields = Annotated[
    list[str],
    typer.Option(
        "--field",
        help=tr("field=column of the file, such as prompt=问题; may repeat"),
    ),
]
Roles = Annotated[
    list[str],
    typer.Option(
        "--role",
        help=tr("role in the file=user, assistant, system or tool, such as 患者=user; may repeat"),
    ),
]
Ratings = Annotated[
    list[str],
    typer.Option(
        "--min-rating",
        help=tr("field=lowest rating that is kept, such as rating=3 or grade=B; may repeat"),
    ),
]
ReadLanguage = Annotated[
    str,
    typer.Option(help=tr("language to read of rows that hold several, such as zh or en; all: each as its own row")),
]
Limit = Annotated[int, typer.Option(min=1, help=tr("rows to read of each file"))]
NO_LIMIT = 2**62


def add_to(app: typer.Typer) -> None:
    """Give `hanlin data` the commands `inspect` and `convert`."""
    command(
        app,
        tr(
            "Show format, encoding and records of each file\n\nAlso what the stage would keep and drop, and "
            "why, with three samples."
        ),
    )(inspect)
    command(
        app,
        tr("Write records in another tool's format\n\nEvery row that is left out is accounted for."),
    )(convert)


def _source(
    format_: str,
    encoding: str,
    fields: list[str],
    roles: list[str],
    ratings: list[str],
    language: str,
    limit: int,
) -> dict[str, Any]:
    """The settings of a source, as a recipe would hold them, from the options of a command."""
    from hanlin.config.grades import read_grade
    from hanlin.config.settings.sources import LANGUAGES

    settings: dict[str, Any] = {"format": format_, "encoding": encoding, "fields": {}, "roles": {}, "min_rating": {}}
    settings["read_language"] = language
    for text in fields:
        field, equals, column = text.partition("=")
        if not (equals and field and column):
            hint = tr("write --field prompt=问题")
            raise UserError(tr("'{text}' is not field=column", text=text), "--field", hint)
        settings["fields"][field] = column
    for text in roles:
        name, equals, role = text.rpartition("=")
        if not equals or not name or role not in ROLES:
            hint = tr("write --role 患者=user")
            raise UserError(tr("'{text}' is not a name and one of our roles", text=text), "--role", hint)
        settings["roles"][name] = role
    for text in ratings:
        name, _, least = text.rpartition("=")
        if name and read_grade(least) is not None:
            settings["min_rating"][name] = least
        else:
            hint = tr("write --min-rating rating=3")
            raise UserError(tr("'{text}' is not a field and a number or grade", text=text), "--min-rating", hint)
    if language not in (*LANGUAGES, "all"):
        hint = did_you_mean(language, (*LANGUAGES, "all")) or tr("such as zh, en or all")
        raise UserError(tr("'{text}' is no language", text=language), "--read-language", hint)
    return settings | ({"limit": limit} if limit < NO_LIMIT else {})


def inspect(
    paths: Paths,
    format_: Format = "auto",
    encoding: Encoding = "auto",
    field: Fields = [],
    role: Roles = [],
    min_rating: Ratings = [],
    read_language: ReadLanguage = "zh",
    limit: Limit = NO_LIMIT,
    template: Annotated[
        str, typer.Option(help=tr("packaged chat template or Jinja file: say which records it has no form for"))
    ] = "",
    model: Annotated[
        Path | None, typer.Option(help=tr("model folder: say which records its chat template has no form for"))
    ] = None,
    as_json: AsJson = False,
) -> None:
    from hanlin.data.report.inspect import inspect as inspect_files

    failed = False
    rows = []
    chat_template = _load_template(template, model)
    settings = _source(format_, encoding, field, role, min_rating, read_language, limit)
    for row in inspect_files(paths, settings, chat_template):
        failed = failed or ("error" in row and not row.get("skipped"))
        if as_json:
            rows.append(row)
        else:
            _print_file(row)
    if as_json:
        print_json(rows)
    if failed:
        sys.exit(2)


def _load_template(name: str, model: Path | None) -> ChatTemplate | None:
    """The chat template that is named, or that of a model; None if neither is given."""
    if not name and model is None:
        return None
    from hanlin.chat.template import ChatTemplate
    from hanlin.chat.tokenizer_files import template_without_model
    from hanlin.tokenizer.tokenizer import Tokenizer

    if model is None:
        return template_without_model(name)
    if name:
        return ChatTemplate.from_packaged(name, Tokenizer.load(model))
    return ChatTemplate.load(model)


def _print_file(row: dict[str, Any]) -> None:
    from hanlin.config.reasons import REFUSAL_REASONS, describe_reason
    from hanlin.data.report.excerpts import shorten_row

    echo(row["path"], bold=True)
    if "error" in row:
        echo(f"  {row['error']}", fg=None if row.get("skipped") else "red")
        return
    stage = tr("for the stage {stage}", stage=row["stage"])
    echo(f"  {row['format']} · {row['encoding']} · {stage}")
    counts = tr(
        "{records:,} records, {kept:,} kept, {characters:,} characters",
        records=row["records"],
        kept=row["kept"],
        characters=row["characters"],
    )
    echo(f"  {counts}")
    for reason, count in row["dropped"].items():
        why = describe_reason(reason)
        echo(tr("    dropped {count:,}  {reason}: {why}", count=count, reason=reason, why=why))
    if row["unread_fields"]:
        _print_unread_fields(row["unread_fields"], row["read_languages"])
    for reason, refused in row.get("refused", {}).items():
        why = tr(REFUSAL_REASONS[reason])
        echo(tr("    refused {count:,}  {reason}: {why}", count=refused["count"], reason=reason, why=why))
        echo("      " + tr("the first: {detail}", detail=refused["first"]))
    if row.get("refused") == {}:
        echo("    " + tr("the chat template has a form for every record"))
    for sample in row["samples"]:
        echo(f"  · {shorten_row(sample)}")


def _print_unread_fields(counts: Mapping[str, int], languages: Mapping[str, int]) -> None:
    from hanlin.data.formats.trees.languages import describe_languages
    from hanlin.data.formats.trees.ratings import describe_ratings
    from hanlin.data.ledger import describe_unread_fields

    echo("    " + describe_unread_fields(counts))
    if (ratings := describe_ratings(counts)) is not None:
        echo("    " + ratings)
    if languages:
        echo("    " + describe_languages(languages))


def convert(
    paths: Paths,
    to: Annotated[str, typer.Option(help="messages, sharegpt, alpaca, firefly, dpo")],
    out: Annotated[Path, typer.Option(help=tr("file to write, .jsonl or .json"))],
    format_: Format = "auto",
    encoding: Encoding = "auto",
    field: Fields = [],
    role: Roles = [],
    min_rating: Ratings = [],
    read_language: ReadLanguage = "zh",
    limit: Limit = NO_LIMIT,
    as_json: AsJson = False,
) -> None:
    from hanlin.config.reasons import describe_reason
    from hanlin.data.formats.convert import convert as convert_files
    from hanlin.data.formats.writers import describe_lost_part

    settings = _source(format_, encoding, field, role, min_rating, read_language, limit)
    all_stats = convert_files(paths, to, out, settings)
    if as_json:
        print_json([stats.to_json() for stats in all_stats])
        return
    for stats in all_stats:
        echo(stats.path, bold=True)
        counts = tr("{rows_in:,} rows, {kept:,} written", rows_in=stats.rows_in, kept=stats.kept)
        echo(f"  {stats.format} · {stats.encoding} · {counts}")
        for reason, count in sorted(stats.dropped.items()):
            why = describe_reason(reason)
            echo(tr("    left out {count:,}  {reason}: {why}", count=count, reason=reason, why=why))
        for part, count in sorted(stats.lost_parts.items()):
            what = describe_lost_part(part)
            echo(tr("    written without {count:,}  {part}: {what}", count=count, part=part, what=what))
        if stats.unread_fields:
            _print_unread_fields(stats.unread_fields, stats.read_languages)
    echo_data(str(out))
