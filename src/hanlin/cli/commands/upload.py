"""`hanlin upload`: put a finished folder on a model hub. What may be uploaded is decided in `pipeline/hub`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json, print_table
from hanlin.core.i18n import say

app = new_app()


@command(app, say("With --dry-run, every file is listed and nothing is sent.", "加 --dry-run 则只列出文件，不上传。"))
def upload(
    folder: Annotated[Path, typer.Argument(help=say("package or model folder", "打包好的文件夹或模型文件夹"))],
    to: Annotated[str, typer.Option(help="hf:owner/name, ms:owner/name")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=say("list the files and send nothing", "只列出文件，不上传"))
    ] = False,
    public: Annotated[bool, typer.Option("--public", help=say("create a public repository", "创建公开仓库"))] = False,
    as_json: AsJson = False,
) -> None:
    from hanlin.pipeline.hub import list_upload_files, parse_repository
    from hanlin.pipeline.hub import upload as upload_files

    target = parse_repository(to)
    items = list_upload_files(folder)
    total = sum(item.bytes for item in items)
    address = ""
    if not dry_run:
        address = upload_files(folder, items, target, private=not public, log=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json({"to": to, "sent": address, "bytes": total, "files": [item._asdict() for item in items]})
        return
    headings = say("file,bytes,sha256", "文件,字节,sha256").split(",")
    print_table(headings, [[item.path, f"{item.bytes:,}", item.sha256] for item in items])
    summary = say(f"{len(items)} files, {total:,} bytes", f"{len(items)} 个文件，{total:,} 字节")
    not_sent = say("nothing was sent", "未上传")
    typer.echo(f"{summary} → {address or f'{to} ({not_sent})'}")
