"""`hanlin cache ls` and `hanlin cache rm`: what was fetched from hubs, how large it is, what uses it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, Home
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.pipeline.hubs.cache import CachedRevision

app = new_app(tr("What was fetched from model hubs: list it, delete it."))


@command(app, tr("List what the caches of Hugging Face and ModelScope hold, with what was made from it."), name="ls")
def list_command(home: Home = Path(), as_json: AsJson = False) -> None:
    from hanlin.pipeline.hubs.cache import list_cache

    cached = list_cache(home)
    if as_json:
        print_json([_describe(item) for item in cached])
        return
    if not cached:
        echo(tr("the caches are empty"))
        return
    states = {"verified": tr("verified"), "changed": tr("changed"), "unknown": tr("not verified")}
    rows = [
        [
            f"{item.name.hub}:{item.name.name}",
            tr("model") if item.kind == "model" else tr("data set"),
            " ".join([item.name.revision[:12], *item.refs]),
            _size(item.bytes) + (f" + {_size(item.incomplete_bytes)}…" if item.incomplete_bytes else ""),
            states[item.state],
            time.strftime("%Y-%m-%d", time.localtime(item.modified)),
            ", ".join(item.used_by) or "–",
        ]
        for item in cached
    ]
    print_table(tr("repository,what,revision,size,state,fetched,used by").split(","), rows)
    total = sum(item.bytes + item.incomplete_bytes for item in cached)
    echo(tr("{count} revisions, {size}", count=len(cached), size=_size(total)))


@command(app, tr("Delete a repository from the cache, or one revision of it (@revision)."), name="rm")
def remove_command(
    names: Annotated[list[str], typer.Argument(help=tr("hf:owner/name or ms:owner/name, with @revision or without"))],
    home: Home = Path(),
    yes: Annotated[bool, typer.Option("--yes", help=tr("do not ask"))] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=tr("only list what would be deleted"))] = False,
    as_json: AsJson = False,
) -> None:
    from hanlin.config.references import parse_hub_name
    from hanlin.pipeline.hubs.cache import list_cache, remove_revisions, select_revisions

    cached = list_cache(home)
    chosen = {item.folder: item for name in names for item in select_revisions(cached, parse_hub_name(name))}
    items = list(chosen.values())
    if not as_json:
        for item in items:
            echo(f"{item.name} · {_size(item.bytes + item.incomplete_bytes)}")
            if item.used_by:
                echo(
                    tr("  used by {names}; to make them again it must be fetched again", names=", ".join(item.used_by))
                )
    if not dry_run and not yes:
        if as_json or not sys.stdin.isatty():
            raise UserError(tr("nothing is deleted unasked"), "hanlin cache rm", tr("add --yes"))
        echo(tr("delete {count} revisions?", count=len(items)) + " [y/N] ", nl=False)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):  # the end of the input is no answer
            echo(tr("nothing was deleted"))
            raise typer.Exit(1)
    freed = 0 if dry_run else remove_revisions(items)
    if as_json:
        print_json({"removed": [] if dry_run else [_describe(i) for i in items], "freed_bytes": freed})
    elif dry_run:
        echo(tr("nothing was deleted"))
    else:
        echo(tr("{size} freed", size=_size(freed)))


def _describe(item: CachedRevision) -> dict[str, object]:
    return {
        "name": str(item.name),
        "kind": item.kind,
        "refs": list(item.refs),
        "folder": str(item.folder),
        "files": item.files,
        "bytes": item.bytes,
        "incomplete_bytes": item.incomplete_bytes,
        "state": item.state,
        "modified": item.modified,
        "used_by": list(item.used_by),
    }


def _size(count: int) -> str:
    """A number of bytes in the unit that disks are sold in."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"
