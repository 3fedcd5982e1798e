"""A estimate for each training stage of a plan: the model that it will find, its data, and what follows from both.

Owns the way from a recipe to the numbers of `memory`, `work` and `advice`. A model that an earlier stage makes is taken
from that stage's settings, one that lies there from its configuration and file headers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanlin.config.recipe import Recipe
from hanlin.config.settings.launch import Launch
from hanlin.config.settings.model import ExtendVocabulary, InitModel, Merge
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.estimate import flops
from hanlin.estimate.advice import Change, changes
from hanlin.estimate.batch_plan import DataShape, Portions
from hanlin.estimate.dataset_stats import data_of
from hanlin.estimate.flops import Disk, Speed
from hanlin.estimate.memory import Account, Machine, Memory, Sharding
from hanlin.estimate.shapes import ModelShape
from hanlin.models.folder.adapter import resolve_base
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import is_adapter
from hanlin.pipeline.step import Step


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage will need. `data` is None where the data is not there yet; `room` is the memory that it may take,
    and `changes` make it fit; `operations` are those of a step in one process; `seconds` of a step and `hours` of the
    stage are there after a probe."""

    stage: str
    account: Account
    memory: Memory
    data: DataShape | None
    operations: float
    disk: Disk
    processes: int = 1
    room: float | None = None
    changes: tuple[Change, ...] = ()
    speed: Speed | None = None

    @property
    def fits(self) -> bool:
        return self.room is None or self.memory.peak <= self.room

    @property
    def seconds(self) -> float | None:
        return None if self.speed is None else self.operations / self.speed.training

    @property
    def hours(self) -> float | None:
        """Of the whole stage, the reference pass of DPO and KTO included."""
        steps = self.account.portions.steps
        if self.speed is None or self.seconds is None or steps is None:
            return None
        before = 0.0
        if self.data is not None:
            before = flops.reference_operations(self.account, self.data.total) / self.speed.training / self.processes
        return (steps * self.seconds + before) / 3600


@dataclass(frozen=True, slots=True)
class Unknown:
    """A training stage of which nothing can be said, and why."""

    stage: str
    why: str


def estimates(
    recipe: Recipe,
    steps: Sequence[Step],
    machine_of: Callable[[Training], Machine],
    room: float | None = None,
) -> list[Estimate | Unknown]:
    """One for each training stage that is not done. `room` are the bytes that a process may take."""
    by_name = {step.stage.name: step for step in steps}
    found: list[Estimate | Unknown] = []
    for step in steps:
        settings = step.stage.settings
        if not isinstance(settings, Training) or step.state == "done":
            continue
        shape = shape_of(step, "model", by_name)
        if isinstance(shape, str):
            found.append(Unknown(step.stage.name, shape))
            continue
        paths = [path for source in step.inputs if source.entry.field == "data" for path in source.paths]
        ready = all(source.ready for source in step.inputs if source.entry.field == "data")
        data = data_of(settings, paths, shape.entries) if ready else None
        processes = recipe.launch.processes * recipe.launch.nodes
        divided = recipe.launch.mode != "ddp"
        portions = Portions.of(settings, data, processes)
        account = Account(shape, settings, portions, machine_of(settings), sharding_of(recipe.launch))
        memory = account.memory()
        found.append(
            Estimate(
                step.stage.name,
                account,
                memory,
                data,
                flops.step_operations(account) / processes,
                flops.disk(account, None if data is None else data.total),
                processes,
                room,
                () if room is None or memory.peak <= room else tuple(changes(account, data, room, processes, divided)),
            )
        )
    return found


def sharding_of(launch: Launch) -> Sharding:
    """How a group divides a model among its processes."""
    processes = launch.processes * launch.nodes
    if launch.mode == "ddp":
        return Sharding()
    if launch.mode == "zero2":
        return Sharding(1, processes, processes)
    return Sharding(processes, processes, processes)


def shape_of(step: Step, field: str, steps: dict[str, Step]) -> ModelShape | str:
    """The model that a stage reads through `field`; in words why it is not known."""
    source = next(source for source in step.inputs if source.entry.field == field)
    if source.ready and source.paths:
        folder = source.paths[0]
        folder = resolve_base(folder) if is_adapter(folder) else folder
        try:
            files = check_model_folder(folder)
        except UserError as error:
            return error.what
        return ModelShape.of_config(files.config, files.dtype)
    if source.ready:
        return say(f"{source.entry.reference} is not on this machine yet", f"{source.entry.reference} 尚未下载到本机")
    return _to_be_made(steps[source.entry.reference.partition("/")[0]], steps)


def _to_be_made(step: Step, steps: dict[str, Step]) -> ModelShape | str:
    """The model that a stage is still to make."""
    settings = step.stage.settings
    if isinstance(settings, InitModel):
        entries = _entries(step, steps)
        return entries if isinstance(entries, str) else ModelShape.of_settings(settings, entries)
    if isinstance(settings, Merge):
        return shape_of(step, "adapter", steps)
    if isinstance(settings, ExtendVocabulary):
        shape = shape_of(step, "model", steps)
        return shape if isinstance(shape, str) else shape.with_entries(shape.entries + settings.new_entries)
    if isinstance(settings, Training):
        return shape_of(step, "model", steps)
    return say(f"what {step.stage.name} makes is not known before", f"{step.stage.name} 的产物无法预知")


def _entries(step: Step, steps: dict[str, Step]) -> int | str:
    """The entries of the tokenizer that a new model is made over."""
    (source,) = (source for source in step.inputs if source.entry.field == "tokenizer")
    if source.ready and source.paths:
        return _entries_in(source.paths[0])
    if not source.ready:
        maker = steps[source.entry.reference.partition("/")[0]].stage.settings
        if isinstance(maker, TrainTokenizer):
            return maker.entries
    return say("the tokenizer's entries are not known yet", "尚不知分词器的词条数")


def _entries_in(folder: Path) -> int | str:
    """The entries of a tokenizer folder, from `tokenizer.json`, packed or not."""
    import gzip

    file, packed = folder / "tokenizer.json", folder / "tokenizer.json.gz"
    try:
        raw = file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes())
        row = json.loads(raw)
        numbers = [len(row["model"]["vocab"]) - 1, *(int(token["id"]) for token in row.get("added_tokens", ()))]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return say(f"{folder} holds no tokenizer.json to count", f"{folder} 中没有可统计的 tokenizer.json")
    return max(numbers) + 1
