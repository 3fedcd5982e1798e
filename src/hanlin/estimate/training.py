"""Estimates of the training stages of a plan: memory, time and disk, from settings, model and data.

A model that an earlier stage will make is known from that stage's settings, an existing one from its configuration and
file headers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanlin.config.recipe import Recipe
from hanlin.config.settings.launch import Launch
from hanlin.config.settings.model import ExtendVocabulary, InitModel, Merge, TrimVocabulary
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.config.settings.surgery.context import ExtendContext
from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.config.settings.surgery.fuse import FuseModels
from hanlin.config.settings.surgery.import_gguf import ImportGguf
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.estimate import flops
from hanlin.estimate.advice import SettingChange, suggest_changes
from hanlin.estimate.batch_plan import BatchPlan, DatasetStats
from hanlin.estimate.dataset_stats import sample_dataset
from hanlin.estimate.flops import DiskUsage, Speed
from hanlin.estimate.gguf_shape import read_gguf_shape
from hanlin.estimate.memory import Machine, MemoryEstimate, Sharding, TrainingSetup
from hanlin.estimate.shapes import ModelShape
from hanlin.models.folder.adapter import read_token_ids, resolve_base
from hanlin.models.folder.checks import check_model_folder, read_json_object
from hanlin.models.folder.layout import ADAPTER_CONFIG, is_adapter
from hanlin.pipeline.step import ResolvedInput, Step


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training stage will need.

    `data` is None if the data does not exist yet. `memory_limit` is the memory that a process may take, and `changes`
    make the stage fit it. `operations` are those of an optimizer step in one process. `seconds` of a step and `hours`
    of the stage are known after `speed` has been measured.
    """

    stage: str
    setup: TrainingSetup
    memory: MemoryEstimate
    data: DatasetStats | None
    operations: float
    disk: DiskUsage
    processes: int = 1
    memory_limit: float | None = None
    changes: tuple[SettingChange, ...] = ()
    speed: Speed | None = None

    @property
    def fits(self) -> bool:
        return self.memory_limit is None or self.memory.peak <= self.memory_limit

    @property
    def seconds(self) -> float | None:
        return None if self.speed is None else self.operations / self.speed.training

    @property
    def hours(self) -> float | None:
        """Of the whole stage, the reference pass of DPO and KTO included."""
        steps = self.setup.batch.steps
        if self.speed is None or self.seconds is None or steps is None:
            return None
        before = 0.0
        if self.data is not None:
            before = flops.reference_operations(self.setup, self.data.total) / self.speed.training / self.processes
        return (steps * self.seconds + before) / 3600


@dataclass(frozen=True, slots=True)
class UnknownEstimate:
    """A training stage that cannot be estimated, and why."""

    stage: str
    why: str


def estimate_training(
    recipe: Recipe,
    steps: Sequence[Step],
    detect_machine: Callable[[Training], Machine],
    memory_limit: float | None = None,
) -> list[Estimate | UnknownEstimate]:
    """The estimates of the training stages of a plan that are not done.

    Args:
        recipe: The recipe.
        steps: Its plan.
        detect_machine: The machine that a stage will run on.
        memory_limit: Bytes that a process may take; None: no limit is known.
    """
    by_name = {step.stage.name: step for step in steps}
    results: list[Estimate | UnknownEstimate] = []
    for step in steps:
        settings = step.stage.settings
        if not isinstance(settings, Training) or step.state == "done":
            continue
        shape = shape_of(step, "model", by_name)
        if settings.train_blocks is not None and isinstance(shape, ModelShape) and not shape.new_blocks:
            shape = tr("the model has no new blocks")
        if isinstance(shape, str):
            results.append(UnknownEstimate(step.stage.name, shape))
            continue
        paths = [path for source in step.inputs if source.entry.field == "data" for path in source.paths]
        ready = all(source.ready for source in step.inputs if source.entry.field == "data")
        data = sample_dataset(settings, paths, shape.vocab_size) if ready else None
        processes = recipe.launch.processes * recipe.launch.nodes
        sharded = recipe.launch.mode != "ddp"
        batch = BatchPlan.of(settings, data, processes)
        init_rows = _init_rows(step, by_name, shape.vocab_size)
        setup = TrainingSetup(shape, settings, batch, detect_machine(settings), sharding_of(recipe.launch), init_rows)
        memory = setup.memory()
        results.append(
            Estimate(
                step.stage.name,
                setup,
                memory,
                data,
                flops.step_operations(setup) / processes,
                flops.disk_usage(setup, None if data is None else data.total),
                processes,
                memory_limit,
                ()
                if memory_limit is None or memory.peak <= memory_limit
                else tuple(suggest_changes(setup, data, memory_limit, processes, sharded)),
            )
        )
    return results


def sharding_of(launch: Launch) -> Sharding:
    """How a process group shards the model, by the launch mode."""
    processes = launch.processes * launch.nodes
    if launch.mode == "ddp":
        return Sharding()
    if launch.mode == "zero2":
        return Sharding(1, processes, processes)
    return Sharding(processes, processes, processes)


