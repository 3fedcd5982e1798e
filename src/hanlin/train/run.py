"""One training run: encode the data, load the model, train, save."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hanlin.config.recipe import adapter_hint
from hanlin.config.settings import preference
from hanlin.config.settings.train import Sft, Training
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import refuse_repeated
from hanlin.core.files import parse_json, write_text
from hanlin.core.hardware.devices import best_device
from hanlin.core.i18n import tr
from hanlin.models.adapters import count_parameters, load_adapter_tokenizer
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import NEW_BLOCKS
from hanlin.models.load import load_model
from hanlin.tokenizer.generation_config import write_sampling_params
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.callbacks.base import Callback
from hanlin.train.callbacks.checkpoint import load_best_weights
from hanlin.train.callbacks.forgetting import DEFAULT_PROBES, ForgettingProbes, probe_encoder, read_probes
from hanlin.train.callbacks.validation import Validation
from hanlin.train.compute.kernels import choose_kernel
from hanlin.train.compute.model import Precision, TrainModel
from hanlin.train.compute.runtime import faster_precision, flush_denormals
from hanlin.train.dataset.first_rows import write_first_rows
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.prepare import TRAIN, VALIDATION, DatasetPreparer
from hanlin.train.dataset.sampler import Sampler
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.strategy import check_can_shard
from hanlin.train.init_adapter import check_init_adapter
from hanlin.train.load import check_config, check_experts, load_train_model
from hanlin.train.objectives.base import Objective
from hanlin.train.objectives.reference_logprobs import (
    compute_reference_logprobs,
    read_reference_logprobs,
    write_reference_logprobs,
)
from hanlin.train.optim.trainable import NeededTokens
from hanlin.train.save import save_trained
from hanlin.train.trainer import start_or_resume, train

MakeObjective = Callable[[TrainModel, DistContext, PackedDataset, str], Objective]
"""Makes the objective over the samples of a split (`train` or `validation`)."""
CPU = torch.device("cpu")


class TrainingRun:
    """What the training stages have in common.

    Args:
        settings: The settings of the stage.
        inputs: The model, the data, and for some kinds an adapter to go on from, probes or reference log-probabilities.
        out: The stage's folder.
        context: Seed, progress, how the stage is launched.

    Raises:
        UserError: The model folder is an adapter or broken, the adapter to go on from does not fit the model or the
            settings, or the settings do not fit the launch mode.
    """

    def __init__(
        self, settings: Training | preference.ReferenceLogprobs, inputs: Inputs, out: Path, context: StageContext
    ) -> None:
        self.settings, self.inputs, self.out, self.context = settings, inputs, out, context
        if isinstance(settings, Training):
            check_can_shard(settings, context.mode)
        # set explicitly, the number of threads is fixed: MKL may otherwise change it from product to product, and sums
        # of other parts differ in their last bits
        torch.set_num_threads(torch.get_num_threads())
        self.model_folder = inputs.path("model")
        refuse_adapter(self.model_folder, adapter_hint())
        self._model_files = check_model_folder(self.model_folder, experts=True)
        check_experts(self._model_files, settings, context.mode)
        self._init_from = inputs.optional_path("init_from")
        if isinstance(settings, Training):
            check_config(self._model_files.config, settings, self.model_folder)
            self._check_attention(settings)
            if self._init_from is not None and settings.lora is not None:
                trains_rows = settings.trainable_tokens is not None
                check_init_adapter(self._init_from, settings.lora, self._model_files, trains_rows)
        self._scratch = context.scratch_folder(out)
        self.metrics: dict[str, Any] = {}
        """Metrics besides those of training."""
        wants_validation = settings.eval_steps is not None if isinstance(settings, Training) else None
        # the adapter's template and its special tokens may differ from those of the base
        tokenizer = (
            Tokenizer.load(self.model_folder)
            if self._init_from is None
            else load_adapter_tokenizer(self._init_from, self._model_files)
        )
        refuse_repeated(inputs.paths("data"), tr("name it once; a stage `mix` says how much each source counts"))
        self.data = DatasetPreparer(
            self.model_folder, tokenizer, inputs.paths("data"), self._scratch, context, wants_validation
        )

    def _check_attention(self, settings: Training) -> None:
        """Raise UserError before the data is encoded if the requested attention kernel cannot run on this machine."""
        device = best_device()
        precision = faster_precision(device) if settings.precision == "auto" else settings.precision
        config = self._model_files.config
        head_dim = config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"])
        choose_kernel(settings.attention, device, torch_dtype(precision), int(head_dim))

    @flush_denormals()
    def train(self, splits: Sequence[PackedDataset], batch_size: int, make_objective: MakeObjective) -> dict[str, Any]:
        """Train, and save the model or the adapter.

        Args:
            splits: The train split, and the validation split if it is measured.
            batch_size: Samples of a step.
            make_objective: Makes the objective.

        Returns:
            The metrics of the run; none if only the data is prepared.
        """
        settings, context = self.settings, self.context
        assert isinstance(settings, Training)
        dataset, *validation = splits
        probes = self._make_probes(settings)
        if context.prepare_only:
            return {}
        dist = DistContext.initialize()
        sampler = Sampler.for_batch_size(len(dataset.samples), batch_size, context.seed)
        if dist.is_main:
            tokenizer = self.data.tokenizer
            write_first_rows(self.out / "first_rows.json", dataset, sampler, tokenizer, settings.max_seq_length)
            self._note_new_blocks(settings)
        precision = self._precision(dist)
        template = self.data.template
        needed = NeededTokens.of(dataset.encoded, template) if self.data.renders_chats and template else None

        def load(device: torch.device) -> TrainModel:
            return load_train_model(
                self.model_folder, settings, context.seed, device, precision, needed, self._init_from
            )

        model = load(dist.device if context.mode == "ddp" else CPU)
        parameters = count_parameters(model.hf_model)
        start = start_or_resume(model, settings, dist, context, self.out)
        model.set_attention(settings.attention)  # for the device that the weights are on now
        objective = make_objective(model, dist, dataset, TRAIN)
        callbacks: list[Callback] = []
        if validation:
            validation_objective = make_objective(model, dist, validation[0], VALIDATION)
            callbacks.append(Validation.from_settings(validation[0], validation_objective, settings))
            self.metrics["validation_records"] = len(validation[0].encoded)
        if probes is not None:
            callbacks.append(probes)
        metrics = train(
            model,
            objective,
            dataset,
            sampler,
            settings=settings,
            dist=dist,
            context=context,
            out=self.out,
            callbacks=callbacks,
            start=start,
        )
        full_model = start.strategy.full_model(lambda: load(CPU))
        if dist.is_main:
            if settings.save_best and metrics.get("best_step") is not None:
                load_best_weights(self._scratch, metrics["best_step"], full_model)
            save_trained(
                full_model, self.out, self.model_folder, settings, self.data.tokenizer, template, self._model_files
            )
            if isinstance(settings, Sft) and settings.sampling is not None:
                write_sampling_params(self.out, settings.sampling.model_dump(exclude_none=True))
        dist.shutdown()
        return {
            **metrics,
            "records": dataset.encoded.record_count,
            "examples": len(dataset.encoded.starts) - 1,
            "refused": dataset.encoded.refused,
            "changed": dataset.encoded.changed,
            "notes": dataset.encoded.notes,
            "rows": len(dataset.samples),
            "packing_efficiency": float(dataset.sample_lengths.mean()) / settings.max_seq_length,
            "precision": precision,
            "processes": dist.world_size,
            "mode": context.mode,
            "parameters": parameters.total,
            "trainable_parameters": parameters.trainable,
            **({"untrained_tokens": list(model.untrained_tokens)} if model.untrained_tokens else {}),
            **self.metrics,
        }

    def reference_logprobs(
        self, model: TrainModel, dist: DistContext, split: str, **datasets: PackedDataset
    ) -> np.ndarray:
        """Log-probabilities of all answers under the model as it is now, or those of an input artifact.

        Args:
            model: The model before training.
            dist: The processes.
            split: `train` or `validation`.
            datasets: Data sets of the same samples by name; their columns are put side by side.

        Returns:
            float64 [samples, answers of a sample].
        """
        artifact = self.inputs.optional_path("reference")
        (first, *_) = datasets.values()
        if artifact is not None:
            width = sum(dataset.encoded.width for dataset in datasets.values())
            logprobs = read_reference_logprobs(artifact, split, first.encoded, width, self._precision(dist))
        else:
            columns = [
                compute_reference_logprobs(
                    model,
                    dist,
                    dataset,
                    folder=self._scratch / "reference",
                    name=name if split == TRAIN else f"{split}-{name}",
                    micro_batch_tokens=self.settings.micro_batch_tokens,
                    progress=self.context.progress,
                )
                for name, dataset in datasets.items()
            ]
            logprobs = np.concatenate(columns, axis=1)
        metric = "reference_sha256" if split == TRAIN else f"{split}_reference_sha256"
        self.metrics[metric] = hashlib.sha256(logprobs.tobytes()).hexdigest()
        return logprobs

    def write_reference_logprobs(self, splits: Sequence[dict[str, PackedDataset]]) -> dict[str, Any]:
        """Compute the reference log-probabilities of each split and write them; returns the metrics."""
        if self.context.prepare_only:
            return {}
        dist = DistContext.initialize()
        precision = self._precision(dist)
        model = TrainModel(load_model(self.model_folder, dtype=precision), dist.device, precision)
        model.set_attention(self.settings.attention)
        started = time.monotonic()
        results = {}
        for split, datasets in zip((TRAIN, VALIDATION), splits, strict=False):
            (first, *_) = datasets.values()
            results[split] = self.reference_logprobs(model, dist, split, **datasets), first.encoded
        if dist.is_main:
            write_reference_logprobs(self.out, results, precision)
        dist.shutdown()
        encoded = results[TRAIN][1]
        return {
            "records": encoded.record_count,
            "refused": encoded.refused,
            "seconds": time.monotonic() - started,
            "precision": precision,
            **self.metrics,
        }

    def _note_new_blocks(self, settings: Training) -> None:
        """Say that more than the blocks which `expand_blocks` added is trained."""
        new_blocks = self._model_files.config.get(NEW_BLOCKS)
        if new_blocks and settings.train_blocks is None:
            what = tr(
                "the model has {count} new blocks, and others are trained too; `train_blocks: new` trains them alone",
                count=len(new_blocks),
            )
            self.context.progress.log(what)

    def _make_probes(self, settings: Training) -> ForgettingProbes | None:
        if settings.probe_every is None:
            return None
        probes = read_probes(self.inputs.optional_path("probes") or DEFAULT_PROBES)
        encode = probe_encoder(self.data.tokenizer, settings.max_seq_length)
        encoded = self.data.encode("probes", probes, encode, len(probes))
        return ForgettingProbes.from_settings(probes, encoded, settings, self.context.progress)

    def _precision(self, dist: DistContext) -> Precision:
        """The precision of the run; what `auto` chose is kept for a resume on another machine."""
        if self.settings.precision != "auto":
            return self.settings.precision
        file = self._scratch / "precision.json"
        if dist.is_main and not file.is_file():
            write_text(file, json.dumps(faster_precision(dist.device)))
        dist.barrier()
        return cast(Precision, parse_json(file.read_text(encoding="utf-8")))
