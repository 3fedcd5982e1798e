"""The training loop: micro-batches become sums, the sums of all micro-batches and processes become one optimizer step.

An objective returns a sum of losses and the weight that it is a sum over. Gradients of sums add up over micro-batches
and processes and are divided once, by the weight of all, so how a step is divided into micro-batches, packed into rows
or spread over processes cannot change what is optimized.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hanlin.config.settings.train import Training
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.hardware.devices import peak_memory
from hanlin.core.i18n import tr
from hanlin.core.process import peak_host_memory
from hanlin.train.callbacks.base import Callback, TrainerState
from hanlin.train.callbacks.checkpoint import Checkpointer
from hanlin.train.callbacks.interrupt import Interrupt
from hanlin.train.callbacks.metrics_log import METRICS_FILE, MetricsLog
from hanlin.train.callbacks.progress import ProgressLine
from hanlin.train.callbacks.trackers import Trackers
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.state import load_weights
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.sampler import Sampler
from hanlin.train.distributed.base import Strategy
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.strategy import open_strategy
from hanlin.train.objectives.base import Objective
from hanlin.train.optim.schedule import learning_rate_at

GRAD_NORM_WINDOW = 100
"""Steps before a step whose gradient norms its own is compared with."""
GRAD_NORM_SPIKE = 1000.0
"""A gradient norm of more than this many times the usual one stops the run."""


class StartingPoint(NamedTuple):
    """Where a run starts or resumes.

    Attributes:
        strategy: The model divided among processes, with its optimizer.
        checkpointer: Writes the checkpoints.
        step: Steps done.
        seconds: The time that they took.
    """

    strategy: Strategy
    checkpointer: Checkpointer
    step: int
    seconds: float


def start_or_resume(
    model: TrainModel, settings: Training, dist: DistContext, context: StageContext, out: Path
) -> StartingPoint:
    """Load the newest checkpoint if there is one, and divide the model among the processes.

    Args:
        model: The model as it is at the start of the run.
        settings: The settings of the stage.
        dist: The processes.
        context: Has the mode of the launch, and takes messages.
        out: The stage's folder.
    """
    checkpointer = Checkpointer(
        context.scratch_folder(out),
        settings.save_every_seconds,
        settings.save_total_limit,
        settings.save_best,
        log=context.progress.log if dist.is_main else lambda sentence: None,
        writes=dist.is_main,
    )
    checkpoint = checkpointer.load_newest()
    if checkpoint is not None:
        load_weights(checkpoint.weights, model.trainable_parameters())
    strategy = open_strategy(model, settings, dist, context)
    if checkpoint is None:
        return StartingPoint(strategy, checkpointer, 0, 0.0)
    strategy.load_optimizer_state(checkpoint.optimizer_state)
    return StartingPoint(strategy, checkpointer, checkpoint.step, checkpoint.seconds)


def train(
    model: TrainModel,
    objective: Objective,
    dataset: PackedDataset,
    sampler: Sampler,
    *,
    settings: Training,
    dist: DistContext,
    context: StageContext,
    out: Path,
    callbacks: Sequence[Callback] = (),
    start: StartingPoint | None = None,
) -> dict[str, Any]:
    """Train until the last step of the settings; resumes from a checkpoint if there is one.

    Args:
        model: The model to train.
        objective: The loss.
        dataset: The samples.
        sampler: Which of them each step learns from.
        settings: The settings of the stage.
        dist: The processes.
        context: Seed, progress and folders.
        out: The stage's folder; `metrics.jsonl` is written there.
        callbacks: Measure while the run lasts, and may stop it; those of every run are added.
        start: What `start_or_resume` returned, if the caller needed it before.

    Returns:
        The metrics of the run.

    Raises:
        UserError: A loss or a gradient is NaN or infinite, with the ids of the records; or the first loss is wrong.
        KeyboardInterrupt: Ctrl-C, when a checkpoint is saved.
    """
    start = start or start_or_resume(model, settings, dist, context, out)
    strategy, micro_batch_tokens = start.strategy, settings.micro_batch_tokens
    total_steps = sampler.total_steps(settings.epochs, settings.steps)
    scratch = context.scratch_folder(out)
    started_at = time.monotonic() - start.seconds
    callbacks = [
        *callbacks,
        Trackers(context, out, settings, start.step, writes=dist.is_main),
        ProgressLine(context.progress),
        start.checkpointer,
        Interrupt(context.progress),
    ]
    model.hf_model.train()
    with MetricsLog(out / METRICS_FILE, start.step, writes=dist.is_main) as log, ExitStack() as stack:
        state = TrainerState(model, strategy, dist, log, total_steps, micro_batch_tokens, start.step)
        state.shown_metrics = tuple(name for callback in callbacks for name in callback.shown_metrics)
        for callback in callbacks:
            callback.on_train_begin(state)
            stack.push(lambda kind, error, trace, callback=callback: callback.on_train_end(error))
        for step in range(start.step, total_steps):
            if any(callback.should_stop(state) for callback in callbacks):
                break
            _seed_random_numbers(context.seed, step, dist.rank)
            learning_rate = learning_rate_at(step, total_steps, settings)
            strategy.set_lr(learning_rate)
            measured = _merge(callback.on_step_begin(state) for callback in callbacks)
            indices = sampler.step_indices(step)
            local_indices = indices[dist.rank :: dist.world_size]
            model.refresh()
            if step == 0:
                step_objective = objective.calibrate_reference(
                    model, dataset, local_indices, micro_batch_tokens, dist.all_reduce_sum
                )
            else:
                step_objective = objective.prepare_step(model, local_indices, micro_batch_tokens, dist.all_reduce_sum)
            sums = compute_gradients(model, step_objective, dataset, local_indices, micro_batch_tokens, scratch)
            requests = _merge(callback.requests() for callback in callbacks)
            sums |= {name: float(value) for name, value in requests.items()}
            grad_norm = strategy.reduce_and_clip_grads(sums, objective.weight_name)
            _check_grad_norm(grad_norm, log, settings.max_grad_norm, dataset, indices, scratch)
            means = {name: sums[name] / sums[objective.weight_name] for name in ("loss", *objective.metric_names)}
            if step == 0 and not _drops_what_was_learned(settings):
                objective.check_first_loss(means, exact=dist.device.type == "cpu")
            strategy.step()
            state.step = step + 1
            state.requests = frozenset(name for name in requests if sums[name])
            measured |= _merge(callback.evaluate(state) for callback in callbacks)
            progress = {"step": state.step, "epoch": state.step / sampler.steps_per_epoch}
            counts = {name: int(sums[name]) for name in _count_names(objective)}
            log.append(
                {**progress, **means, "learning_rate": learning_rate, "grad_norm": grad_norm, **counts, **measured}
            )
            state.seconds, state.peak_memory_gb = time.monotonic() - started_at, peak_memory_gb(dist.device)
            for callback in callbacks:
                callback.on_step_end(state)
    seconds = time.monotonic() - started_at
    return {
        **{name: log.first_and_last(name) for name in ("loss", *objective.metric_names)},
        **_merge(callback.summarize(log) for callback in callbacks),
        "steps": len(log.rows),
        "epochs": len(log.rows) / sampler.steps_per_epoch,
        **{name: log.total(name) for name in _count_names(objective)},
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb(dist.device),
        "tokens_per_second": log.total("tokens") / max(seconds, 1e-9),
    }


def compute_gradients(
    model: TrainModel,
    objective: Objective,
    dataset: PackedDataset,
    indices: np.ndarray,
    micro_batch_tokens: int,
    scratch: Path | None = None,
) -> dict[str, float]:
    """Add the gradients of the summed loss of some samples to those of the model.

    Args:
        model: The model.
        objective: The loss.
        dataset: The samples.
        indices: Those that this process learns from in this step [n].
        micro_batch_tokens: The most tokens of a micro-batch.
        scratch: Where the ids of the records are written if the loss is not finite.

    Returns:
        Sums over these samples, by name: the loss, the objective's weight and metrics, `tokens`, `target_tokens`.

    Raises:
        UserError: The loss of a micro-batch is not finite, with the ids of its records.
    """
    sums = dict.fromkeys(("loss", objective.weight_name, *objective.metric_names, "tokens", "target_tokens"), 0.0)
    for batch in model.micro_batches(dataset, indices, micro_batch_tokens):
        loss = objective.loss(model, batch)
        model.backward(loss.total)
        values: dict[str, Any] = {"loss": loss.total.detach(), **loss.metrics, objective.weight_name: loss.weight}
        for name, value in {**values, "tokens": batch.tokens, "target_tokens": len(batch.targets)}.items():
            sums[name] += float(value)
        if not math.isfinite(sums["loss"]):
            raise _not_finite_error(dataset, batch.sample_indices, scratch)
    return sums


def _drops_what_was_learned(settings: Training) -> bool:
    """Whether dropout changes what the model computes before its first step.

    A new adapter adds nothing yet, whatever is dropped. One to go on from does: the first loss of DPO was 0.6901 with
    a dropout of 0.1. That policy and reference are one model is checked without dropout (`calibrate_reference`).
    """
    return settings.lora is not None and settings.lora.dropout > 0 and settings.init_from is not None


def _count_names(objective: Objective) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("tokens", "target_tokens", objective.weight_name)))


def _merge(parts: Any) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _seed_random_numbers(seed: int, step: int, rank: int) -> None:
    """The random numbers of a step (dropout) follow from seed, step and rank, so that a checkpoint holds no state of
    them.
    """
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that this process has held so far, in gigabytes (10^9 bytes): on the accelerator if it counts its
    own, else in main memory.
    """
    return float(peak_memory(device) or peak_host_memory() or 0) / 1e9


