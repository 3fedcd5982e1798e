"""`hanlin pull`: fetch a model or a data set from a hub, pinned and verified. How is decided in `pipeline/hubs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, echo_data, print_json, print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.pipeline.hubs.pull import Pulled

app = new_app()


@command(
    app,
    tr(
        "Names are hf:owner/name[@revision] (Hugging Face or the mirror in HF_ENDPOINT) and ms:owner/name[@revision] "
        "(ModelScope). A second run goes on where the first broke off; every file is compared with the hub's hash. "
        "Prints the name with its commit, for recipes."
    ),
)
def pull(
    name: Annotated[str, typer.Argument(help=tr("the repository: hf:owner/name or ms:owner/name"), show_default=False)],
    dataset: Annotated[
        bool, typer.Option("--dataset", help=tr("a data set; by default a model is looked for first"))
    ] = False,
    model: Annotated[bool, typer.Option("--model", help=tr("a model, never a data set"))] = False,
    files: Annotated[
        list[str] | None, typer.Option("--files", help=tr("only files that match, for instance '*Q4_K_M*'; may repeat"))
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=tr("every file: pickles, original/ and other programs' files too"))
    ] = False,
    endpoint: Annotated[str, typer.Option(help=tr("address of a mirror, instead of HF_ENDPOINT"))] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help=tr("list the files and fetch nothing"))] = False,
    as_json: AsJson = False,
) -> None:
    from hanlin.config.references import parse_hub_name
    from hanlin.core.progress import Progress
    from hanlin.pipeline.hubs.pull import PullRequest
    from hanlin.pipeline.hubs.pull import pull as pull_repository

    if dataset and model:
        raise UserError(tr("--model and --dataset exclude each other"), "hanlin pull")
    if files and everything:
        raise UserError(tr("--files and --all exclude each other"), "hanlin pull")
    kind = "dataset" if dataset else "model" if model else ""
    request = PullRequest(parse_hub_name(name), kind, tuple(files or ()), everything, endpoint)
    progress = Progress(name)
    pulled = pull_repository(request, lambda text: echo(text, err=True), progress, dry_run=dry_run)
    if as_json:
        print_json(_describe(pulled, dry_run))
        return
    if dry_run:
        _print_files(pulled)
        return
    _print_notes(pulled)
    echo(str(pulled.name))
    echo_data(str(pulled.folder))


def _describe(pulled: Pulled, dry_run: bool) -> dict[str, object]:
    return {
        "name": str(pulled.name),
        "kind": pulled.kind,
        "folder": "" if dry_run else str(pulled.folder),
        "bytes": pulled.bytes,
        "fetched_bytes": pulled.fetched_bytes,
        "files": [file._asdict() for file in pulled.selection.files],
        "left_out": [{"path": file.path, "size": file.size, "why": why} for file, why in pulled.selection.left_out],
    }


def _print_files(pulled: Pulled) -> None:
    rows = [[file.path, f"{file.size:,}", ""] for file in pulled.selection.files]
    rows += [[file.path, f"{file.size:,}", tr(why)] for file, why in pulled.selection.left_out]
    styles = [""] * len(pulled.selection.files) + ["dim"] * len(pulled.selection.left_out)
    print_table(tr("file,bytes,left out because").split(","), rows, styles)
    count = len(pulled.selection.files)
    echo(
        tr(
            "{name}: {count} files, {total:,} bytes; nothing was fetched",
            name=pulled.name,
            count=count,
            total=pulled.bytes,
        )
    )


def _print_notes(pulled: Pulled) -> None:
    count = len(pulled.selection.files)
    text = tr("{count} files, {total:,} bytes, verified; {fetched:,} bytes came now", count=count, total=pulled.bytes,
              fetched=pulled.fetched_bytes)  # fmt: skip
    echo(text, err=True)
    if pulled.selection.left_out:
        omitted = sum(file.size for file, _ in pulled.selection.left_out)
        count = len(pulled.selection.left_out)
        echo(
            tr("{count} files ({total:,} bytes) were left out; --dry-run lists them", count=count, total=omitted),
            err=True,
        )
    unhashed = sum(1 for file in pulled.selection.files if not file.algorithm)
    if unhashed:
        echo(tr("the hub lists no hash of {count} files: only their size was compared", count=unhashed), err=True)
