"""`hanlin lineage`, `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.core.context import LineageNode

app = new_app()


@command(app, tr("Goes back to every source file, with hash and license."))
def lineage(
    artifact: Annotated[Path, typer.Argument(help=tr("folder of an artifact"))], as_json: AsJson = False
) -> None:
    from dataclasses import asdict

    from hanlin.pipeline.lineage import lineage as read_lineage

    root = read_lineage(artifact)
    if as_json:
        print_json(asdict(root))
    else:
        _print_node(root, 0)


def _print_node(node: LineageNode, depth: int) -> None:
    license = f"  [{node.license}]" if node.license else ""
    typer.echo(f"{'  ' * depth}{node.name}  {node.type}  {node.digest[:16]}{license}")
    for parent in node.parents:
        _print_node(parent, depth + 1)


@command(app)
def tensorboard(
    artifact: Annotated[Path, typer.Argument(help=tr("artifact of a training stage"))],
    out: Annotated[Path, typer.Option(help=tr("folder for the event files"))] = Path("tensorboard"),
) -> None:
    from hanlin.train.callbacks.metrics_log import METRICS_FILE, write_tensorboard

    write_tensorboard(artifact / METRICS_FILE, out / artifact.name)
    typer.echo(f"tensorboard --logdir {out}")
