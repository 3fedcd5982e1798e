"""`hanlin compare`: the results of models beside each other. The stage `compare` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, Home, refuse_options
from hanlin.cli.output import echo, print_json, print_table
from hanlin.config.kinds import get_kind
from hanlin.core.i18n import tr

app = new_app()
_OF_A_NEW_ONE = (
    "name",
    "contamination",
    "common",
    "judge",
    "judge_model",
    "judge_questions",
    "resamples",
    "seed",
    "out",
)
"""Options that decide what a comparison measures."""


@command(
    app,
    tr(
        "RESULTS: folders of evaluate, probe and perplexity, of one or more models, or of an earlier comparison, "
        "which is shown again. The first model is what the others are compared with."
    ),
)
def compare(
    context: typer.Context,
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS", help=tr("folders of results"), show_default=False)
    ],
    name: Annotated[list[str], typer.Option(help=tr("model of each folder, in order; may repeat"))] = [],
    contamination: Annotated[
        list[Path], typer.Option(help=tr("data stage with `decontaminate`: scores without its questions; may repeat"))
    ] = [],
    common: Annotated[bool, typer.Option("--common", help=tr("compare common questions only"))] = False,
    judge: Annotated[str, typer.Option(help=tr("address of a judge of open answers; key: HANLIN_API_KEY"))] = "",
    judge_model: Annotated[str, typer.Option(help=tr("model of that server"))] = "",
    judge_questions: Annotated[int, typer.Option(min=1, help=tr("open questions to judge at most"))] = 50,
    resamples: Annotated[int, typer.Option(min=100, help=tr("draws of the bootstrap"))] = 5000,
    seed: Annotated[int, typer.Option(min=0, help=tr("seed of the bootstrap"))] = 42,
    page: Annotated[Path | None, typer.Option(help=tr("write a page too"))] = None,
    out: Annotated[Path | None, typer.Option(help=tr("folder for the result (default: the store)"))] = None,
    home: Home = Path("."),
    as_json: AsJson = False,
) -> None:
    from hanlin.cli.commands.single_stage import run_stage
    from hanlin.core.files import load_json_object
    from hanlin.evaluate.comparison.names import COMPARISON
    from hanlin.pipeline.manifest import read_manifest

    if len(results) == 1 and (results[0] / COMPARISON).is_file():
        folder = results[0]
        refuse_options(context, _OF_A_NEW_ONE, tr("an earlier comparison is shown as it was made"))
        if as_json:
            manifest = read_manifest(folder)  # as of a comparison that is made now
            metrics, digest = (manifest.metrics, manifest.digest) if manifest is not None else ({}, "")
            print_json({"path": str(folder), "metrics": metrics, "digest": digest})
    else:
        settings: dict[str, Any] = {
            "results": [str(path.absolute()) for path in results],
            "names": name,
            "contamination": [str(path.absolute()) for path in contamination],
            "common": common,
            "resamples": resamples,
        }
        if not judge:
            refuse_options(context, ("judge_model", "judge_questions"), tr("no judge is named with --judge"))
        else:
            settings["judge"] = {"address": judge, "model": judge_model, "questions": judge_questions}
        folder = run_stage(get_kind("compare"), settings, out=out, seed=seed, home=home, as_json=as_json)
    comparison = load_json_object(folder / COMPARISON)
    if not as_json:
        _print(comparison)
    if page is not None:  # after the figures, which a page that cannot be written does not take away
        _write_page(page, comparison)
        echo(tr("page: {path}", path=page), err=as_json)


def _print(comparison: dict[str, Any]) -> None:
    from hanlin.evaluate.comparison.names import show_change, show_score, title_of

    models = [model["name"] for model in comparison["models"]]
    rows, styles = [], []
    for task in comparison["tasks"]:
        scores = {score["model"]: score for score in task["scores"]}
        rows.append(
            [title_of(task), f"{task['questions']:,}", *(show_score(scores.get(m), task["unit"]) for m in models)]
        )
        verdicts = {score["difference"]["verdict"] for score in task["scores"] if "difference" in score}
        styles.append("red" if "loss" in verdicts else "green" if "gain" in verdicts else "")
    print_table([tr("task"), tr("questions"), *models], rows, styles)
    for task in comparison.get("format", ()):
        for row in task["rows"]:
            told = f"{row['model']}, {title_of(task)}: {tr('format alone')} {show_change(row['format_effect'])}"
            if "gain" in row:
                told += f"; {tr('gain when told the form')} {show_change(row['gain']['format_only'])}"
                told += f": {tr(row['gain']['description'])}"
            echo(told)
    if len(models) > 1:
        echo(
            tr(
                "▼ worse than {model} beyond the 95 % interval, ▲ better, no mark: no difference is shown",
                model=models[0],
            )
        )


def _write_page(page: Path, comparison: dict[str, Any]) -> None:
    from hanlin.core.errors import UserError
    from hanlin.core.files import write_text
    from hanlin.web.pages.comparison import render_comparison

    try:
        write_text(page, render_comparison(comparison))
    except OSError as error:
        raise UserError(tr("cannot be written: {strerror}", strerror=error.strerror), page) from error
