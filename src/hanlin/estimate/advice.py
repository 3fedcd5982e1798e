"""What to change when a training stage does not fit its memory: settings, one after another, with the peak after each.

Owns the order of the changes: first those that change nothing of the result, then those that change it least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.estimate.batch_plan import DataShape, Portions
from hanlin.estimate.memory import Account

WORTH = 0.01
"""A change that saves a smaller share of the peak is not proposed."""
LEAST_ROW = 512


@dataclass(frozen=True, slots=True)
class Change:
    """A setting, as `--set` takes it after the stage's name, the predicted peak once it is made too, and whether the
    result is another."""

    setting: str
    peak: float
    another_result: bool


def changes(
    account: Account, data: DataShape | None, room: float, processes: int = 1, divided: bool = False
) -> list[Change]:
    """Changes, each on top of those before, until the stage fits `room` bytes or nothing is left to change. Where a
    group divides the model (`divided`), what it could not divide is not proposed."""
    found: list[Change] = []
    for form, another in _WAYS:
        if divided and form in _UNDIVIDED:
            continue
        for values in form(account.settings):
            peak = account.memory().peak
            if peak <= room:
                return found
            settings = account.settings.model_copy(update=values)
            tried = replace(account, settings=settings, portions=Portions.of(settings, data, processes))
            after = tried.memory().peak
            if after < peak * (1 - WORTH):
                account = tried
                found.append(Change(_written(values), after, another))
    return found


def _written(values: dict[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, LoraSettings):
            told = (
                {"quantization": value.quantization}
                if value.quantization
                else {"rank": value.rank, "alpha": f"{value.alpha:g}"}
            )
            parts += [f"{name}.{key}={inner}" for key, inner in told.items()]
        else:
            parts.append(f"{name}={str(value).lower()}")
    return " ".join(parts)


def _smaller_passes(settings: Training) -> Iterator[dict[str, Any]]:
    size = settings.micro_batch_tokens
    least = settings.max_seq_length if isinstance(settings, Pretrain | Sft) else min(settings.max_seq_length, 256)
    while size > least:
        size = max(least, size // 2)
        yield {"micro_batch_tokens": size}


def _recomputed(settings: Training) -> Iterator[dict[str, Any]]:
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}


def _eight_bits(settings: Training) -> Iterator[dict[str, Any]]:
    if settings.optimizer == "adamw":
        yield {"optimizer": "adamw_8bit"}


def _packed(settings: Training) -> Iterator[dict[str, Any]]:
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


def _shorter_rows(settings: Training) -> Iterator[dict[str, Any]]:
    length = settings.max_seq_length
    while length > LEAST_ROW:
        length = max(LEAST_ROW, length // 2)
        yield {"max_seq_length": length, "micro_batch_tokens": min(settings.micro_batch_tokens, length)}


_WAYS: tuple[tuple[Callable[[Training], Iterator[dict[str, Any]]], bool], ...] = (
    (_smaller_passes, False),
    (_recomputed, False),
    (_eight_bits, True),
    (_packed, True),
    (_adapter, True),
    (_packed, True),
    (_shorter_rows, True),
)
_UNDIVIDED = (_eight_bits, _packed)
"""Ways to what `train.placement` does not divide."""