def _init_rows(step: Step, steps: dict[str, Step], vocab_size: int) -> frozenset[int]:
    """The rows of the vocabulary that the adapter of a stage's `init_from` trains; none if that is not known yet."""
    source = next((source for source in step.inputs if source.entry.field == "init_from"), None)
    if source is None:
        return frozenset()
    if source.ready:
        return frozenset(
            token_id
            for folder in source.paths[:1]
            if is_adapter(folder)
            for token_id in read_token_ids(read_json_object(folder / ADAPTER_CONFIG))
        )
    maker = steps[source.entry.reference.partition("/")[0]]
    rows = _init_rows(maker, steps, vocab_size)
    settings = maker.stage.settings
    if isinstance(settings, Training) and isinstance(settings.trainable_tokens, int):
        rows |= frozenset(range(settings.trainable_tokens, vocab_size))
    return rows


def shape_of(step: Step, field: str, steps: dict[str, Step]) -> ModelShape | str:
    """The shape of the model that a stage reads through `field`, or a sentence on why it is not known."""
    return _shape_from(next(source for source in step.inputs if source.entry.field == field), steps)


def _shape_from(source: ResolvedInput, steps: dict[str, Step]) -> ModelShape | str:
    if source.ready and source.paths:
        folder = source.paths[0]
        folder = resolve_base(folder) if is_adapter(folder) else folder
        try:
            files = check_model_folder(folder, experts=True)
        except UserError as error:
            return error.what
        if files.config.get("num_local_experts"):
            return tr("training a model of experts is not estimated")
        return ModelShape.of_files(files)
    if source.ready:
        return tr("{reference} is not on this machine yet", reference=source.entry.reference)
    return _to_be_made(steps[source.entry.reference.partition("/")[0]], steps)


def _to_be_made(step: Step, steps: dict[str, Step]) -> ModelShape | str:
    """The shape of the model that a stage will make."""
    settings = step.stage.settings
    if isinstance(settings, InitModel):
        vocab_size = _vocab_size(step, steps)
        return vocab_size if isinstance(vocab_size, str) else ModelShape.of_settings(settings, vocab_size)
    if isinstance(settings, ImportGguf):
        source = next(source for source in step.inputs if source.entry.field == "gguf")
        if source.ready and source.paths:
            return read_gguf_shape(source.paths[0], settings)
    if isinstance(settings, Merge):
        model = "adapter" if settings.model is None else "model"
        return _composed(shape_of(step, model, steps), ["adapter"], step, steps)
    if isinstance(settings, FuseModels):
        models = [f"models.{index}.model" for index in range(len(settings.models))]
        return _composed(shape_of(step, models[0] if settings.base is None else "base", steps), models, step, steps)
    if isinstance(settings, ExtendVocabulary):
        shape = shape_of(step, "model", steps)
        return shape if isinstance(shape, str) else shape.with_vocab_size(shape.vocab_size + settings.new_entries)
    if isinstance(settings, UpcycleExperts):
        return tr("training a model of experts is not estimated")
    if isinstance(settings, ExpandBlocks):
        shape = shape_of(step, "model", steps)
        if isinstance(shape, str):
            return shape
        if settings.new_blocks > shape.layers:  # the stage refuses this with the same sentence
            return tr("{count} new blocks are more than the {layers} that the model has", count=settings.new_blocks,
                      layers=shape.layers)  # fmt: skip
        return shape.with_new_blocks(settings.positions(shape.layers))
    if isinstance(settings, Training):
        shape = shape_of(step, "model", steps)
        return shape if isinstance(shape, str) else shape.after_training(settings)
    if isinstance(settings, ExtendContext | TrimVocabulary):  # what trimming saves is known when it is done
        return shape_of(step, "model", steps)
    return tr("the output of {name} is not known in advance", name=step.stage.name)


def _composed(shape: ModelShape | str, fields: Sequence[str], step: Step, steps: dict[str, Step]) -> ModelShape | str:
    """The shape of a model that is made of several, whose new blocks are untrained if they are so in all of them."""
    if isinstance(shape, str) or not shape.untrained_blocks:
        return shape
    for source in step.inputs:
        if source.entry.field in fields:
            part = _shape_from(source, steps)
            shape = shape.keep_untrained(() if isinstance(part, str) else part.untrained_blocks)
    return shape


def _vocab_size(step: Step, steps: dict[str, Step]) -> int | str:
    """The vocabulary size of the tokenizer of a new model."""
    (source,) = (source for source in step.inputs if source.entry.field == "tokenizer")
    if source.ready and source.paths:
        return _entries_in(source.paths[0])
    if not source.ready:
        maker = steps[source.entry.reference.partition("/")[0]].stage.settings
        if isinstance(maker, TrainTokenizer):
            return maker.entries
    return tr("the size of the tokenizer is not known yet")


def _entries_in(folder: Path) -> int | str:
    """The vocabulary size of a tokenizer folder, from `tokenizer.json`, gzipped or not."""
    import gzip

    file, packed = folder / "tokenizer.json", folder / "tokenizer.json.gz"
    try:
        raw = file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes())
        row = parse_json(raw)
        numbers = [len(row["model"]["vocab"]) - 1, *(int(token["id"]) for token in row.get("added_tokens", ()))]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return tr("{folder} has no readable tokenizer.json", folder=folder)
    return max(numbers) + 1
