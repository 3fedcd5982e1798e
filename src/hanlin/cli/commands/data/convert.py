"""`hanlin data inspect`, `convert`: what is in a file, and one format from another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.help import command
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

Paths = Annotated[
    list[str], typer.Argument(help=say("files, folders or globs", "文件、文件夹或通配路径"), show_default=False)
]
Format = Annotated[
    str, typer.Option("--format", help=say("format of the records; auto: detected", "记录的格式；auto 自动识别"))
]
Encoding = Annotated[str, typer.Option(help=say("character encoding; auto: detected", "字符编码；auto 自动识别"))]
Fields = Annotated[
    list[str],
    typer.Option(
        "--field",
        help=say(
            "field=column of the file, such as prompt=问题; may repeat", "字段=文件中的列，如 prompt=问题，可重复"
        ),
    ),
]
Limit = Annotated[int, typer.Option(min=1, help=say("rows to read of each file", "每个文件只读前若干行"))]
NO_LIMIT = 2**62


def add_to(app: typer.Typer) -> None:
    """Give `hanlin data` the commands `inspect` and `convert`."""
    command(
        app,
        say(
            "Show format, encoding and records of each file\n\n"
            "Also what the stage would keep and drop, and why, with three samples.",
            "查看每个文件的格式、编码与记录\n\n并说明阶段会保留与丢弃什么及原因，附三条样例。",
        ),
    )(inspect)
    command(
        app,
        say(
            "Write records in another tool's format\n\nEvery row that is left out is accounted for.",
            "把记录写成其他工具的格式\n\n未写出的每一行都会说明原因。",
        ),
    )(convert)


def _source(format_: str, encoding: str, fields: list[str], limit: int) -> dict[str, Any]:
    """The settings of a source, as a recipe would hold them, from the options of a command."""
    settings: dict[str, Any] = {"format": format_, "encoding": encoding, "fields": {}}
    for text in fields:
        field, equals, column = text.partition("=")
        if not (equals and field and column):
            hint = say("write --field prompt=问题", "请写成 --field prompt=问题")
            raise UserError(say(f"'{text}' is not field=column", f"“{text}”不是“字段=列”的形式"), "--field", hint)
        settings["fields"][field] = column
    return settings | ({"limit": limit} if limit < NO_LIMIT else {})


def inspect(
    paths: Paths,
    format_: Format = "auto",
    encoding: Encoding = "auto",
    field: Fields = [],
    limit: Limit = NO_LIMIT,
    as_json: AsJson = False,
) -> None:
    from hanlin.data.report.inspect import inspect as inspect_files

    failed = False
    rows = []
    for row in inspect_files(paths, _source(format_, encoding, field, limit)):
        failed = failed or ("error" in row and not row.get("skipped"))
        if as_json:
            rows.append(row)
        else:
            _print_file(row)
    if as_json:
        print_json(rows)
    if failed:
        sys.exit(2)


def _print_file(row: dict[str, Any]) -> None:
    from hanlin.data.ledger import describe_reason
    from hanlin.data.report.excerpts import shorten_row

    typer.secho(row["path"], bold=True)
    if "error" in row:
        typer.secho(f"  {row['error']}", fg=None if row.get("skipped") else "red")
        return
    stage = say(f"for the stage {row['stage']}", f"适用于 {row['stage']} 阶段")
    typer.echo(f"  {row['format']} · {row['encoding']} · {stage}")
    counts = say(
        f"{row['records']:,} records, {row['kept']:,} kept, {row['characters']:,} characters",
        f"{row['records']:,} 条记录，保留 {row['kept']:,} 条，{row['characters']:,} 字",
    )
    typer.echo(f"  {counts}")
    for reason, count in row["dropped"].items():
        why = describe_reason(reason)
        typer.echo(say(f"    dropped {count:,}  {reason}: {why}", f"    丢弃 {count:,}  {reason}：{why}"))
    for sample in row["samples"]:
        typer.echo(f"  · {shorten_row(sample)}")


def convert(
    paths: Paths,
    to: Annotated[str, typer.Option(help="messages, sharegpt, alpaca, firefly, dpo")],
    out: Annotated[Path, typer.Option(help=say("file to write, .jsonl or .json", "写出的文件，.jsonl 或 .json"))],
    format_: Format = "auto",
    encoding: Encoding = "auto",
    field: Fields = [],
    limit: Limit = NO_LIMIT,
    as_json: AsJson = False,
) -> None:
    from hanlin.data.formats.convert import convert as convert_files
    from hanlin.data.formats.writers import describe_lost_part
    from hanlin.data.ledger import describe_reason

    all_stats = convert_files(paths, to, out, _source(format_, encoding, field, limit))
    if as_json:
        print_json([stats.to_json() for stats in all_stats])
        return
    for stats in all_stats:
        typer.secho(stats.path, bold=True)
        counts = say(f"{stats.rows_in:,} rows, {stats.kept:,} written", f"{stats.rows_in:,} 行，写出 {stats.kept:,} 行")
        typer.echo(f"  {stats.format} · {stats.encoding} · {counts}")
        for reason, count in sorted(stats.dropped.items()):
            why = describe_reason(reason)
            typer.echo(say(f"    left out {count:,}  {reason}: {why}", f"    未写出 {count:,}  {reason}：{why}"))
        for part, count in sorted(stats.lost_parts.items()):
            what = describe_lost_part(part)
            typer.echo(
                say(f"    written without {count:,}  {part}: {what}", f"    写出时舍去 {count:,}  {part}：{what}")
            )
    typer.echo(str(out))
