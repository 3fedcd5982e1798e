"""`hanlin data rules`: what the cleaning rules would change and drop, before a stage runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import command
from hanlin.cli.options import AsJson, Home, read_rule, refuse_options
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import quote_shell

if TYPE_CHECKING:
    from hanlin.config.settings.data import Reading
    from hanlin.core.context import Inputs
    from hanlin.data.report.dry_run import DryRun


def add_to(app: typer.Typer) -> None:
    """Give `hanlin data` the command `rules`."""
    command(
        app,
        tr(
            "Try cleaning rules without writing anything\n\nShows for each rule how many records it would "
            "change and drop, with samples. FILE: data in any format that is read, or a recipe (.yaml) with "
            "--stage, whose own settings are tried."
        ),
    )(rules)


def rules(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(help=tr("files, folders or a recipe"), metavar="FILE...", show_default=False),
    ],
    stage: Annotated[str, typer.Option(help=tr("stage of the recipe"))] = "",
    rule: Annotated[
        list[str],
        typer.Option(
            help=tr("rule to try (`symbols`, or with a parameter `symbols.share=0.2`); may repeat (default: all)")
        ),
    ] = [],
    blocklist: Annotated[list[Path], typer.Option(help=tr("file of unwanted words; may repeat"))] = [],
    against: Annotated[
        list[Path],
        typer.Option(help=tr("evaluation set to decontaminate against; may repeat")),
    ] = [],
    limit: Annotated[int, typer.Option(min=0, help=tr("rows to read of each file; 0: all"))] = 10_000,
    samples: Annotated[int, typer.Option(min=0, help=tr("samples of each rule"))] = 2,
    home: Home = Path("."),
    as_json: AsJson = False,
) -> None:
    from hanlin.data.report.dry_run import dry_run

    is_recipe = len(files) == 1 and files[0].suffix.lower() in (".yaml", ".yml")
    if is_recipe:
        why = tr("a recipe is tried with the settings of its stage")
        refuse_options(context, ("rule", "blocklist", "against"), why)
        settings, inputs = _read_stage(files[0], stage, home)
    else:
        refuse_options(context, ("stage",), tr("it names a stage of a recipe, and these files are none"))
        settings, inputs = _make_settings(files, rule, blocklist, against)
    result = dry_run(settings, inputs, stage_formats_only=is_recipe, limit=limit or None, samples=samples)
    if as_json:
        print_json({**asdict(result), "effects": [asdict(effect) for effect in result.effects.values()]})
    else:
        _print_result(result)


def _read_stage(path: Path, name: str, home: Path) -> tuple[Reading, Inputs]:
    """The settings and inputs of a recipe's stage; with an empty `name`, of the only one that reads data."""
    from hanlin.config.recipe_file import read_recipe
    from hanlin.config.settings.data import Reading
    from hanlin.core.context import Inputs
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.plan import plan

    recipe = read_recipe(path)
    reading = [stage for stage in recipe.stages if isinstance(recipe.stages[stage].settings, Reading)]
    name = name or (reading[0] if len(reading) == 1 else "")
    if name not in reading:
        what = tr("several stages read data")
        if name or not reading:
            what = tr("there is no stage '{name}' that reads data", name=name)
        hint = did_you_mean(name, reading) if name else f"--stage {' | '.join(reading)}"
        raise UserError(what, path, hint)
    step = next(step for step in plan(recipe.until(name), Store(home)) if step.stage.name == name)
    paths: dict[str, tuple[Path, ...]] = {}
    for source in step.inputs:
        if not source.ready or not source.paths:
            reference = source.entry.reference
            hint = f"hanlin run {quote_shell(str(path))} --until {reference.partition('/')[0]}"
            raise UserError(tr("{reference} has not run yet", reference=reference), path, hint)
        paths[source.entry.field] = (*paths.get(source.entry.field, ()), *source.paths)
    settings = step.stage.settings
    assert isinstance(settings, Reading)
    return settings, Inputs(paths)


def _make_settings(
    files: list[Path], rules: list[str], blocklists: list[Path], against: list[Path]
) -> tuple[Reading, Inputs]:
    """Settings that try the named rules, or all, on these files."""
    from hanlin.config.settings.data import Conversations
    from hanlin.config.settings.rules import ALL_TEXT_RULES, CHOSEN_TEXT_RULES, TURN_RULES
    from hanlin.config.validation import read_settings
    from hanlin.core.context import Inputs

    first = ("markdown", "ocr_debris")  # they change text, so they come before the rules that drop records
    all_rules: list[Any] = [*first, *(name for name in ALL_TEXT_RULES if name not in first), *TURN_RULES]
    assert set(first) <= set(CHOSEN_TEXT_RULES)
    row = {
        "sources": [{"path": str(file)} for file in files],
        "rules": [read_rule(rule, "--rule") for rule in rules] or all_rules,
        "blocklists": [{"path": str(path)} for path in blocklists],
        "decontaminate": {"against": [str(path) for path in against]} if against else None,
    }
    settings: Conversations = read_settings(Conversations, row, "--rule", "hanlin data rules", "conversations")
    paths: dict[str, tuple[Path, ...]] = {f"sources.{index}.path": (file,) for index, file in enumerate(files)}
    paths |= {f"blocklists.{index}.path": (file,) for index, file in enumerate(blocklists)}
    if against:
        paths["decontaminate.against"] = tuple(against)
    return settings, Inputs(paths)


def _print_result(result: DryRun) -> None:
    unreadable = sum(result.unread.values())
    echo(
        tr(
            "{rows} records, {kept} kept, {unreadable} unreadable; nothing was written",
            rows=result.rows,
            kept=result.kept,
            unreadable=unreadable,
        )
    )
    effective = [effect for effect in result.effects.values() if effect.changes or effect.drops]
    if effective:
        headings = tr("rule,changes,drops,first to drop").split(",")
        print_table(headings, [[v.rule, str(v.changes), str(v.drops), str(v.first_drops)] for v in effective])
    for effect in effective:
        echo(f"\n{effect.rule}")
        for sample in effect.dropped:
            detail = f" ({sample.detail})" if sample.detail else ""
            echo(f"  ✗ {sample.location}{detail}\n    {sample.text}")
        for sample in effect.changed:
            echo(f"  ~ {sample.location}\n    − {sample.text}\n    + {sample.after}")
    idle = join_list(effect.rule for effect in result.effects.values() if not (effect.changes or effect.drops))
    if idle:
        echo(tr("\nno effect: {idle}", idle=idle))
    if result.unread:
        from hanlin.config.reasons import describe_reason

        echo("")
        for reason, count in result.unread.most_common():
            echo(f"{count} × {describe_reason(reason)}")
