"""`hanlin lineage`, `verify`, `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, print_json
from hanlin.core.i18n import tr
from hanlin.core.names import quote_shell

if TYPE_CHECKING:
    from hanlin.core.context import LineageNode

app = new_app()
_SHOWN_BYTES = 256 << 20
"""Hashing less is done within a second and shows no progress."""


@command(app, tr("Goes back to every source file, with hash and license."))
def lineage(
    artifact: Annotated[Path, typer.Argument(help=tr("folder of an artifact"))], as_json: AsJson = False
) -> None:
    from hanlin.pipeline.lineage import lineage as read_lineage
    from hanlin.pipeline.lineage import lineage_json

    root = read_lineage(artifact)
    if as_json:
        print_json(lineage_json(root))
    else:
        _print_node(root, 0, set())


def _print_node(node: LineageNode, depth: int, seen: set[tuple[str, str]]) -> None:
    license = f"  [{node.license}]" if node.license else ""
    is_repeated = bool(node.parents) and (node.name, node.digest) in seen
    above = "  " + tr("(as above)") if is_repeated else ""
    echo(f"{'  ' * depth}{node.name}  {node.type}  {node.digest[:16]}{license}{above}")
    seen.add((node.name, node.digest))
    for parent in () if is_repeated else node.parents:
        _print_node(parent, depth + 1, seen)


@command(app, tr("Hashes every file of an artifact, and of all that it was made from; exit code 2 if one was changed."))
def verify(
    artifact: Annotated[
        Path, typer.Argument(help=tr("folder of an artifact, runs/NAME of a recipe, or the home of a store"))
    ],
    as_json: AsJson = False,
) -> None:
    from hanlin.core.progress import Progress
    from hanlin.pipeline.integrity import edited_artifact
    from hanlin.pipeline.lineage import verify as verify_artifacts

    progress = Progress(tr("verify"))
    rows, changed = [], []

    def on_bytes(done: int, total: int) -> None:
        if total > _SHOWN_BYTES:
            progress.update(done, total, tr("bytes"))

    for result in verify_artifacts(artifact, on_bytes):
        progress.close()
        changes = [f"{change.path}: {change.what}" for change in result.changes]
        if result.changes:
            changed.append(result)
        row = {"artifact": str(result.folder), "files": len(result.manifest.files), "bytes": result.bytes}
        rows.append({**row, "digest": result.manifest.digest, "changes": changes, "missing": list(result.missing)})
        if not as_json:
            size = tr("{count} files, {size:,.1f} MB", count=len(result.manifest.files), size=result.bytes / 1e6)
            echo(f"{tr('changed') if changes else tr('unchanged')}  {result.folder.name}  {size}")
            for text in changes:
                echo(f"  {text}")
            for name in result.missing:
                echo("  " + tr("made from {name}, which is no longer here", name=name))
    if as_json:
        print_json(rows)
    if changed:
        raise edited_artifact(changed[0].folder, changed[0].changes)


@command(app)
def tensorboard(
    artifact: Annotated[Path, typer.Argument(help=tr("artifact of a training stage"))],
    out: Annotated[Path, typer.Option(help=tr("folder for the event files"))] = Path("tensorboard"),
    as_json: AsJson = False,
) -> None:
    from hanlin.train.callbacks.metrics_log import METRICS_FILE, write_tensorboard

    target = out / artifact.resolve().name
    write_tensorboard(artifact / METRICS_FILE, target)
    following = f"tensorboard --logdir {quote_shell(str(out))}"
    if as_json:
        print_json({"path": str(target), "next": [following]})
    else:
        echo(following)
