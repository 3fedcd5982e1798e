"""The work of the training stages: `Pretrain`, `Sft`, `Dpo`, `Orpo`, `Simpo` and `Kto`.

Owns the sequence of a run: encode, load, train, save. What each of these is, is said in its own file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hanlin.config.settings import preference
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Conversation, Document
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder, encode_documents
from hanlin.train.dataset.mask_checks import MaskRules
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext
from hanlin.train.objectives.base import Objective
from hanlin.train.objectives.kto import Kto
from hanlin.train.objectives.next_token import NextToken
from hanlin.train.objectives.pairwise import Dpo, Ipo, Orpo, SimPo
from hanlin.train.run import Run

"""Makes the objective over some rows; the text begins the names of what is kept for them."""
"""Rows or pairs of the first step that `first_rows.json` shows."""


def pretrain(settings: Pretrain, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Learn every token of documents. Writes a model, or an adapter where `lora` is set, and returns the metrics."""
    run = Run(settings, inputs, out, context)
    contract = MaskRules.for_documents(run.tokenizer)
    parts = run.encode(Document, lambda batch: encode_documents(batch, run.tokenizer), contract)
    rows = [PackedDataset.pack_documents(encoded, settings.max_seq_length) for encoded in parts]
    return run.train(rows, settings.batch_tokens // settings.max_seq_length, lambda *_: NextToken())


def sft(settings: Sft, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Learn the assistant's turns of conversations. Writes a model, or an adapter where `lora` is set."""
    run = Run(settings, inputs, out, context)
    template = run.use_template(settings.template)
    encoder = ChatEncoder(template, settings.max_seq_length, settings.overlong)
    parts = run.encode(Conversation, encoder.conversations, MaskRules.for_chats(template))
    rows = [PackedDataset.pack_examples(encoded, settings.max_seq_length) for encoded in parts]
    return run.train(rows, settings.batch_tokens // settings.max_seq_length, lambda *_: NextToken())


def dpo(settings: preference.Dpo, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Learn preferences against the model as it is at the start. Writes a model, or an adapter where `lora` is set."""
    run = Run(settings, inputs, out, context)
    form = Ipo if settings.loss == "ipo" else Dpo

    def objective(model: TrainModel, dist: DistContext, rows: PackedDataset, part: str) -> Objective:
        reference = run.reference(model, dist, part, pairs=rows)
        return form(settings.beta, settings.label_smoothing, reference, settings.sft_weight)

    return run.train(run.pairs(settings), settings.batch_pairs, objective)


def orpo(settings: preference.Orpo, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Learn chosen answers and the odds of preferring them. Writes a model, or an adapter where `lora` is set."""
    run = Run(settings, inputs, out, context)
    return run.train(run.pairs(settings), settings.batch_pairs, lambda *_: Orpo(settings.orpo_lambda))


def simpo(settings: preference.Simpo, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Learn preferences by mean log-probabilities. Writes a model, or an adapter where `lora` is set."""
    run = Run(settings, inputs, out, context)
    return run.train(run.pairs(settings), settings.batch_pairs, lambda *_: SimPo(settings.beta, settings.gamma))


def kto(settings: preference.Kto, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Learn from judged answers against the model as it is at the start. Writes a model, or an adapter where `lora` is
    set. Raises UserError when there are fewer than two answers."""
    run = Run(settings, inputs, out, context)
    parts = run.answers(settings)
    mismatched = {rows["answers"].encoded.folder: rows["mismatched"] for rows in parts}
    good = np.asarray(parts[0]["answers"].encoded.desirable)
    run.figures |= {"good_answers": int(good.sum()), "bad_answers": int((~good).sum())}

    def objective(model: TrainModel, dist: DistContext, rows: PackedDataset, part: str) -> Objective:
        others = mismatched[rows.encoded.folder]
        reference = run.reference(model, dist, part, answers=rows, mismatched=others)
        verdicts = np.asarray(rows.encoded.desirable)
        return Kto(settings.beta, settings.desirable_weight, settings.undesirable_weight, verdicts, reference, others)

    return run.train([rows["answers"] for rows in parts], settings.batch_answers, objective)


def reference_logprobs(
    settings: preference.ReferenceLogprobs, inputs: Inputs, out: Path, context: StageContext
) -> dict[str, Any]:
    """Measure what `dpo` or `kto` compares a model with while it is aligned. Writes the numbers."""
    run = Run(settings, inputs, out, context)
    if settings.objective == "kto":
        return run.write_reference(run.answers(settings))
    return run.write_reference([{"pairs": rows} for rows in run.pairs(settings)])
