"""`hanlin plan`: the state of each stage, and what training will need. The figures come from `estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, Changes, Home, RecipePath, Until, open_recipe, refuse_options
from hanlin.cli.output import echo, print_steps, print_table
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.estimate.training import Estimate, UnknownEstimate
    from hanlin.pipeline.step import Step

PUBLISHED_MEMORY = {
    "full, mixed precision": (120, 240, 600, 1200, 900),
    "full, 16 bits": (60, 120, 300, 600, 400),
    "LoRA, GaLore or BAdam, 16 bits": (16, 32, 64, 160, 120),
    "QLoRA, 8 bits": (10, 20, 40, 80, 60),
    "QLoRA, 4 bits": (6, 12, 24, 48, 30),
}
"""GB of GPU memory that training takes by a published rule of thumb, for models of 7, 13, 30, 70 and 8x7 billion."""
SIZES = ("7B", "13B", "30B", "70B", "8x7B")


app = new_app()


def _method_name(method: str) -> str:
    """A method of `PUBLISHED_MEMORY` in the reader's language."""
    names = {
        "full, mixed precision": tr("full, mixed precision"),
        "full, 16 bits": tr("full, 16 bits"),
        "LoRA, GaLore or BAdam, 16 bits": tr("LoRA, GaLore or BAdam, 16 bits"),
        "QLoRA, 8 bits": tr("QLoRA, 8 bits"),
        "QLoRA, 4 bits": tr("QLoRA, 4 bits"),
    }
    return names[method]


def print_estimates(results: Sequence[Estimate | UnknownEstimate]) -> None:
    """Print the estimates as tables, and what to change if one does not fit."""
    from hanlin.estimate.memory import PARTS
    from hanlin.estimate.training import Estimate, UnknownEstimate

    known = [result for result in results if isinstance(result, Estimate)]
    if known:
        echo(tr("\nEstimated training:"))
        headings = tr("stage,parameters,trainable,steps,tokens per step,step time,hours,disk")
        print_table(headings.split(","), [_row(estimate) for estimate in known])
        hours = [estimate.hours for estimate in known if estimate.hours is not None]
        if len(hours) == len(known) > 1:
            echo(tr("{hours:.3g} hours in total", hours=sum(hours)))
        echo(tr("\nPeak memory of a process, GB:"))
        headings = tr("stage,process,weights,gradients,optimizer,activations,logits,checkpoint,peak,")
        rows = [
            [
                estimate.stage,
                *(_gigabytes(estimate.memory.parts[part]) for part in PARTS),
                _gigabytes(estimate.memory.peak),
                _fits(estimate),
            ]
            for estimate in known
        ]
        print_table(headings.split(","), rows, ["" if estimate.fits else "red" for estimate in known])
    for result in results:
        if isinstance(result, UnknownEstimate):
            echo(tr("{stage}: no estimate, {why}", stage=result.stage, why=result.why))
        elif not result.fits:
            _print_changes(result)
    for estimate in known:
        _print_published(estimate)


def _row(estimate: Estimate) -> list[str]:
    setup, unknown = estimate.setup, "?"
    seconds, hours, steps = estimate.seconds, estimate.hours, setup.batch.steps
    return [
        estimate.stage,
        _count(setup.shape.parameters),
        _count(setup.trained.total),
        unknown if steps is None else f"{steps:,}",
        f"{setup.batch.step_tokens:,.0f}",
        "--probe" if seconds is None else f"{seconds:.3g} s",
        unknown if hours is None else f"{hours:.3g}",
        f"{_gigabytes(estimate.disk.peak)} GB",
    ]


def _fits(estimate: Estimate) -> str:
    if estimate.memory_limit is None:
        return ""
    limit = _gigabytes(estimate.memory_limit)
    return tr("fits") if estimate.fits else tr("MORE THAN {limit}", limit=limit)


