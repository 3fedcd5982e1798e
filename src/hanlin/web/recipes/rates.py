"""How fast this machine trains: as a former run recorded it, or as a short measurement of a step finds it.

The hours of a plan are worth as much as the rate behind them, so each comes with where it is from.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object, write_json
from hanlin.core.i18n import tr
from hanlin.estimate.flops import Speed
from hanlin.estimate.machine import has_gpu, measure_speeds
from hanlin.estimate.training import Estimate
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import Manifest
from hanlin.pipeline.run_record import read_run_record
from hanlin.web.runs.stages import linked_artifacts, list_runs

FILE_NAME = "rates.json"
MAX_SIZE_RATIO = 1.1
"""How much larger or smaller the model of a former run may be."""
_LIKE_SETTINGS = ("gradient_checkpointing", "train_last_layers", "train_blocks", "optimizer")
"""Settings beside LoRA on which the work of a token depends; they are the same in a run whose rate counts."""
_MAX_RUNS = 50


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a stage will train, in seconds, and where the rate behind it is from."""

    seconds: float
    source: str


class Rates:
    """The rates of this machine.

    Args:
        store: Where former runs are.
        cache: The folder in which measurements are kept; made when there is one.
    """

    def __init__(self, store: Store, cache: Path) -> None:
        self._store, self._path = store, cache / FILE_NAME
        self._lock = threading.Lock()

    def find_duration(self, kind: str, estimate: Estimate, device: str) -> Duration | None:
        """How long a stage will train here; None if no rate is known, or the machine named is another one.

        Args:
            kind: The kind of the stage.
            estimate: Its estimate.
            device: `auto`, `cpu` or `gpu`.
        """
        steps = estimate.setup.batch.steps
        if steps is None or not is_this_machine(device):
            return None
        found = self._find_recorded(kind, estimate)
        if found is not None:
            rate, run = found
            source = tr("{rate} tokens/s, as in the run {run} on this machine", rate=f"{rate:,.0f}", run=run)
            return Duration(steps * estimate.setup.batch.step_tokens / rate, source)
        speed = self._read().get(_name_of(kind, estimate))
        if not isinstance(speed, int | float) or speed <= 0:
            return None
        hours = replace(estimate, speed=Speed(float(speed), float(speed))).hours
        if hours is None:
            return None
        source = tr("{speed} GFLOP/s, measured on this machine", speed=f"{speed / 1e9:,.0f}")
        return Duration(3600 * hours, source)

    def _find_recorded(self, kind: str, estimate: Estimate) -> tuple[float, str] | None:
        """Tokens a second of the latest run on this machine that trained a model of this size by this method."""
        for name in list_runs(self._store)[:_MAX_RUNS]:
            record = read_run_record(self._store.runs / name)
            if record is None or record.host != socket.gethostname():
                continue
            for stage, manifest in linked_artifacts(self._store, name):
                if manifest.kind == kind and _is_alike(manifest, estimate):
                    return float(manifest.metrics["tokens_per_second"]), f"{name} / {stage}"
        return None

    def measure(self, stages: Sequence[tuple[str, Estimate]]) -> None:
        """Measure a step of each stage, and keep what comes out. It takes seconds to minutes of all cores.

        Raises:
            UserError: Another measurement is going on, or it fails.
        """
        if not self._lock.acquire(blocking=False):
            raise UserError(tr("this machine is being measured already"), None, tr("wait for its end"))
        try:
            speeds = measure_speeds([(kind, estimate.setup) for kind, estimate in stages]) if stages else []
            known = self._read()
            for (kind, estimate), (speed, _) in zip(stages, speeds, strict=True):
                known[_name_of(kind, estimate)] = speed.training
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, known)
        finally:
            self._lock.release()

    def _read(self) -> dict[str, Any]:
        try:
            return load_json_object(self._path)
        except (OSError, UserError):
            return {}


def is_this_machine(device: str) -> bool:
    """Whether the device named is the one that a run would use here."""
    return device == "auto" or (device == "gpu") == has_gpu()


def _is_alike(manifest: Manifest, estimate: Estimate) -> bool:
    setup, metrics = estimate.setup, manifest.metrics
    rate, parameters = metrics.get("tokens_per_second"), metrics.get("parameters")
    if not isinstance(rate, int | float) or rate <= 0 or not isinstance(parameters, int) or parameters <= 0:
        return False
    ratio = setup.shape.parameters / parameters
    if not 1 / MAX_SIZE_RATIO <= ratio <= MAX_SIZE_RATIO:
        return False
    if metrics.get("processes", 1) != estimate.processes or metrics.get("precision") != setup.machine.dtype:
        return False
    if manifest.made_by.get("cores") != os.cpu_count():
        return False
    settings = setup.settings.model_dump(mode="json")
    own, other = (_describe_method(row) for row in (settings, manifest.settings))
    return own == other


def _describe_method(settings: Mapping[str, Any]) -> list[Any]:
    lora = settings.get("lora")
    quantization = lora.get("quantization") if isinstance(lora, Mapping) else None
    return [lora is not None, quantization, *(settings.get(name) for name in _LIKE_SETTINGS)]


def _name_of(kind: str, estimate: Estimate) -> str:
    """What a measurement is kept under: the machine, the method and the shape of the model."""
    setup = estimate.setup
    settings = setup.settings.model_dump(mode="json")
    method = [*_describe_method(settings), settings.get("lora"), settings.get("max_seq_length"), setup.machine.dtype]
    return f"{socket.gethostname()} {os.cpu_count()} {kind} {setup.shape} {method} {setup.machine.gpu}"


def show_duration(seconds: float) -> str:
    """A time as people say it: `3 min`, `2.5 h`, `4 days`."""
    if seconds < 5400:
        return tr("{count} min", count=max(1, round(seconds / 60)))
    if seconds < 172_800:
        return tr("{count} h", count=f"{seconds / 3600:.1f}")
    return tr("{count} days", count=f"{seconds / 86400:.1f}")
