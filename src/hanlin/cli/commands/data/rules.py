"""The command `hanlin data rules`: what the rules would do to data before a stage reads it.

Owns what a person types and reads. Does not own what a rule does (`data/clean`) or how it is tried (`data/dry_run`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.output import print_json, print_table
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.config.settings.data import Reading
    from hanlin.core.context import Inputs
    from hanlin.data.report.dry_run import DryRun


def add_to(app: typer.Typer) -> None:
    """Give `hanlin data` the command `rules`."""
    app.command(
        help=say(
            "A dry run: for each rule how many records it would change and drop, with samples; nothing is written. "
            "FILE: data in any format that is read, or a recipe (.yaml) with --stage, whose own settings are tried.",
            "试运行：每条规则会改动、丢弃多少条，并给出样例；不写任何文件。FILE 可为任一可读格式的数据，"
            "也可为配方（.yaml），此时以 --stage 指定阶段，按其设置试运行。",
        )
    )(rules)


def rules(
    files: Annotated[
        list[Path],
        typer.Argument(
            help=say("files, folders or a recipe", "文件、文件夹或配方"), metavar="FILE...", show_default=False
        ),
    ],
    stage: Annotated[str, typer.Option(help=say("the stage of the recipe", "配方中的阶段"))] = "",
    rule: Annotated[
        list[str],
        typer.Option(
            help=say(
                "a rule to try as in a recipe (`symbols` or `{symbols: {share: 0.2}}`), may repeat; default: all",
                "要试的规则，写法同配方，可重复；默认全部",
            )
        ),
    ] = [],
    word_list: Annotated[
        list[Path], typer.Option(help=say("a list of unwanted words, may repeat", "屏蔽词表，可重复"))
    ] = [],
    against: Annotated[
        list[Path], typer.Option(help=say("an evaluation set to look for, may repeat", "要查找的评测集，可重复"))
    ] = [],
    limit: Annotated[
        int, typer.Option(min=0, help=say("rows of each file; 0: all", "每个文件的行数；0：全部"))
    ] = 10_000,
    samples: Annotated[int, typer.Option(min=0, help=say("samples of each rule", "每条规则的样例数"))] = 2,
    home: Annotated[
        Path,
        typer.Option(envvar="HANLIN_HOME", help=say("where artifacts/ and runs/ lie", "artifacts/ 与 runs/ 所在位置")),
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))] = False,
) -> None:
    from hanlin.data.report.dry_run import dry_run

    of_recipe = len(files) == 1 and files[0].suffix.lower() in (".yaml", ".yml")
    if of_recipe:
        settings, inputs = _of_recipe(files[0], stage, home)
    else:
        settings, inputs = _of_files(files, rule, word_list, against)
    result = dry_run(settings, inputs, stage_formats_only=of_recipe, limit=limit or None, samples=samples)
    if as_json:
        print_json({**asdict(result), "effects": [asdict(effect) for effect in result.effects.values()]})
    else:
        _tell(result)


def _of_recipe(path: Path, name: str, home: Path) -> tuple[Reading, Inputs]:
    from hanlin.config.recipe_file import read_recipe
    from hanlin.config.settings.data import Reading
    from hanlin.core.context import Inputs
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.plan import plan

    recipe = read_recipe(path)
    reading = [stage for stage in recipe.stages if isinstance(recipe.stages[stage].settings, Reading)]
    name = name or (reading[0] if len(reading) == 1 else "")
    if name not in reading:
        what = (
            say(f"no stage '{name}' that reads data", f"没有读取数据的阶段“{name}”")
            if name
            else say("which stage?", "哪个阶段？")
        )
        raise UserError(
            what,
            path,
            did_you_mean(name, reading) or say(f"--stage {' | '.join(reading)}", f"--stage {' | '.join(reading)}"),
        )
    step = next(step for step in plan(recipe.until(name), Store(home)) if step.stage.name == name)
    paths: dict[str, tuple[Path, ...]] = {}
    for source in step.sources:
        if not source.ready or not source.paths:
            hint = f"hanlin run {path} --until {source.entry.reference.partition('/')[0]}"
            raise UserError(
                say(f"{source.entry.reference} was not made yet", f"{source.entry.reference} 尚未制作"), path, hint
            )
        paths[source.entry.field] = (*paths.get(source.entry.field, ()), *source.paths)
    settings = step.stage.settings
    assert isinstance(settings, Reading)
    return settings, Inputs(paths)


def _of_files(files: list[Path], rules: list[str], lists: list[Path], against: list[Path]) -> tuple[Reading, Inputs]:
    """Settings that try the named rules, or all, on these files."""
    import yaml

    from hanlin.config.settings.data import Conversations
    from hanlin.config.settings.rules import ALL_TEXT_RULES, CHOSEN_TEXT_RULES, TURN_RULES
    from hanlin.config.validation import read_settings
    from hanlin.core.context import Inputs

    first = ("markdown", "ocr_debris")  # these mend, so they come before those that judge
    every: list[Any] = [*first, *(name for name in ALL_TEXT_RULES if name not in first), *TURN_RULES]
    assert set(first) <= set(CHOSEN_TEXT_RULES)
    row = {
        "sources": [{"path": str(file)} for file in files],
        "rules": [yaml.safe_load(rule) for rule in rules] or every,
        "blocklists": [{"path": str(path)} for path in lists],
        "decontaminate": {"against": [str(path) for path in against]} if against else None,
    }
    settings: Conversations = read_settings(Conversations, row, "--rule", "hanlin data rules", "conversations")
    paths: dict[str, tuple[Path, ...]] = {f"sources.{place}.path": (file,) for place, file in enumerate(files)}
    paths |= {f"blocklists.{place}.path": (file,) for place, file in enumerate(lists)}
    if against:
        paths["decontaminate.against"] = tuple(against)
    return settings, Inputs(paths)


def _tell(result: DryRun) -> None:
    typer.echo(
        say(
            f"{result.rows} records, {result.kept} kept, {sum(result.unread.values())} unreadable; nothing was written",
            f"共 {result.rows} 条，保留 {result.kept} 条，无法读取 {sum(result.unread.values())} 条；未写任何文件",
        )
    )
    busy = [effect for effect in result.effects.values() if effect.changes or effect.drops]
    if busy:
        heads = say("rule,changes,drops,first to drop", "规则,改动,丢弃,首个丢弃").split(",")
        print_table(heads, [[v.rule, str(v.changes), str(v.drops), str(v.first_drops)] for v in busy])
    for effect in busy:
        typer.echo(f"\n{effect.rule}")
        for sample in effect.dropped:
            detail = f" ({sample.detail})" if sample.detail else ""
            typer.echo(f"  ✗ {sample.location}{detail}\n    {sample.text}")
        for sample in effect.changed:
            typer.echo(f"  ~ {sample.location}\n    − {sample.text}\n    + {sample.after}")
    idle = [effect.rule for effect in result.effects.values() if not (effect.changes or effect.drops)]
    if idle:
        typer.echo(say(f"\nno effect: {', '.join(idle)}", f"\n无作用：{'、'.join(idle)}"))
    if result.unread:
        from hanlin.data.ledger import describe_reason

        typer.echo("")
        for reason, count in result.unread.most_common():
            typer.echo(f"{count} × {describe_reason(reason)}")
