"""The command `hanlin upload`: a finished folder on a model hub.

Owns what a person types and reads. Does not own what is refused or how it goes up (`hanlin.pipeline.hub`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.output import print_json, print_table
from hanlin.core.i18n import say


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Put a finished folder on Hugging Face or ModelScope; --dry-run lists every file.",
            "把完成的文件夹上传到 Hugging Face 或 ModelScope；--dry-run 只列出每个文件。",
        )
    )(upload)


def upload(
    folder: Annotated[Path, typer.Argument(help=say("a package, or a model folder", "软件包或模型文件夹"))],
    to: Annotated[str, typer.Option(help="hf:owner/name, ms:owner/name")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=say("list the files and send nothing", "只列出文件，不上传"))
    ] = False,
    public: Annotated[bool, typer.Option("--public", help=say("everybody may read it", "公开仓库"))] = False,
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))] = False,
) -> None:
    from hanlin.pipeline.hub import items_of, send, target_of

    target = target_of(to)
    items = items_of(folder)
    total = sum(item.bytes for item in items)
    place = (
        "" if dry_run else send(folder, items, target, private=not public, tell=lambda text: typer.echo(text, err=True))
    )
    if as_json:
        print_json({"to": to, "sent": place, "bytes": total, "files": [item._asdict() for item in items]})
        return
    heads = say("file,bytes,sha256", "文件,字节,sha256").split(",")
    print_table(heads, [[item.path, f"{item.bytes:,}", item.sha256] for item in items])
    summary = say(f"{len(items)} files, {total:,} bytes", f"{len(items)} 个文件，{total:,} 字节")
    nothing = say("nothing was sent", "未上传")
    typer.echo(f"{summary} → {place or f'{to} ({nothing})'}")
