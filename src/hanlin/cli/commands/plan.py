"""`hanlin plan`: the state of each stage, and what training will need. The figures come from `estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, Changes, Home, RecipePath, Until, open_recipe
from hanlin.cli.output import echo, print_steps, print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.config.settings.train import Training
    from hanlin.estimate.memory import Machine
    from hanlin.estimate.training import Estimate, UnknownEstimate
    from hanlin.pipeline.step import Step

USABLE_MEMORY = 0.95
"""The share of a memory that a process may take; the rest is for other programs."""
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


def estimate_training(
    recipe: Recipe, steps: Sequence[Step], memory: str, device: str, probe: bool
) -> list[Estimate | UnknownEstimate]:
    """Estimate memory, time and disk of the training stages of a plan.

    Args:
        recipe: The recipe.
        steps: Its plan.
        memory: How much memory there is, such as `24GB`; empty: this machine's.
        device: `cpu`, `gpu`, or `auto` for what this machine has.
        probe: Measure a step of each training stage on this machine.

    Raises:
        UserError: `memory` or `device` is misspelt, or the probe fails.
    """
    from dataclasses import replace

    from hanlin.estimate.machine import detect_machine, has_gpu, machine_memory, measure_speeds, parse_memory_size
    from hanlin.estimate.memory import FIRST_STEPS, GPU_CONTEXT
    from hanlin.estimate.training import Estimate, estimate_training

    if device not in ("auto", "cpu", "gpu"):
        raise UserError(tr("there is no device '{device}'", device=device), "--device", "auto, cpu, gpu")
    gpu = has_gpu() if device == "auto" else device == "gpu"
    memory_limit = parse_memory_size(memory) if memory else None if gpu else machine_memory()
    if memory_limit is not None:
        memory_limit = (
            memory_limit * USABLE_MEMORY - GPU_CONTEXT
            if gpu
            else memory_limit * USABLE_MEMORY / recipe.launch.processes
        )

    results = estimate_training(recipe, steps, lambda settings: detect_machine(settings, gpu), memory_limit)
    if not probe:
        return results
    kinds = {step.stage.name: step.stage.kind.name for step in steps}
    known = [result for result in results if isinstance(result, Estimate)]
    measured = measure_speeds([(kinds[estimate.stage], estimate.setup) for estimate in known]) if known else []
    speed_of = {estimate.stage: speed for estimate, (speed, _) in zip(known, measured, strict=True)}
    process_bytes = min((process for _, process in measured), default=0.0)  # a later probe holds the earlier ones too

    def probed_machine(settings: Training) -> Machine:
        return replace(detect_machine(settings, gpu), process=process_bytes + FIRST_STEPS)

    return [
        replace(result, speed=speed_of[result.stage]) if isinstance(result, Estimate) else result
        for result in estimate_training(recipe, steps, probed_machine, memory_limit)
    ]


def estimate_as_json(estimate: Estimate | UnknownEstimate) -> dict[str, Any]:
    """An estimate for programs: bytes, steps and seconds, or why there is none."""
    from hanlin.estimate.training import UnknownEstimate

    if isinstance(estimate, UnknownEstimate):
        return {"unknown": estimate.why}
    setup = estimate.setup
    return {
        "parameters": setup.shape.parameters,
        "trainable_parameters": setup.trained.total,
        "memory": {part: round(size) for part, size in estimate.memory.parts.items()},
        "peak_memory": round(estimate.memory.peak),
        "fits": estimate.fits,
        "changes": [
            {"setting": c.setting, "peak_memory": round(c.peak), "changes_result": c.changes_result}
            for c in estimate.changes
        ],
        "micro_batch_tokens": setup.batch.micro_batch_tokens,
        "step_tokens": round(setup.batch.step_tokens),
        "steps": setup.batch.steps,
        "data_tokens": None if estimate.data is None else round(estimate.data.total),
        "step_operations": round(estimate.operations),
        "step_seconds": estimate.seconds,
        "hours": estimate.hours,
        "products_per_second": None if estimate.speed is None else estimate.speed.products,
        "disk": {
            "artifact": round(estimate.disk.artifact),
            "checkpoints": round(estimate.disk.checkpoints),
            "rows": round(estimate.disk.rows),
        },
    }


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
    from hanlin.pipeline.plan import plan as make_plan

    checked, store = open_recipe(recipe, set_, until, home)
    steps = make_plan(checked, store)
    results = estimate_training(checked, steps, memory, device, probe)
    print_steps(steps, as_json, {result.stage: estimate_as_json(result) for result in results})
    if not as_json:
        _print_missing_packages(checked, steps)
        print_estimates(results)
        if costs:
            print_published_costs()
