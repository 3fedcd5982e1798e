"""The commands `hanlin data ...`: what is in a file, and one format from another.

Owns what a person types and reads. Imports what a command needs inside that command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.commands.data import report, rules
from hanlin.cli.output import print_json
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

app = typer.Typer(
    help=say("Look into files of data, and convert them.", "查看数据文件，转换数据格式。"),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Paths = Annotated[
    list[str], typer.Argument(help=say("files, folders or globs", "文件、文件夹或通配路径"), show_default=False)
]
Format = Annotated[
    str, typer.Option("--format", help=say("how records lie in the files; auto looks", "记录的写法；auto 自动识别"))
]
Encoding = Annotated[str, typer.Option(help=say("character encoding; auto looks", "字符编码；auto 自动识别"))]
Fields = Annotated[
    list[str],
    typer.Option(
        "--field", help=say("our field=theirs, may repeat: prompt=问题", "我方字段=文件字段，可重复：prompt=问题")
    ),
]
Limit = Annotated[int, typer.Option(min=1, help=say("read only this many rows of a file", "每个文件只读前若干行"))]
AsJson = Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))]
_NO_LIMIT = 2**62
rules.add_to(app)
report.add_to(app)


def _source(format_: str, encoding: str, fields: list[str], limit: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"format": format_, "encoding": encoding, "fields": {}}
    for text in fields:
        ours, equals, theirs = text.partition("=")
        if not (equals and ours and theirs):
            hint = say("write --field prompt=问题", "请写成 --field prompt=问题")
            raise UserError(say(f"'{text}' names no two fields", f"“{text}”没有写明两个字段"), None, hint)
        settings["fields"][ours] = theirs
    return settings | ({"limit": limit} if limit < _NO_LIMIT else {})


@app.command(
    help=say(
        "Say for each file: format, encoding, records, what is kept and dropped and why, three samples.",
        "逐个文件说明：格式、编码、记录数、保留与丢弃及原因、三条样例。",
    )
)
def inspect(
    paths: Paths,
    format_: Format = "auto",
    encoding: Encoding = "auto",
    field: Fields = [],
    limit: Limit = _NO_LIMIT,
    as_json: AsJson = False,
) -> None:
    from hanlin.data.report.inspect import inspect as look_into

    bad = False
    rows = []
    for row in look_into(paths, _source(format_, encoding, field, limit)):
        bad = bad or ("error" in row and not row.get("skipped"))
        if as_json:
            rows.append(row)
        else:
            _print_file(row)
    if as_json:
        print_json(rows)
    if bad:
        sys.exit(2)


def _print_file(row: dict[str, Any]) -> None:
    from hanlin.data.ledger import describe_reason
    from hanlin.data.report.excerpts import shorten_row

    typer.secho(row["path"], bold=True)
    if "error" in row:
        typer.secho(f"  {row['error']}", fg=None if row.get("skipped") else "red")
        return
    typer.echo(f"  {row['format']} · {row['encoding']} · {say('for the stage', '适用阶段')} {row['stage']}")
    counts = say(
        f"{row['records']:,} records, {row['kept']:,} kept, {row['characters']:,} characters",
        f"{row['records']:,} 条记录，保留 {row['kept']:,} 条，{row['characters']:,} 字",
    )
    typer.echo(f"  {counts}")
    for reason, count in row["dropped"].items():
        typer.echo(f"    {say('dropped', '丢弃')} {count:,}  {reason}: {describe_reason(reason)}")
    for sample in row["samples"]:
        typer.echo(f"  · {shorten_row(sample)}")


@app.command(
    help=say(
        "Write the records of files in another tool's format, with an account of every row.",
        "把文件中的记录写成另一种格式，并说明每一行的去向。",
    )
)
def convert(
    paths: Paths,
    to: Annotated[str, typer.Option(help="messages, sharegpt, alpaca, firefly, dpo")],
    out: Annotated[Path, typer.Option(help=say("new file, .jsonl or .json", "新文件，.jsonl 或 .json"))],
    format_: Format = "auto",
    encoding: Encoding = "auto",
    field: Fields = [],
    limit: Limit = _NO_LIMIT,
    as_json: AsJson = False,
) -> None:
    from hanlin.data.formats.convert import convert as write
    from hanlin.data.formats.writers import describe_lost_part
    from hanlin.data.ledger import describe_reason

    accounts = write(paths, to, out, _source(format_, encoding, field, limit))
    if as_json:
        print_json([account.to_json() for account in accounts])
        return
    for account in accounts:
        typer.secho(account.path, bold=True)
        counts = say(
            f"{account.rows_in:,} rows, {account.kept:,} written", f"{account.rows_in:,} 行，写出 {account.kept:,} 行"
        )
        typer.echo(f"  {account.format} · {account.encoding} · {counts}")
        for reason, count in sorted(account.dropped.items()):
            typer.echo(f"    {say('left out', '未写出')} {count:,}  {reason}: {describe_reason(reason)}")
        for part, count in sorted(account.lost_parts.items()):
            typer.echo(f"    {say('written without', '写出时舍去')} {count:,}  {part}: {describe_lost_part(part)}")
    typer.echo(str(out))
