"""The one training loop: passes become sums, sums of all passes and processes become one step.

Owns steps, and what a run stops at. Does not own what is optimized (`objectives`), in what order the data comes
(`rows`), how fast is learned (`schedule`), or which process holds what (`placement`).

An objective returns a sum of losses and the weight it is of. Gradients of sums add up over passes and processes and
are divided once by the weight of all, so how a step is divided into passes, packed into rows or spread over processes
cannot change what is optimized.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hanlin.config.settings.train import Training
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.process import peak_host_memory
from hanlin.train.callbacks.checkpoint import Checkpoints
from hanlin.train.callbacks.forgetting import Probes
from hanlin.train.callbacks.interrupt import Interrupt
from hanlin.train.callbacks.metrics_log import FILE as CURVE_FILE
from hanlin.train.callbacks.metrics_log import Curve
from hanlin.train.callbacks.trackers import Watch
from hanlin.train.callbacks.validation import LOSS, Validation, best_step, summary
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.state import load_weights
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.sampler import Sampler
from hanlin.train.distributed.base import Strategy
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.strategy import open_strategy
from hanlin.train.objectives.base import Objective
from hanlin.train.optim.schedule import learning_rate_at

NORMS = 100
"""Gradients whose usual length a new one is compared with."""
EXPLOSION = 1000.0


class Start(NamedTuple):
    """Where a run begins or goes on: `steps` are done, in `seconds`."""

    strategy: Strategy
    checkpoints: Checkpoints
    steps: int
    seconds: float


def begin(model: TrainModel, settings: Training, dist: DistContext, context: StageContext, out: Path) -> Start:
    """Put the network where the run stands, and divide it among the processes in the form that the job was launched
    in."""
    scratch = context.scratch_folder(out)
    tell = context.progress.log if dist.is_main else lambda sentence: None
    checkpoints = Checkpoints(scratch, settings.save_every_seconds, settings.save_total_limit, tell, dist.is_main)
    reached = checkpoints.newest()
    if reached is not None:
        load_weights(reached.weights, model.trainable_parameters())
    strategy = open_strategy(model, settings, dist, context)
    if reached is None:
        return Start(strategy, checkpoints, 0, 0.0)
    strategy.load_optimizer_state(reached.optimizer_state)
    return Start(strategy, checkpoints, reached.step, reached.seconds)


def train(
    model: TrainModel,
    objective: Objective,
    rows: PackedDataset,
    sampler: Sampler,
    *,
    settings: Training,
    dist: DistContext,
    context: StageContext,
    out: Path,
    validation: Validation | None = None,
    probes: Probes | None = None,
    begun: Start | None = None,
) -> dict[str, Any]:
    """Train until the settings' last step and return the run's metrics; goes on from a checkpoint where there is one.

    Writes `metrics.jsonl` into `out`. Raises UserError when a loss or a gradient is no number, naming the records, or
    when the first loss cannot be right.
    """
    strategy, checkpoints, done, before = begun or begin(model, settings, dist, context, out)
    steps = sampler.total_steps(settings.epochs, settings.steps)
    scratch = context.scratch_folder(out)
    tell = context.progress.log if dist.is_main else lambda sentence: None
    clock = time.monotonic() - before
    model.hf_model.train()
    with (
        Curve(out / CURVE_FILE, done, writes=dist.is_main) as curve,
        Watch(context, out, settings, done, writes=dist.is_main) as watch,
        checkpoints,
        Interrupt() as interrupt,
    ):
        for step in range(done, steps):
            if _is_enough(validation, probes, curve.rows, tell):
                break
            _seed(context.seed, step, dist.rank)
            rate = learning_rate_at(step, steps, settings)
            strategy.set_lr(rate)
            measured = (
                probes.at_start(model, dist, settings.micro_batch_tokens) if probes is not None and step == 0 else {}
            )
            units = sampler.step_indices(step)
            mine = units[dist.rank :: dist.world_size]
            model.refresh()
            if step == 0:
                now = objective.at_start(model, rows, mine, settings.micro_batch_tokens, dist.all_reduce_sum)
            else:
                now = objective.of_step(model, mine, settings.micro_batch_tokens, dist.all_reduce_sum)
            sums = _gradients(model, now, rows, mine, settings.micro_batch_tokens, scratch)
            sums |= {"interrupted": float(interrupt.wished), "due": float(checkpoints.due())}
            norm = strategy.reduce_and_clip_grads(sums, objective.weighs)
            if not math.isfinite(norm):
                raise _no_number(rows, units, scratch)
            if exploded(norm, [row["grad_norm"] for row in curve.rows[-NORMS:]], settings.max_grad_norm):
                raise _exploded(rows, units, scratch, step, norm)
            means = {name: sums[name] / sums[objective.weighs] for name in ("loss", *objective.measures)}
            if step == 0:
                objective.check_start(means, exact=dist.device.type == "cpu")
            strategy.step()
            place = {"step": step + 1, "epoch": (step + 1) / sampler.steps_per_epoch}
            counts = {name: int(sums[name]) for name in dict.fromkeys(("tokens", "target_tokens", objective.weighs))}
            if validation is not None and validation.due(step + 1, steps):
                measured |= validation.measure(model, dist, settings.micro_batch_tokens)
            if probes is not None and probes.due(step + 1, steps):
                measured |= probes.measure(model, dist, settings.micro_batch_tokens)
            row = {**place, **means, "learning_rate": rate, "grad_norm": norm, **counts, **measured}
            curve.add(row)
            seconds = time.monotonic() - clock
            memory = peak_memory(dist.device)
            watch.add(row, seconds, memory)
            if dist.is_main:
                speed = curve.total("tokens") / max(seconds, 1e-9)
                watched = (LOSS, *(probes.shown if probes is not None else ()))
                known = {name: value for name in watched if (value := curve.last(name)) is not None}
                context.progress.update(
                    step + 1,
                    steps,
                    say("steps", "步"),
                    force=False,
                    **{"loss": curve.recent("loss"), **known, "tokens_per_second": speed, "memory_gb": memory},
                )
            if dist.world_size == 1:
                checkpoints.make_room(strategy)
            best = best_step(curve.rows)
            best_now = settings.save_best and LOSS in measured and best == step + 1
            if sums["due"] or sums["interrupted"] or best_now:
                curve.settle()
                whole = bool(sums["due"] or sums["interrupted"])
                checkpoints.save(step + 1, seconds, strategy, best, best_now=best_now, whole=whole)
            if sums["interrupted"]:
                checkpoints.wait()
                dist.barrier()  # a launcher ends all when one has ended
                tell(
                    say(
                        f"saved after step {step + 1}; run again to go on",
                        f"已在第 {step + 1} 步后保存，再次运行即可继续",
                    )
                )
                raise KeyboardInterrupt
    seconds = time.monotonic() - clock
    return {
        **{name: curve.ends(name) for name in ("loss", *objective.measures)},
        **summary(curve.rows),
        **(probes.summary(curve.rows) if probes is not None else {}),
        "steps": len(curve.rows),
        "epochs": len(curve.rows) / sampler.steps_per_epoch,
        **{name: curve.total(name) for name in dict.fromkeys(("tokens", "target_tokens", objective.weighs))},
        "seconds": seconds,
        "peak_memory_gb": peak_memory(dist.device),
        "tokens_per_second": curve.total("tokens") / max(seconds, 1e-9),
    }


def _is_enough(
    validation: Validation | None, probes: Probes | None, curve: Sequence[Mapping[str, Any]], tell: Any
) -> bool:
    """Whether what was measured says that training shall end."""
    if validation is not None and not validation.patient(curve):
        return True
    worse = probes.worse(curve) if probes is not None else None
    if worse is not None:
        tell(worse)
    return worse is not None


def _seed(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step (dropout) follow from seed, step and rank, so that no state of theirs is saved."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in gigabytes (10^9 bytes): on the GPU where there is one, else
    in all."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 1e9
    return float(peak_host_memory() or 0) / 1e9


def exploded(norm: float, before: Sequence[float], max_norm: float) -> bool:
    """Whether a gradient is so long that something is broken: more than `EXPLOSION` times what was usual in the steps
    before, of which there must be some, and than the limit to which gradients are shortened."""
    if len(before) < NORMS // 5:
        return False
    return norm > EXPLOSION * max(statistics.median(before), max_norm)


def _gradients(
    model: TrainModel,
    objective: Objective,
    rows: PackedDataset,
    units: np.ndarray,
    micro_batch_tokens: int,
    scratch: Path | None = None,
) -> dict[str, float]:
    """Add the gradients of the units' summed loss to the model's; return what else was summed, by name.

    Raises UserError with the records of the pass when its loss is no number.
    """
    names = tuple(dict.fromkeys(("loss", objective.weighs, *objective.measures, "tokens", "target_tokens")))
    sums = dict.fromkeys(names, 0.0)
    for batch in model.micro_batches(rows, units, micro_batch_tokens):
        found = objective.loss(model, batch)
        model.backward(found.total)
        counted: dict[str, Any] = {"loss": found.total.detach(), **found.metrics, objective.weighs: found.weight}
        for name, value in {**counted, "tokens": batch.tokens, "target_tokens": len(batch.targets)}.items():
            sums[name] += float(value)
        if not math.isfinite(sums["loss"]):
            raise _no_number(rows, batch.sample_indices, scratch)
    return sums


def _no_number(rows: PackedDataset, units: Sequence[int] | np.ndarray, scratch: Path | None) -> UserError:
    """Said when a loss or gradient is infinite or no number, with the first of the records that it came from."""
    return UserError(
        say("the loss or its gradient is not a finite number", "损失或梯度不是有限数"),
        _kept_records(rows, units, scratch),
        say("look at these records; then try a lower learning_rate", "请检查这些记录；再尝试更小的 learning_rate"),
    )


def _exploded(
    rows: PackedDataset, units: Sequence[int] | np.ndarray, scratch: Path, step: int, norm: float
) -> UserError:
    return UserError(
        say(
            f"the gradient of step {step + 1} is {norm:.3g} long, {EXPLOSION:.0f} times what it was before",
            f"第 {step + 1} 步的梯度长 {norm:.3g}，超过此前的 {EXPLOSION:.0f} 倍",
        ),
        _kept_records(rows, units, scratch),
        say("look at these records; then try a lower learning_rate", "请检查这些记录；再尝试更小的 learning_rate"),
    )


def _kept_records(rows: PackedDataset, units: Sequence[int] | np.ndarray, scratch: Path | None) -> str:
    """Keep the ids of the records that a run stopped at, all of them, in `stopped_at.json`; return words for them."""
    names = rows.record_ids([int(unit) for unit in units])
    if scratch is None:
        return say(f"records {', '.join(names)}", f"记录 {', '.join(names)}")
    file = scratch / f"stopped_at{os.environ.get('RANK', '')}.json"
    file.write_text(json.dumps({"records": names}, ensure_ascii=False), encoding="utf-8")
    if len(names) <= 20:
        shown = ", ".join(names)
        return say(f"records {shown}", f"记录 {shown}")
    shown = ", ".join(names[:20])
    return say(f"records {shown} … (all: {file})", f"记录 {shown} …（全部见 {file}）")