def _print_changes(estimate: Estimate) -> None:
    limit = _gigabytes(estimate.memory_limit or 0)
    echo(
        tr(
            "\n{stage} does not fit {limit} GB. Changes, each on top of those before:",
            stage=estimate.stage,
            limit=limit,
        )
    )
    for change in estimate.changes:
        note = tr("  (another result)") if change.changes_result else ""
        setting = " ".join(f"--set {estimate.stage}.{part}" for part in change.setting.split())
        echo(f"  {setting}  → {_gigabytes(change.peak)} GB{note}")
    if not estimate.changes or (
        estimate.memory_limit is not None and estimate.changes[-1].peak > estimate.memory_limit
    ):
        echo(tr("  that is not enough: take a smaller model, or divide it over several processes"))


def _print_published(estimate: Estimate) -> None:
    """Print the published rule of thumb beside the estimate, for the sizes that it has."""
    billions = estimate.setup.shape.parameters / 1e9
    near = min(range(4), key=lambda index: abs(billions - int(SIZES[index][:-1])))
    if abs(billions / int(SIZES[near][:-1]) - 1) > 0.2:
        return
    lora = estimate.setup.settings.lora
    if lora is None:
        method = "full, mixed precision"
    else:
        method = {None: "LoRA, GaLore or BAdam, 16 bits", "int8": "QLoRA, 8 bits", "nf4": "QLoRA, 4 bits"}[
            lora.quantization
        ]
    name, gigabytes = _method_name(method), PUBLISHED_MEMORY[method][near]
    echo(
        tr(
            "{stage}: the published rule of thumb for {sizes}, {name}, is {gigabytes} GB",
            stage=estimate.stage,
            sizes=SIZES[near],
            name=name,
            gigabytes=gigabytes,
        )
    )


def print_published_costs() -> None:
    """Print the published rule of thumb for every method and size."""
    echo(tr("\nGPU memory of training by a published rule of thumb, GB (it names no sequence length or vocabulary):"))
    rows = [[_method_name(method), *map(str, sizes)] for method, sizes in PUBLISHED_MEMORY.items()]
    print_table([tr("method"), *SIZES], rows)
    echo(
        tr(
            "To run an 8B model: about 16 GB in 16 bits (a 24 GB card), about 8 GB in 4 bits (a 10 GB card). "
            "DPO of 8B with rank 128 on a published set of preferences took 5 to 10 minutes on 8 A100."
        )
    )


def _count(number: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g}" if size >= 1e7 else f"{size / 1e9:.1g}"


def _print_missing_packages(recipe: Recipe, steps: Sequence[Step]) -> None:
    """Print which optional packages the stages to run lack; `hanlin run` stops for them at once."""
    from hanlin.pipeline.requirements import missing_packages

    for step in steps:
        for requirement in missing_packages(step, recipe.launch) if step.state != "done" else ():
            error = requirement.error(step.stage.name)
            echo(f"{error.where}: {error.what}; {error.hint}", fg="red")


@command(
    app,
    tr("A stage is done, to resume, to run, or stale. For training stages, memory, time and disk are estimated."),
)
def plan(
    context: typer.Context,
    recipe: RecipePath,
    set_: Changes = [],
    until: Until = "",
    home: Home = Path("."),
    memory: Annotated[
        str,
        typer.Option(help=tr("available memory, such as 24GB (default: this machine's)")),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, gpu")] = "auto",
    probe: Annotated[bool, typer.Option("--probe", help=tr("measure the time of a step on this machine"))] = False,
    costs: Annotated[bool, typer.Option("--costs", help=tr("print published costs of training too"))] = False,
    as_json: AsJson = False,
) -> None:
    from hanlin.estimate.plan import describe_estimate, estimate_plan
    from hanlin.pipeline.plan import plan as make_plan

    if as_json:
        refuse_options(context, ("costs",), tr("it is a table for people, and no part of the JSON"))
    checked, store = open_recipe(recipe, set_, until, home)
    steps = make_plan(checked, store)
    results = estimate_plan(checked, steps, memory, device, probe)
    print_steps(steps, as_json, {result.stage: describe_estimate(result) for result in results})
    if not as_json:
        _print_missing_packages(checked, steps)
        print_estimates(results)
        if costs:
            print_published_costs()
