"""Settings to change when a training stage does not fit its memory, one after another, with the peak after each.

First come changes that leave the result as it is, then those that change it least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.estimate.batch_plan import BatchPlan, DatasetStats
from hanlin.estimate.memory import TrainingSetup

LEAST_SAVING = 0.01
"""Changes that save a smaller fraction of the peak are not suggested."""
SHORTEST_SEQUENCE = 512


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting as `--set` takes it after the stage's name, the estimated peak after it, and whether it changes the
    result.
    """

    setting: str
    peak: float
    changes_result: bool


def suggest_changes(
    setup: TrainingSetup, data: DatasetStats | None, memory_limit: float, processes: int = 1, sharded: bool = False
) -> list[SettingChange]:
    """Changes, each on top of those before, until a stage fits or nothing is left to change.

    Args:
        setup: The stage.
        data: Its data, if known.
        memory_limit: Bytes that a process may take.
        processes: Processes that share a step.
        sharded: Whether they shard the model; then nothing is suggested that they could not shard.

    Returns:
        The changes, in the order in which to make them.
    """
    changes: list[SettingChange] = []
    for propose, changes_result in _OPTIONS:
        if sharded and propose in _UNSHARDED:
            continue
        for values in propose(setup.settings):
            peak = setup.memory().peak
            if peak <= memory_limit:
                return changes
            settings = setup.settings.model_copy(update=values)
            changed_setup = replace(setup, settings=settings, batch=BatchPlan.of(settings, data, processes))
            changed_peak = changed_setup.memory().peak
            if changed_peak < peak * (1 - LEAST_SAVING):
                setup = changed_setup
                changes.append(SettingChange(_as_options(values), changed_peak, changes_result))
    return changes


def _as_options(values: dict[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, LoraSettings):
            shown = (
                {"quantization": value.quantization}
                if value.quantization
                else {"rank": value.rank, "alpha": f"{value.alpha:g}"}
            )
            parts += [f"{name}.{key}={inner_value}" for key, inner_value in shown.items()]
        else:
            parts.append(f"{name}={str(value).lower()}")
    return " ".join(parts)


def _smaller_micro_batches(settings: Training) -> Iterator[dict[str, Any]]:
    size = settings.micro_batch_tokens
    least = settings.max_seq_length if isinstance(settings, Pretrain | Sft) else min(settings.max_seq_length, 256)
    while size > least:
        size = max(least, size // 2)
        yield {"micro_batch_tokens": size}


def _gradient_checkpointing(settings: Training) -> Iterator[dict[str, Any]]:
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}


def _optimizer_in_8_bits(settings: Training) -> Iterator[dict[str, Any]]:
    if settings.optimizer == "adamw":
        yield {"optimizer": "adamw_8bit"}


def _quantized_base(settings: Training) -> Iterator[dict[str, Any]]:
    lora = settings.lora
    if lora is not None and lora.quantization is None and not lora.dora and lora.init == "zero":
        yield {"lora": lora.model_copy(update={"quantization": "nf4"})}


def _adapter(settings: Training) -> Iterator[dict[str, Any]]:
    if (
        settings.lora is None
        and settings.trainable_tokens is None
        and not settings.optimizer.startswith(("galore", "apollo"))
    ):
        yield {"lora": LoraSettings(rank=64, alpha=128.0)}


def _shorter_sequences(settings: Training) -> Iterator[dict[str, Any]]:
    length = settings.max_seq_length
    while length > SHORTEST_SEQUENCE:
        length = max(SHORTEST_SEQUENCE, length // 2)
        yield {"max_seq_length": length, "micro_batch_tokens": min(settings.micro_batch_tokens, length)}


_OPTIONS: tuple[tuple[Callable[[Training], Iterator[dict[str, Any]]], bool], ...] = (
    (_smaller_micro_batches, False),
    (_gradient_checkpointing, False),
    (_optimizer_in_8_bits, True),
    (_quantized_base, True),
    (_adapter, True),
    (_quantized_base, True),
    (_shorter_sequences, True),
)
_UNSHARDED = (_optimizer_in_8_bits, _quantized_base)
"""Ways to what `train.placement` does not divide."""
