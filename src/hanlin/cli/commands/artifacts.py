"""`hanlin lineage`, `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.core.context import LineageNode

app = new_app()


@command(app, say("Goes back to every source file, with hash and license.", "追溯到每个源文件，附哈希与许可证。"))
def lineage(
    artifact: Annotated[Path, typer.Argument(help=say("folder of an artifact", "产物文件夹"))], as_json: AsJson = False
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
    artifact: Annotated[Path, typer.Argument(help=say("artifact of a training stage", "训练阶段的产物"))],
    out: Annotated[Path, typer.Option(help=say("folder for the event files", "事件文件所在文件夹"))] = Path(
        "tensorboard"
    ),
) -> None:
    from hanlin.train.callbacks.metrics_log import METRICS_FILE, write_tensorboard

    write_tensorboard(artifact / METRICS_FILE, out / artifact.name)
    typer.echo(f"tensorboard --logdir {out}")