def grad_norm_spiked(norm: float, norms_before: Sequence[float], max_grad_norm: float) -> bool:
    """Whether a gradient norm is so great that something is broken.

    That is, more than `GRAD_NORM_SPIKE` times both the usual norm of the steps before, of which there must be some, and
    the norm to which gradients are clipped.
    """
    if len(norms_before) < GRAD_NORM_WINDOW // 5:
        return False
    return norm > GRAD_NORM_SPIKE * max(statistics.median(norms_before), max_grad_norm)


def _check_grad_norm(
    norm: float, log: MetricsLog, max_grad_norm: float, dataset: PackedDataset, indices: np.ndarray, scratch: Path
) -> None:
    if not math.isfinite(norm):
        raise _not_finite_error(dataset, indices, scratch)
    if grad_norm_spiked(norm, [row["grad_norm"] for row in log.rows[-GRAD_NORM_WINDOW:]], max_grad_norm):
        step = len(log.rows) + 1
        raise UserError(
            tr(
                "the gradient norm of step {step} is {norm:.3g}, more than {grad_norm_spike:.0f} times the usual one",
                step=step,
                norm=norm,
                grad_norm_spike=GRAD_NORM_SPIKE,
            ),
            _write_record_ids(dataset, indices, scratch),
            tr("look at these records; then try a lower learning_rate"),
        )


def _not_finite_error(dataset: PackedDataset, indices: Sequence[int] | np.ndarray, scratch: Path | None) -> UserError:
    return UserError(
        tr("the loss or its gradient is NaN or infinite, not a finite number"),
        _write_record_ids(dataset, indices, scratch),
        tr("look at these records; then try a lower learning_rate"),
    )


def _write_record_ids(dataset: PackedDataset, indices: Sequence[int] | np.ndarray, scratch: Path | None) -> str:
    """Write the ids of the records that a run stopped at into `stopped_at.json`; return a phrase for an error."""
    names = dataset.record_ids([int(index) for index in indices])
    shown = ", ".join(names[:20])
    if scratch is None:
        shown = ", ".join(names)
        return tr("records {shown}", shown=shown)
    file = scratch / f"stopped_at{os.environ.get('RANK', '')}.json"
    file.write_text(json.dumps({"records": names}, ensure_ascii=False), encoding="utf-8")
    if len(names) <= 20:
        return tr("records {shown}", shown=shown)
    return tr("records {shown} … (all: {file})", shown=shown, file=file)
