"""`hanlin lineage`, `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.output import print_json
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.core.context import LineageNode
from hanlin.cli.options import AsJson


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "What an artifact came from, back to each source file with hash and license.",
            "产物的来历，直至每个源文件的哈希与许可。",
        )
    )(lineage)
    app.command(help=say("Write a training run's curve for TensorBoard.", "把训练曲线写成 TensorBoard 事件文件。"))(
        tensorboard
    )


def lineage(artifact: Path, as_json: AsJson = False) -> None:
    from dataclasses import asdict

    from hanlin.pipeline.lineage import lineage as ancestry

    root = ancestry(artifact)
    if as_json:
        print_json(asdict(root))
        return

    def show(node: LineageNode, depth: int) -> None:
        license = f"  [{node.license}]" if node.license else ""
        typer.echo(f"{'  ' * depth}{node.name}  {node.type}  {node.digest[:16]}{license}")
        for parent in node.parents:
            show(parent, depth + 1)

    show(root, 0)


def tensorboard(
    artifact: Annotated[Path, typer.Argument(help=say("a trained stage", "训练所得的产物"))],
    out: Annotated[Path, typer.Option(help=say("folder for the event files", "事件文件所在文件夹"))] = Path(
        "tensorboard"
    ),
) -> None:
    from hanlin.train.callbacks.metrics_log import FILE
    from hanlin.train.callbacks.metrics_log import tensorboard as write_events

    write_events(artifact / FILE, out / artifact.name)
    typer.echo(f"tensorboard --logdir {out}")
