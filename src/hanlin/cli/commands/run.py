"""`hanlin run`, `status`, `report`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, Changes, Home, RecipePath, Until, open_recipe, refuse_options
from hanlin.cli.output import STATE_STYLE, echo, echo_data, print_json, print_table, state_name, status_as_json
from hanlin.core.errors import UserError, explain_os_error
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import quote_shell

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.step import Step

app = new_app()


@command(
    app,
    tr("Stages that are done are skipped; an interrupted stage resumes where it stopped."),
)
def run(
    context: typer.Context,
    recipe: RecipePath,
    set_: Changes = [],
    until: Until = "",
    home: Home = Path("."),
    as_json: AsJson = False,
    verify: Annotated[
        bool, typer.Option("--verify", help=tr("hash every source and artifact again before it is used"))
    ] = False,
    print_command: Annotated[
        bool,
        typer.Option(
            "--print-command",
            help=tr(
                "run nothing; print the command for each machine of `launch` and a script for Slurm; --until "
                "names the training stage"
            ),
        ),
    ] = False,
) -> None:
    from hanlin.pipeline.report import build_report, summarize_metrics
    from hanlin.pipeline.run import launch_commands
    from hanlin.pipeline.run import run as run_recipe
    from hanlin.pipeline.run_record import RunSource
    from hanlin.web.pages.run_report import write_report

    if print_command:
        refuse_options(context, ("as_json", "verify"), tr("with --print-command nothing is run"))
    checked, store = open_recipe(recipe, set_, until, home, verify)
    if print_command:
        echo_data(launch_commands(checked, store, until, str(recipe), set_), nl=False)
        return
    count = len(checked.stages)
    index = {name: position for position, name in enumerate(checked.stages, start=1)}

    def on_event(event: str, step: Step) -> None:
        head = f"[{index[step.stage.name]}/{count}] {step.stage.name}"
        if event == "skip":
            echo(f"{head}: {tr('done before')}", err=True)
        elif event == "start":
            why = f"({step.why})" if step.why else ""
            echo(f"{head}: {step.stage.kind.summary} {why}", err=True)
        elif event == "made" and step.manifest:
            echo(f"{head}: {step.manifest.seconds:.1f} s · {summarize_metrics(step)}", err=True)

    steps = run_recipe(checked, store, on_event, RunSource(str(recipe.absolute()), tuple(set_), until, str(Path.cwd())))
    page: Path | None = None
    reported, reported_steps = _widen_report(checked, steps, recipe, set_, store) if until else (checked, steps)
    try:
        report, page = write_report(reported, reported_steps, store)
    except OSError as error:  # all stages are done: their results are worth more than the page
        known = explain_os_error(error)
        if known is None:
            raise
        echo(tr("the report is not written: {reason}", reason=known), err=True)
        report = build_report(reported, reported_steps)
    if as_json:
        print_json(report.data)
        return
    _print_summary(checked, store, steps, page)


def _widen_report(
    part: Recipe, steps: list[Step], path: Path, changes: list[str], store: Store
) -> tuple[Recipe, list[Step]]:
    """The recipe and the steps that the report of `--until` is of: all stages that are done, not those up to there
    alone, whose report would take the place of one that has more; figures and targets of other stages are left out.

    Args:
        part: The recipe up to a stage.
        steps: Its steps.
        path: The recipe's file.
        changes: What was changed in it.
        store: Where its artifacts are.
    """
    from hanlin.config.recipe_file import read_recipe
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.report import done_steps

    try:
        whole = read_recipe(path, changes)
        done = done_steps(make_plan(whole, store))
    except UserError:  # a later stage lacks something, which may be why there is a last one
        return part, steps
    return replace(whole, report=whole.report.restricted_to({step.stage.name for step in done})), done


def _print_summary(recipe: Recipe, store: Store, steps: list[Step], page: Path | None) -> None:
    """Print what each stage changed, the figures beside their targets, a few answers, and what to do next."""
    from hanlin.pipeline.report import build_report, format_number, sample_answers, summarize_metrics

    echo("")
    headings = tr("stage,seconds,what changed").split(",")
    print_table(
        headings, [[s.stage.name, f"{s.manifest.seconds:.1f}", summarize_metrics(s)] for s in steps if s.manifest]
    )
    report = build_report(recipe, steps)
    if report.results:
        echo("")
        rows = [
            [
                v.figure,
                format_number(v.value),
                f"{v.sign} {format_number(v.bound)}",
                tr("reached") if v.reached else tr("NOT REACHED"),
            ]
            for v in report.results
        ]
        headings = tr("figure,measured,target,verdict").split(",")
        print_table(headings, rows, ["green" if v.reached else "bold red" for v in report.results])
    answers = sample_answers(recipe, steps, store, 5)
    if answers:
        echo(tr("\nSome answers to held-out questions:"))
        for row in answers:
            question, answer = row["question"], row["answer"]
            echo(
                tr("  user: {question}\n  model: {answer}", question=question, answer=answer),
            )
    if page is not None:
        echo(tr("\nreport: {page}", page=page))
    if recipe.report.chat:
        model = quote_shell(str(store.runs / recipe.name / recipe.report.chat))
        echo(tr("next:   hanlin chat {model}   ·   hanlin serve {model}", model=model))


@command(app, tr("Shows the progress of the stage that is running too."))
def status(recipe: RecipePath, set_: Changes = [], home: Home = Path("."), as_json: AsJson = False) -> None:
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.run import read_progress

    checked, store = open_recipe(recipe, set_, "", home)
    steps = make_plan(checked, store)
    progress = {step.stage.name: read_progress(step, store) for step in steps if step.state == "resume"}
    if as_json:
        print_json(status_as_json(steps, progress))
        return
    rows = []
    for step in steps:
        row = progress.get(step.stage.name)
        amount = f"{row['done']:,.0f}/{row['total']:,.0f} {row['unit']}" if row else ""
        rows.append([step.stage.name, state_name(step.state), amount, step.why])
    headings = tr("stage,state,progress,why").split(",")
    print_table(headings, rows, [STATE_STYLE[s.state] for s in steps])


@command(app, tr("It holds the figures of every stage, as HTML and as JSON."))
def report(recipe: RecipePath, set_: Changes = [], home: Home = Path("."), as_json: AsJson = False) -> None:
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.run import refuse_edited
    from hanlin.web.pages.run_report import write_report

    checked, store = open_recipe(recipe, set_, "", home)
    steps = make_plan(checked, store)
    for step in steps:
        refuse_edited(step, store)
    missing = [step.stage.name for step in steps if step.state != "done"]
    if len(missing) == len(steps):
        raise UserError(tr("no stage has run yet"), recipe, f"hanlin run {quote_shell(str(recipe))}")
    written, page = write_report(checked, steps, store)
    if as_json:
        print_json(written.data)
    else:
        if missing:
            stages = join_list(missing)
            echo(tr("not run yet: {stages}", stages=stages), err=True)
        echo_data(str(page))
