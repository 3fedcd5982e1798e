"""The training stages, one function for each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hanlin.config.settings import preference
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.mismatched import MismatchedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext
from hanlin.train.objectives.base import Objective
from hanlin.train.objectives.kto import Kto
from hanlin.train.objectives.next_token import next_token
from hanlin.train.objectives.pairwise import DPO_LOSSES, Orpo, SimPo
from hanlin.train.run import TrainingRun

PairSettings = preference.Dpo | preference.Orpo | preference.Simpo | preference.ReferenceLogprobs
AnswerSettings = preference.Kto | preference.ReferenceLogprobs


def pretrain(settings: Pretrain, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Train on every token of documents. Writes a model, or an adapter if `lora` is set; returns the metrics."""
    run = TrainingRun(settings, inputs, out, context)
    splits = [PackedDataset.pack_documents(encoded, settings.max_seq_length) for encoded in run.data.documents()]
    return run.train(splits, settings.batch_tokens // settings.max_seq_length, lambda model, *_: next_token(model))


def sft(settings: Sft, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Train on the assistant's turns of conversations. Writes a model, or an adapter if `lora` is set."""
    run = TrainingRun(settings, inputs, out, context)
    encoded_splits = run.data.conversations(settings)
    splits = [PackedDataset.pack_examples(encoded, settings.max_seq_length) for encoded in encoded_splits]
    return run.train(splits, settings.batch_tokens // settings.max_seq_length, lambda model, *_: next_token(model))


def dpo(settings: preference.Dpo, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Train on preferences against the model as it is at the start. Writes a model, or an adapter if `lora` is set."""
    run = TrainingRun(settings, inputs, out, context)
    loss = DPO_LOSSES[settings.loss]

    def make_objective(model: TrainModel, dist: DistContext, dataset: PackedDataset, split: str) -> Objective:
        reference = run.reference_logprobs(model, dist, split, pairs=dataset)
        return loss(settings.beta, settings.label_smoothing, reference, settings.sft_weight)

    return run.train(_pair_splits(run, settings), settings.batch_pairs, make_objective)


def orpo(settings: preference.Orpo, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Train on chosen answers and the odds of preferring them. Writes a model, or an adapter if `lora` is set."""
    run = TrainingRun(settings, inputs, out, context)
    return run.train(_pair_splits(run, settings), settings.batch_pairs, lambda *_: Orpo(settings.orpo_lambda))


def simpo(settings: preference.Simpo, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Train on preferences by mean log-probabilities. Writes a model, or an adapter if `lora` is set."""
    run = TrainingRun(settings, inputs, out, context)
    objective = SimPo(settings.beta, settings.gamma)
    return run.train(_pair_splits(run, settings), settings.batch_pairs, lambda *_: objective)


def kto(settings: preference.Kto, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Train on good and bad answers against the model as it is at the start. Writes a model, or an adapter if `lora` is
    set. Raises UserError if there are fewer than two answers.
    """
    run = TrainingRun(settings, inputs, out, context)
    splits = _answer_splits(run, settings)
    mismatched_by_folder = {datasets["answers"].encoded.folder: datasets["mismatched"] for datasets in splits}
    desirable = np.asarray(splits[0]["answers"].encoded.desirable)
    run.metrics |= {"desirable_answers": int(desirable.sum()), "undesirable_answers": int((~desirable).sum())}

    def make_objective(model: TrainModel, dist: DistContext, dataset: PackedDataset, split: str) -> Objective:
        mismatched = mismatched_by_folder[dataset.encoded.folder]
        reference = run.reference_logprobs(model, dist, split, answers=dataset, mismatched=mismatched)
        labels = np.asarray(dataset.encoded.desirable)
        return Kto(settings.beta, settings.desirable_weight, settings.undesirable_weight, labels, reference, mismatched)

    return run.train([datasets["answers"] for datasets in splits], settings.batch_answers, make_objective)


def reference_logprobs(
    settings: preference.ReferenceLogprobs, inputs: Inputs, out: Path, context: StageContext
) -> dict[str, Any]:
    """Compute the log-probabilities that `dpo` or `kto` compares a model with while it is trained, and write them."""
    run = TrainingRun(settings, inputs, out, context)
    if settings.objective == "kto":
        return run.write_reference_logprobs(_answer_splits(run, settings))
    return run.write_reference_logprobs([{"pairs": dataset} for dataset in _pair_splits(run, settings)])


def _pair_splits(run: TrainingRun, settings: PairSettings) -> list[PackedDataset]:
    """The preference pairs of each split, each a sample."""
    encoded_splits = run.data.preferences(settings)
    return [PackedDataset.from_records(encoded) for encoded in encoded_splits]


def _answer_splits(run: TrainingRun, settings: AnswerSettings) -> list[dict[str, PackedDataset]]:
    """For each split, the answers, each a sample, and their prompts with answers to other prompts."""
    splits = []
    for encoded in run.data.unpaired_preferences(settings):
        mismatched = MismatchedRecords.from_encoded(encoded, settings.max_seq_length)
        splits.append(
            {"answers": PackedDataset.from_records(encoded), "mismatched": PackedDataset.from_records(mismatched)}
        )
    return splits
