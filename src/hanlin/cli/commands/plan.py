"""What `hanlin plan` says of training stages: what each will need, what to change where it does not fit, what others
found such training to cost.

Owns the words. The numbers come from `estimate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.output import print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.pipeline.step import Step
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hanlin.cli.options import AsJson, Changes, Home, RecipePath, Until, open_recipe
from hanlin.cli.output import print_steps

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.config.settings.train import Training
    from hanlin.estimate.memory import Machine
    from hanlin.estimate.training import Estimate, Unknown
    from hanlin.pipeline.step import Step

SHARE_OF_ROOM = 0.95
"""How much of a memory a process may take: the rest is others'."""
GPU_CONTEXT = 0.8e9
"""What a GPU's driver and libraries hold beside what the allocator counts."""
COSTS = {
    "full, mixed precision": (120, 240, 600, 1200, 900),
    "full, 16 bits": (60, 120, 300, 600, 400),
    "LoRA, GaLore or BAdam, 16 bits": (16, 32, 64, 160, 120),
    "QLoRA, 8 bits": (10, 20, 40, 80, 60),
    "QLoRA, 4 bits": (6, 12, 24, 48, 30),
}
"""GB of GPU memory that training takes by a published rule of thumb, for models of 7, 13, 30, 70 and 8x7 billion."""
COSTS_ZH = {
    "full, mixed precision": "全参数，混合精度",
    "full, 16 bits": "全参数，16 位",
    "LoRA, GaLore or BAdam, 16 bits": "LoRA、GaLore 或 BAdam，16 位",
    "QLoRA, 8 bits": "QLoRA，8 位",
    "QLoRA, 4 bits": "QLoRA，4 位",
}
SIZES = ("7B", "13B", "30B", "70B", "8x7B")


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Say for each stage what is done, what must run, and why; and what training will need.",
            "说明各阶段的状态：已完成、需运行及原因；并预测训练所需。",
        )
    )(plan)


def look_ahead(
    recipe: Recipe, steps: Sequence[Step], memory: str, device: str, probe: bool
) -> list[Estimate | Unknown]:
    """The estimates of a plan. `memory` is how much there is (empty: this machine's), `device` `cpu`, `gpu` or `auto`.

    Raises UserError when one of these is misspelt, or the probe fails.
    """
    from dataclasses import replace

    from hanlin.estimate.machine import bytes_of, has_gpu, machine_of, memory_here, speeds
    from hanlin.estimate.memory import FIRST_STEPS
    from hanlin.estimate.training import Estimate, estimates

    if device not in ("auto", "cpu", "gpu"):
        raise UserError(say(f"no device '{device}'", f"没有设备“{device}”"), "--device", "auto, cpu, gpu")
    gpu = has_gpu() if device == "auto" else device == "gpu"
    room = bytes_of(memory) if memory else None if gpu else memory_here()
    if room is not None:
        room = room * SHARE_OF_ROOM - GPU_CONTEXT if gpu else room * SHARE_OF_ROOM / recipe.launch.processes

    found = estimates(recipe, steps, lambda settings: machine_of(settings, gpu), room)
    if not probe:
        return found
    kinds = {step.stage.name: step.stage.kind.name for step in steps}
    asked = [(kinds[one.stage], one.account) for one in found if isinstance(one, Estimate)]
    measured = speeds(asked) if asked else []
    names = [one.stage for one in found if isinstance(one, Estimate)]
    speed_of = {name: speed for name, (speed, _) in zip(names, measured, strict=True)}
    held = min((process for _, process in measured), default=0.0)  # of later ones the earlier are part

    def here(settings: Training) -> Machine:
        return replace(machine_of(settings, gpu), process=held + FIRST_STEPS)

    known = estimates(recipe, steps, here, room)
    return [replace(one, speed=speed_of[one.stage]) if isinstance(one, Estimate) else one for one in known]


