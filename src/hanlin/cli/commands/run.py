"""`hanlin run`, `status`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.output import print_json, print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.step import Step
from hanlin.cli.options import AsJson, Changes, Home, RecipePath, Until, open_recipe
from hanlin.cli.output import STATE_STYLE, STATE_ZH


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Run a recipe: what is done is skipped, what was broken off goes on.",
            "运行配方：已完成的跳过，中断的续做。",
        )
    )(run)
    app.command(
        help=say(
            "Where a recipe stands, with the progress of what is running.", "配方进行到哪里，含正在运行阶段的进度。"
        )
    )(status)
    app.command(help=say("Write the report of a recipe's results again.", "重新生成配方结果的报告。"))(report)


def run(
    recipe: RecipePath,
    set_: Changes = [],
    until: Until = "",
    home: Home = Path("."),
    as_json: AsJson = False,
    print_command: Annotated[
        bool,
        typer.Option(
            "--print-command",
            help=say(
                "run nothing; print what to type on each machine of `launch`, and a script for Slurm; --until names "
                "the training stage",
                "不运行；打印 launch 中各机器上要输入的命令及 Slurm 脚本；--until 指定训练阶段",
            ),
        ),
    ] = False,
) -> None:
    from hanlin.pipeline.report import changes
    from hanlin.pipeline.run import commands
    from hanlin.pipeline.run import run as run_all
    from hanlin.web.pages.run_report import write

    checked, store = open_recipe(recipe, set_, until, home)
    if print_command:
        typer.echo(commands(checked, store, until, str(recipe), set_), nl=False)
        return
    number = len(checked.stages)
    place = {name: position for position, name in enumerate(checked.stages, start=1)}

    def tell(event: str, step: Step) -> None:
        head = f"[{place[step.stage.name]}/{number}] {step.stage.name}"
        if event == "skip":
            typer.echo(f"{head}: {say('done before', '此前已完成')}", err=True)
        elif event == "start":
            why = f"({step.why})" if step.why else ""
            typer.echo(f"{head}: {step.stage.kind.summary} {why}", err=True)
        elif event == "made" and step.manifest:
            typer.echo(f"{head}: {step.manifest.seconds:.1f} s · {changes(step)}", err=True)

    steps = run_all(checked, store, tell)
    report, page = write(checked, steps, store)
    if as_json:
        print_json(report.data)
        return
    _close(checked, store, steps, page)


def _close(recipe: Recipe, store: Store, steps: list[Step], page: Path) -> None:
    """The last words of a run: what each stage changed, the figures, a few answers, where to go next."""
    from hanlin.pipeline.report import answers_of, changes, gather, number

    typer.echo("")
    heads = say("stage,seconds,what changed", "阶段,秒,变化").split(",")
    print_table(heads, [[s.stage.name, f"{s.manifest.seconds:.1f}", changes(s)] for s in steps if s.manifest])
    report = gather(recipe, steps)
    if report.verdicts:
        typer.echo("")
        rows = [
            [
                v.figure,
                number(v.value),
                f"{v.sign} {number(v.bound)}",
                say("reached", "达到") if v.reached else say("NOT REACHED", "未达到"),
            ]
            for v in report.verdicts
        ]
        heads = say("figure,measured,target,verdict", "指标,实测,目标,结论").split(",")
        print_table(heads, rows, ["green" if v.reached else "bold red" for v in report.verdicts])
    answers = answers_of(recipe, steps, store, 5)
    if answers:
        typer.echo(say("\nA sample of its answers to questions it never saw:", "\n对从未见过的问题的回答示例："))
        for row in answers:
            typer.echo(f"  {say('user', '用户')}: {row['question']}\n  {say('model', '模型')}: {row['answer']}")
    typer.echo(say(f"\nreport: {page}", f"\n报告：{page}"))
    if recipe.report.chat:
        model = store.runs / recipe.name / recipe.report.chat
        typer.echo(say("next:   ", "下一步：") + f"hanlin chat {model}   ·   hanlin serve {model}")


def status(recipe: RecipePath, set_: Changes = [], home: Home = Path("."), as_json: AsJson = False) -> None:
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.run import progress_of

    checked, store = open_recipe(recipe, set_, "", home)
    steps = make_plan(checked, store)
    far = {step.stage.name: progress_of(step, store) for step in steps if step.state == "resume"}
    if as_json:
        print_json(
            [{"stage": s.stage.name, "state": s.state, "why": s.why, "progress": far.get(s.stage.name)} for s in steps]
        )
        return
    rows = []
    for step in steps:
        row = far.get(step.stage.name)
        share = f"{row['done']:,.0f}/{row['total']:,.0f} {row['unit']}" if row else ""
        rows.append([step.stage.name, say(step.state, STATE_ZH[step.state]), share, step.why])
    print_table(
        say("stage,state,progress,why", "阶段,状态,进度,原因").split(","), rows, [STATE_STYLE[s.state] for s in steps]
    )


def report(recipe: RecipePath, set_: Changes = [], home: Home = Path("."), as_json: AsJson = False) -> None:
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.web.pages.run_report import write

    checked, store = open_recipe(recipe, set_, "", home)
    steps = make_plan(checked, store)
    missing = [step.stage.name for step in steps if step.state != "done"]
    if len(missing) == len(steps):
        raise UserError(
            say("nothing was made yet", "尚无任何结果"), recipe, say(f"hanlin run {recipe}", f"hanlin run {recipe}")
        )
    written, page = write(checked, steps, store)
    if as_json:
        print_json(written.data)
    else:
        if missing:
            typer.echo(say(f"not made yet: {', '.join(missing)}", f"尚未制作：{'、'.join(missing)}"), err=True)
        typer.echo(str(page))
