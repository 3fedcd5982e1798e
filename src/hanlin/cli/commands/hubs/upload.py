"""`hanlin upload`: put a finished folder on a model hub. What may be uploaded is decided in `pipeline/hubs/upload`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

app = new_app()


@command(app, tr("With --dry-run, every file is listed and nothing is sent."))
def upload(
    folder: Annotated[Path, typer.Argument(help=tr("package or model folder"))],
    to: Annotated[str, typer.Option(help="hf:owner/name, ms:owner/name")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help=tr("list the files and send nothing"))] = False,
    public: Annotated[bool, typer.Option("--public", help=tr("create a public repository"))] = False,
    as_json: AsJson = False,
) -> None:
    from hanlin.config.references import parse_hub_name
    from hanlin.pipeline.hubs.upload import list_upload_files
    from hanlin.pipeline.hubs.upload import upload as upload_files

    target = parse_hub_name(to, "--to")
    if target.revision:
        raise UserError(tr("an upload makes a new revision: leave @{revision} out", revision=target.revision), "--to")
    items = list_upload_files(folder)
    total = sum(item.bytes for item in items)
    address = ""
    if not dry_run:
        address = upload_files(folder, items, target, private=not public, log=lambda text: echo(text, err=True))
    if as_json:
        print_json({"to": to, "sent": address, "bytes": total, "files": [item._asdict() for item in items]})
        return
    headings = tr("file,bytes,sha256").split(",")
    print_table(headings, [[item.path, f"{item.bytes:,}", item.sha256] for item in items])
    summary = tr("{count} files, {total:,} bytes", count=len(items), total=total)
    not_sent = tr("nothing was sent")
    echo(f"{summary} → {address or f'{to} ({not_sent})'}")