def _as_json(estimate: Estimate | Unknown) -> dict[str, Any]:
    from hanlin.estimate.training import Unknown

    if isinstance(estimate, Unknown):
        return {"unknown": estimate.why}
    account = estimate.account
    return {
        "parameters": account.shape.parameters,
        "trainable_parameters": account.trained.total,
        "memory": {part: round(size) for part, size in estimate.memory.parts.items()},
        "peak_memory": round(estimate.memory.peak),
        "fits": estimate.fits,
        "changes": [
            {"setting": c.setting, "peak_memory": round(c.peak), "another_result": c.another_result}
            for c in estimate.changes
        ],
        "micro_batch_tokens": account.portions.at_once,
        "step_tokens": round(account.portions.step),
        "steps": account.portions.steps,
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


def show(found: Sequence[Estimate | Unknown]) -> None:
    """Print the estimates as tables, and what to change where one does not fit."""
    from hanlin.estimate.memory import PARTS
    from hanlin.estimate.training import Estimate, Unknown

    known = [one for one in found if isinstance(one, Estimate)]
    if known:
        typer.echo(say("\nTraining, as predicted:", "\n训练预测："))
        heads = say(
            "stage,parameters,trained,steps,tokens a step,step,hours,disk",
            "阶段,参数,训练参数,步数,每步词元,每步用时,总小时,磁盘",
        )
        print_table(heads.split(","), [_row(one) for one in known])
        hours = [one.hours for one in known if one.hours is not None]
        if len(hours) == len(known) > 1:
            typer.echo(say(f"together {sum(hours):.3g} hours", f"合计 {sum(hours):.3g} 小时"))
        typer.echo(say("\nPeak memory of a process, GB:", "\n单进程内存峰值（GB）："))
        heads = say(
            "stage,process,weights,gradients,optimizer,activations,logits,checkpoint,peak,",
            "阶段,进程,权重,梯度,优化器,激活,logits,检查点,峰值,",
        )
        rows = [
            [
                one.stage,
                *(_gigabytes(one.memory.parts[part]) for part in PARTS),
                _gigabytes(one.memory.peak),
                _fits(one),
            ]
            for one in known
        ]
        print_table(heads.split(","), rows, ["" if one.fits else "red" for one in known])
    for one in found:
        if isinstance(one, Unknown):
            typer.echo(say(f"{one.stage}: no estimate, {one.why}", f"{one.stage}：无法预测，{one.why}"))
        elif not one.fits:
            _say_changes(one)
    for one in known:
        _say_published(one)


def _row(one: Estimate) -> list[str]:
    account, unknown = one.account, "?"
    seconds, hours, steps = one.seconds, one.hours, account.portions.steps
    return [
        one.stage,
        _count(account.shape.parameters),
        _count(account.trained.total),
        unknown if steps is None else f"{steps:,}",
        f"{account.portions.step:,.0f}",
        "--probe" if seconds is None else f"{seconds:.3g} s",
        unknown if hours is None else f"{hours:.3g}",
        f"{_gigabytes(one.disk.peak)} GB",
    ]


def _fits(one: Estimate) -> str:
    if one.room is None:
        return ""
    return (
        say("fits", "放得下") if one.fits else say(f"MORE THAN {_gigabytes(one.room)}", f"超过 {_gigabytes(one.room)}")
    )


def _say_changes(one: Estimate) -> None:
    typer.echo(
        say(
            f"\n{one.stage} does not fit {_gigabytes(one.room or 0)} GB. Change, one on top of the other:",
            f"\n{one.stage} 放不进 {_gigabytes(one.room or 0)} GB。可依次修改：",
        )
    )
    for change in one.changes:
        note = say("  (another result)", "（结果会不同）") if change.another_result else ""
        setting = " ".join(f"--set {one.stage}.{part}" for part in change.setting.split())
        typer.echo(f"  {setting}  → {_gigabytes(change.peak)} GB{note}")
    if not one.changes or (one.room is not None and one.changes[-1].peak > one.room):
        typer.echo(
            say(
                "  that is not enough: take a smaller model, or divide it over several processes",
                "  仍然不够：请换更小的模型，或分到多个进程",
            )
        )


def _say_published(one: Estimate) -> None:
    """The published rule of thumb beside the estimate, for the sizes that it has."""
    billions = one.account.shape.parameters / 1e9
    near = min(range(4), key=lambda place: abs(billions - int(SIZES[place][:-1])))
    if abs(billions / int(SIZES[near][:-1]) - 1) > 0.2:
        return
    lora = one.account.settings.lora
    if lora is None:
        method = "full, mixed precision"
    else:
        method = {None: "LoRA, GaLore or BAdam, 16 bits", "int8": "QLoRA, 8 bits", "nf4": "QLoRA, 4 bits"}[
            lora.quantization
        ]
    typer.echo(
        say(
            f"{one.stage}: the published rule of thumb for {SIZES[near]}, {method}, is {COSTS[method][near]} GB",
            f"{one.stage}：公开的经验值，{SIZES[near]}、{COSTS_ZH[method]}，为 {COSTS[method][near]} GB",
        )
    )


def show_costs() -> None:
    """Print the published rule of thumb whole."""
    typer.echo(
        say(
            "\nGPU memory that training takes by a published rule of thumb, GB (row length and vocabulary not told):",
            "\n公开的训练显存经验值（GB；未说明行长与词表）：",
        )
    )
    rows = [[say(name, COSTS_ZH[name]), *map(str, numbers)] for name, numbers in COSTS.items()]
    print_table([say("method", "方法"), *SIZES], rows)
    typer.echo(
        say(
            "To run an 8B model: about 16 GB in 16 bits (a 24 GB card), about 8 GB in 4 bits (a 10 GB card). "
            "DPO of 8B with rank 128 on a published set of preferences took 5 to 10 minutes on 8 A100.",
            "运行 8B 模型：16 位约 16 GB（24 GB 显卡），4 位约 8 GB（10 GB 显卡）。"
            "8B、秩 128 的 DPO 在一个公开偏好集上，8 张 A100 用时 5 至 10 分钟。",
        )
    )


def _count(number: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g}" if size >= 1e7 else f"{size / 1e9:.1g}"


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

    checked, store = open_recipe(recipe, set_, until, home)
    steps = make_plan(checked, store)
    ahead = look_ahead(checked, steps, memory, device, probe)
    print_steps(steps, as_json, {one.stage: _as_json(one) for one in ahead})
    if not as_json:
        show(ahead)
        if costs:
            show_costs()
