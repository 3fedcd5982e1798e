"""The one training loop: passes become sums, sums of all passes and processes become one step.

Owns steps, gradients and checkpoints. Does not own what is optimised (`objectives`), in what order the data comes
(`rows`) or how fast is learnt (`schedule`).

An objective returns a sum of losses and the weight it is of. Gradients of sums add up over passes and processes and
are divided once by the weight of all, so how a step is divided into passes, packed into rows or spread over processes
cannot change what is optimised.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import distributed

from hanlin.errors import UserError
from hanlin.job import Job
from hanlin.language import say
from hanlin.settings.train import Training
from hanlin.train.checkpoint import Checkpoints
from hanlin.train.curve import FILE as CURVE_FILE
from hanlin.train.curve import Curve
from hanlin.train.heldout import Heldout, best_step, forget_weights, keep_weights, summary, take_weights
from hanlin.train.interrupt import Interrupt
from hanlin.train.network import Network
from hanlin.train.objectives import Objective
from hanlin.train.optimizer import optimizer_of
from hanlin.train.rows import Order, Rows
from hanlin.train.schedule import rate_at

try:
    import resource
except ImportError:  # Windows keeps no such account
    resource = None  # type: ignore[assignment]

BUCKET_NUMBERS = 1 << 25
"""Gradients are summed over processes in buckets of at most so many numbers."""

NORMS = 100
"""Gradients whose usual length a new one is compared with."""
EXPLOSION = 1000.0


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together, as Accelerate found them: launched by torchrun, or one alone."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> Group:
        """Join the group. Raises RuntimeError when fewer processes have joined than were launched: each would train
        alone and write what the others write."""
        # without `cpu`, Accelerate takes no notice of torchrun where there is no accelerator
        state = PartialState(cpu=not torch.accelerator.is_available())
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != launched:
            raise RuntimeError(f"{launched} processes were launched, but the group has {state.num_processes}")
        return cls(state.process_index, state.num_processes, torch.device(state.device))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Part from the other processes, when the first has written what all have made."""
        if self.size > 1:
            self.wait()
            PartialState().destroy_process_group()

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for place, tensor in enumerate(tensors):
            bucket.append(tensor)
            if place + 1 == len(tensors) or sum(map(torch.numel, bucket)) > BUCKET_NUMBERS:
                flat = torch.cat([part.reshape(-1) for part in bucket])
                distributed.all_reduce(flat)
                for part, found in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                    part.copy_(found.view_as(part))
                bucket = []


def train(
    network: Network,
    objective: Objective,
    rows: Rows,
    order: Order,
    *,
    settings: Training,
    group: Group,
    job: Job,
    out: Path,
    heldout: Heldout | None = None,
) -> dict[str, Any]:
    """Train until the settings' last step and return the run's metrics; goes on from a checkpoint where there is one.

    Writes `metrics.jsonl` into `out`. Raises UserError when a loss or a gradient is no number, naming the records, or
    when the first loss cannot be right.
    """
    steps = order.steps(settings.epochs, settings.steps)
    trained = list(network.trained())
    optimizer = optimizer_of(settings, trained, group.device)
    scratch = job.scratch(out)
    tell = job.progress.note if group.first else lambda sentence: None
    checkpoints = Checkpoints(scratch, settings.save_every_seconds, settings.keep_checkpoints, tell)
    done, before = checkpoints.restore(trained, optimizer)
    begun = time.monotonic()
    network.model.train()
    with Curve(out / CURVE_FILE, done, writes=group.first) as curve, Interrupt() as interrupt:
        for step in range(done, steps):
            if heldout is not None and not heldout.patient(curve.rows):
                break
            _seed(job.seed, step, group.rank)
            rate = rate_at(step, steps, settings)
            for part in optimizer.param_groups:
                part["lr"] = rate * part["faster"]
            units = order.units_of(step)
            mine = units[group.rank :: group.size]
            network.refresh()
            now = objective.of_step(network, mine, settings.pass_tokens, group.add_up)
            sums = _gradients(network, now, rows, mine, settings.pass_tokens, scratch)
            sums["interrupted"] = float(interrupt.wished)
            norm = _finish(network, sums, objective.weighs, group, settings.max_grad_norm)
            if not math.isfinite(norm):
                raise _no_number(rows, units, scratch)
            if exploded(norm, [row["grad_norm"] for row in curve.rows[-NORMS:]], settings.max_grad_norm):
                raise _exploded(rows, units, scratch, step, norm)
            means = {name: sums[name] / sums[objective.weighs] for name in ("loss", *objective.measures)}
            if step == 0:
                objective.check_start(means, exact=network.dtype == torch.float32)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            place = {"step": step + 1, "epoch": (step + 1) / order.steps_per_epoch}
            counts = {name: int(sums[name]) for name in dict.fromkeys(("tokens", "learnt_tokens", objective.weighs))}
            measured = {}
            if heldout is not None and heldout.due(step + 1, steps):
                measured = heldout.measure(network, group, settings.pass_tokens)
            curve.add({**place, **means, "learning_rate": rate, "grad_norm": norm, **counts, **measured})
            if settings.keep_best and measured and group.first and best_step(curve.rows) == step + 1:
                keep_weights(scratch, step + 1, network)
            seconds = before + time.monotonic() - begun
            if group.first:
                speed = curve.total("tokens") / max(seconds, 1e-9)
                job.progress.at(
                    step + 1,
                    steps,
                    say("steps", "步"),
                    loss=curve.recent("loss"),
                    tokens_per_second=speed,
                    memory_gb=peak_memory(group.device),
                )
                if checkpoints.due() or sums["interrupted"]:
                    curve.settle()
                    best = best_step(curve.rows)
                    needed = checkpoints.save(step + 1, seconds, trained, optimizer, best)
                    forget_weights(scratch, needed)
            if sums["interrupted"]:
                tell(
                    say(
                        f"saved after step {step + 1}; run again to go on",
                        f"已在第 {step + 1} 步后保存，再次运行即可继续",
                    )
                )
                raise KeyboardInterrupt
    best, done = best_step(curve.rows), len(curve.rows)
    if settings.keep_best and best is not None and group.first:
        take_weights(scratch, best, network)
    seconds = before + time.monotonic() - begun
    return {
        **{name: curve.ends(name) for name in ("loss", *objective.measures)},
        **summary(curve.rows),
        "steps": done,
        "epochs": done / order.steps_per_epoch,
        **{name: curve.total(name) for name in dict.fromkeys(("tokens", "learnt_tokens", objective.weighs))},
        "seconds": seconds,
        "peak_memory_gb": peak_memory(group.device),
        "tokens_per_second": curve.total("tokens") / max(seconds, 1e-9),
    }


