"""The estimate of a whole plan, on a machine that is named or on this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hanlin.config.recipe import Recipe
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.estimate.machine import detect_machine, has_gpu, machine_memory, measure_speeds, parse_memory_size
from hanlin.estimate.memory import FIRST_STEPS, GPU_CONTEXT, Machine
from hanlin.estimate.training import Estimate, UnknownEstimate, estimate_training
from hanlin.pipeline.step import Step

USABLE_MEMORY = 0.95
"""The share of a memory that a process may take; the rest is for other programs."""


def estimate_plan(
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


def describe_estimate(estimate: Estimate | UnknownEstimate) -> dict[str, Any]:
    """An estimate as JSON data, sizes in bytes."""
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
