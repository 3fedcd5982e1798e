"""The command `hanlin`: recipes, single stages, chat and serving.

Owns what a person types and reads. Imports what a command needs inside that command, so that help comes at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin import __version__
from hanlin.cli.commands import chat, generate, package, quantize, serve, single_stage, template, tokens, upload
from hanlin.cli.commands import plan as forecast
from hanlin.cli.commands.data import convert
from hanlin.cli.output import print_json, print_table
from hanlin.config.kinds import KINDS, kind_named
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.config.recipe_file import Recipe
    from hanlin.core.context import Ancestor
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.plan import Step

app = typer.Typer(
    name="hanlin",
    help=say("Make Llama models good at Chinese: one recipe, one command.", "让 Llama 学好中文：一份配方，一条命令。"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


RecipePath = Annotated[Path, typer.Argument(help=say("recipe file (YAML)", "配方文件（YAML）"), show_default=False)]
Changes = Annotated[
    list[str], typer.Option("--set", help=say("stage.setting=value, may repeat", "阶段.设置=值，可重复"))
]
Until = Annotated[str, typer.Option(help=say("stop after this stage", "做到此阶段为止"))]
AsJson = Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))]
Home = Annotated[
    Path, typer.Option(envvar="HANLIN_HOME", help=say("where artifacts/ and runs/ lie", "artifacts/ 与 runs/ 所在位置"))
]


def _open(path: Path, changes: list[str], until: str, home: Path) -> tuple[Recipe, Store]:
    from hanlin.config.recipe_file import read_recipe
    from hanlin.pipeline.artifacts import Store

    recipe = read_recipe(path, changes)
    return (recipe.until(until) if until else recipe), Store(home)


@app.command(
    help=say(
        "Say for each stage what is done, what must run, and why; and what training will need.",
        "说明各阶段的状态：已完成、需运行及原因；并预测训练所需。",
    )
)
def plan(
    recipe: RecipePath,
    set_: Changes = [],
    until: Until = "",
    home: Home = Path("."),
    memory: Annotated[
        str, typer.Option(help=say("memory that there is, like 24GB (default: this machine's)", "可用内存，如 24GB"))
    ] = "",
    device: Annotated[str, typer.Option(help=say("auto, cpu or gpu", "auto、cpu 或 gpu"))] = "auto",
    probe: Annotated[
        bool, typer.Option("--probe", help=say("measure this machine: step time, hours", "测量本机：每步用时与总小时"))
    ] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help=say("published costs of training beside", "并列公开的训练开销"))
    ] = False,
    as_json: AsJson = False,
) -> None:
    from hanlin.pipeline.plan import plan as make_plan

    checked, store = _open(recipe, set_, until, home)
    steps = make_plan(checked, store)
    ahead = forecast.look_ahead(checked, steps, memory, device, probe)
    _print_steps(steps, as_json, {one.stage: forecast.as_json(one) for one in ahead})
    if not as_json:
        forecast.show(ahead)
        if costs:
            forecast.show_costs()


_STATE_ZH = {"done": "已完成", "resume": "续做", "run": "待运行", "stale": "过期"}
_STATE_STYLE = {"done": "green", "resume": "yellow", "run": "", "stale": "yellow"}


def _print_steps(steps: list[Step], as_json: bool, ahead: dict[str, dict[str, Any]]) -> None:
    if as_json:
        rows_of_steps: list[dict[str, Any]] = []
        for s in steps:
            row = {"stage": s.stage.name, "kind": s.stage.kind.name, "state": s.state, "why": s.why, "key": s.key}
            rows_of_steps.append(row | ({"forecast": ahead[s.stage.name]} if s.stage.name in ahead else {}))
        print_json(rows_of_steps)
        return
    rows = [[s.stage.name, s.stage.kind.name, say(s.state, _STATE_ZH[s.state]), s.key[:8], s.why] for s in steps]
    heads = say("stage,kind,state,key,why", "阶段,类型,状态,键,原因").split(",")
    print_table(heads, rows, [_STATE_STYLE[s.state] for s in steps])


@app.command(
    help=say(
        "Run a recipe: what is done is skipped, what was broken off goes on.", "运行配方：已完成的跳过，中断的续做。"
    )
)
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
    from hanlin.pipeline.plan import commands
    from hanlin.pipeline.plan import run as run_all
    from hanlin.pipeline.report import changes, write

    checked, store = _open(recipe, set_, until, home)
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


@app.command(
    help=say("Where a recipe stands, with the progress of what is running.", "配方进行到哪里，含正在运行阶段的进度。")
)
def status(recipe: RecipePath, set_: Changes = [], home: Home = Path("."), as_json: AsJson = False) -> None:
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.plan import progress_of

    checked, store = _open(recipe, set_, "", home)
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
        rows.append([step.stage.name, say(step.state, _STATE_ZH[step.state]), share, step.why])
    print_table(
        say("stage,state,progress,why", "阶段,状态,进度,原因").split(","), rows, [_STATE_STYLE[s.state] for s in steps]
    )


@app.command(help=say("Write the report of a recipe's results again.", "重新生成配方结果的报告。"))
def report(recipe: RecipePath, set_: Changes = [], home: Home = Path("."), as_json: AsJson = False) -> None:
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.report import write

    checked, store = _open(recipe, set_, "", home)
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


@app.command(
    help=say(
        "What an artifact came from, back to each source file with hash and licence.",
        "产物的来历，直至每个源文件的哈希与许可。",
    )
)
def lineage(artifact: Path, as_json: AsJson = False) -> None:
    from dataclasses import asdict

    from hanlin.pipeline.artifacts import lineage as ancestry

    root = ancestry(artifact)
    if as_json:
        print_json(asdict(root))
        return

    def show(node: Ancestor, depth: int) -> None:
        licence = f"  [{node.licence}]" if node.licence else ""
        typer.echo(f"{'  ' * depth}{node.name}  {node.type}  {node.digest[:16]}{licence}")
        for parent in node.parents:
            show(parent, depth + 1)

    show(root, 0)


@app.command(help=say("The kinds of stages, or the settings of one.", "列出阶段类型，或某一类型的设置。"))
def kinds(kind: Annotated[str, typer.Argument()] = "", as_json: AsJson = False) -> None:
    if kind:
        chosen = kind_named(kind)
        if as_json:
            print_json(chosen.settings.model_json_schema())
        else:
            single_stage.print_settings(chosen)
    elif as_json:
        print_json([{"kind": k.name, "summary": k.summary, "heavy": k.heavy} for k in KINDS.values()])
    else:
        print_table(say("kind,what it does", "类型,作用").split(","), [[k.name, k.summary] for k in KINDS.values()])


@app.command(help=say("The JSON schema of recipes, for editors.", "配方的 JSON schema，供编辑器使用。"))
def schema() -> None:
    from hanlin.config.recipe_file import json_schema

    print_json(json_schema())


@app.command(
    help=say("What is installed here, what is missing, and how to get it.", "检查本机环境：装了什么，缺什么，如何补。")
)
def doctor(as_json: AsJson = False) -> None:
    from hanlin.cli.commands.doctor import examine

    findings = examine()
    if as_json:
        print_json([{"what": f.what, "found": f.found, "good": f.good, "hint": f.hint} for f in findings])
    else:
        rows = [["✓" if f.good else ("–" if f.optional else "✗"), f.what, f.found, f.hint] for f in findings]
        heads = [" ", *say("what,found,how to get it", "项目,结果,如何补齐").split(",")]
        print_table(heads, rows, ["green" if f.good else ("" if f.optional else "red") for f in findings])
    if any(not f.good and not f.optional for f in findings):
        raise typer.Exit(1)


@app.command(help=say("Write a training run's curve for TensorBoard.", "把训练曲线写成 TensorBoard 事件文件。"))
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


chat.add_to(app)
generate.add_to(app)
quantize.add_to(app)
package.add_to(app)
serve.add_to(app)
upload.add_to(app)
single_stage.add_to(app, but=("package",))
app.add_typer(convert.app, name="data")
app.add_typer(template.app, name="template")
app.add_typer(tokens.app, name="tokens")


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"hanlin {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def main() -> None:
    """The console script. Exit codes: 0 good, 2 bad input (one sentence), 130 interrupted, 1 a bug of ours."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except UserError as error:
        typer.secho(f"{say('error', '错误')}: {_sentence(error)}", fg="red", err=True)
        if error.hint:
            typer.echo(f"  {say('hint', '提示')}: {error.hint}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo(say("\nstopped; the same command goes on from here", "\n已停止；再次运行同一命令即可续做"), err=True)
        sys.exit(130)


def _sentence(error: UserError) -> str:
    return error.what if error.where is None else f"{error.where}: {error.what}"


if __name__ == "__main__":
    main()