def _seed(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step (dropout) follow from seed, step and rank, so that no state of theirs is saved."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in gigabytes (10^9 bytes): on the GPU where there is one, else
    in all."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 1e9
    if resource is None:
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used) * (1 if sys.platform == "darwin" else 1024) / 1e9


def exploded(norm: float, before: Sequence[float], max_norm: float) -> bool:
    """Whether a gradient is so long that something is broken: more than `EXPLOSION` times what was usual in the steps
    before, of which there must be some, and than the limit to which gradients are shortened."""
    if len(before) < NORMS // 5:
        return False
    return norm > EXPLOSION * max(statistics.median(before), max_norm)


def _gradients(
    network: Network, objective: Objective, rows: Rows, units: np.ndarray, pass_tokens: int, scratch: Path | None = None
) -> dict[str, float]:
    """Add the gradients of the units' summed loss to the model's; return what else was summed, by name.

    Raises UserError with the records of the pass when its loss is no number.
    """
    names = tuple(dict.fromkeys(("loss", objective.weighs, *objective.measures, "tokens", "learnt_tokens")))
    sums = dict.fromkeys(names, 0.0)
    for batch in rows.passes(units, pass_tokens):
        found = objective.loss(network, batch.to(network.device))
        found.total.backward()
        counted: dict[str, Any] = {"loss": found.total.detach(), **found.metrics, objective.weighs: found.weight}
        for name, value in {**counted, "tokens": batch.tokens, "learnt_tokens": len(batch.targets)}.items():
            sums[name] += float(value)
        if not math.isfinite(sums["loss"]):
            raise _no_number(rows, batch.units, scratch)
    return sums


def _finish(network: Network, sums: dict[str, float], weighs: str, group: Group, max_norm: float) -> float:
    """Add up all processes, divide the gradients by the weight of all, and shorten them to `max_norm`; return the
    length that they had. `sums` become those of all processes."""
    gradients: list[torch.Tensor] = []
    for _, parameter in network.trained():
        if parameter.grad is None:  # nothing of this step's data came to this process
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    if group.size > 1:
        numbers = torch.tensor(list(sums.values()), dtype=torch.float64, device=network.device)
        group.add_up([numbers])
        group.add_up(gradients)
        sums.update(zip(sums, numbers.tolist(), strict=True))
    norm = float(torch.nn.utils.get_total_norm(gradients)) / sums[weighs]
    if math.isfinite(norm):
        torch._foreach_mul_(gradients, min(1.0, max_norm / max(norm, 1e-12)) / sums[weighs])
    return norm


def _no_number(rows: Rows, units: Sequence[int] | np.ndarray, scratch: Path | None) -> UserError:
    """Said when a loss or gradient is infinite or no number, with the first of the records that it came from."""
    return UserError(
        say("the loss or its gradient is not a finite number", "损失或梯度不是有限数"),
        _kept_records(rows, units, scratch),
        say("look at these records; then try a lower learning_rate", "请检查这些记录；再尝试更小的 learning_rate"),
    )


def _exploded(rows: Rows, units: Sequence[int] | np.ndarray, scratch: Path, step: int, norm: float) -> UserError:
    return UserError(
        say(
            f"the gradient of step {step + 1} is {norm:.3g} long, {EXPLOSION:.0f} times what it was before",
            f"第 {step + 1} 步的梯度长 {norm:.3g}，超过此前的 {EXPLOSION:.0f} 倍",
        ),
        _kept_records(rows, units, scratch),
        say("look at these records; then try a lower learning_rate", "请检查这些记录；再尝试更小的 learning_rate"),
    )


def _kept_records(rows: Rows, units: Sequence[int] | np.ndarray, scratch: Path | None) -> str:
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
