"""One training run: load, encode, train, save."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from peft import PeftModel

from hanlin.chat.inspect import ExampleView, view_tokens
from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template, save_tokenizer
from hanlin.config.settings import preference
from hanlin.config.settings.train import Training
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import (
    VALIDATION_FILE,
    count_records,
    holds_pairs,
    read_unpaired_preferences,
    require_record_files,
)
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference, read_jsonl
from hanlin.models.adapters import count_parameters, save_adapter
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.callbacks.forgetting import PACKAGED, Probes, encoder, read_probes
from hanlin.train.callbacks.validation import Validation, take_weights
from hanlin.train.compute.model import Precision, TrainModel
from hanlin.train.compute.runtime import faster_precision
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.encoded import Encode, EncodedRecords, encode_records, open_encoded
from hanlin.train.dataset.mask_checks import MaskRules
from hanlin.train.dataset.mismatched import MismatchedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.sampler import Sampler
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.strategy import check_can_shard
from hanlin.train.load import load_train_model
from hanlin.train.objectives.base import Objective
from hanlin.train.objectives.reference_logprobs import measure_reference, read_reference, write_reference
from hanlin.train.optim.trainable import NeededTokens, trains_subset
from hanlin.train.save import merge_trained
from hanlin.train.trainer import begin, train

Record = TypeVar("Record", Document, Conversation, Preference)


Aligning = preference.Dpo | preference.Orpo | preference.Simpo | preference.ReferenceLogprobs


ObjectiveOf = Callable[[TrainModel, DistContext, PackedDataset, str], Objective]


CPU = torch.device("cpu")


SHOWN_UNITS = 3


class Run:
    """What the stages have in common: the model's folder, the scratch folder, and the order of the work.

    Encoding comes before a group of processes begins (`StageContext.prepare_only`): the processes of a group find it done.
    """

    def __init__(
        self, settings: Training | preference.ReferenceLogprobs, inputs: Inputs, out: Path, context: StageContext
    ) -> None:
        self.settings, self.inputs, self.out, self.context = settings, inputs, out, context
        if isinstance(settings, Training):
            check_can_shard(settings, context.mode)
        # said explicitly, the number of threads is fixed: MKL may otherwise change it from product to product, and sums
        # of other parts differ in their last bits
        torch.set_num_threads(torch.get_num_threads())
        self.folder = inputs.path("model")
        refuse_adapter(self.folder)
        self.files = check_model_folder(self.folder)
        self.tokenizer = Tokenizer.load(self.folder)
        self.template = find_template(self.tokenizer)
        self.scratch = context.scratch_folder(out)
        self.figures: dict[str, Any] = {}
        self.chats = False
        """Whether the data is rendered through the chat template."""

    def use_template(self, name: str | None) -> ChatTemplate:
        """The chat template to train with and to save. Raises UserError when there is none."""
        self.chats = True
        if name is not None:
            self.template = ChatTemplate.from_packaged(name, self.tokenizer)
        elif self.template is None:
            self.template = ChatTemplate.load(self.folder, self.tokenizer).to_portable()
        return self.template

    def pairs(self, settings: Aligning) -> list[PackedDataset]:
        """The data's preference pairs, each a unit: those to learn, and those held out."""
        template = self.use_template(None)
        encoder = ChatEncoder(template, settings.max_seq_length, settings.overlong)
        parts = self.encode(Preference, encoder.preferences, MaskRules.for_chats(template), width=2)
        return [PackedDataset.from_records(encoded) for encoded in parts]

    def answers(self, settings: preference.Kto | preference.ReferenceLogprobs) -> list[dict[str, PackedDataset]]:
        """The data's judged answers, each a unit, and their prompts with other answers: those to learn, and those held
        out."""
        template = self.use_template(None)
        encoder = ChatEncoder(template, settings.max_seq_length, settings.overlong)
        parts = self.encode_judgements(encoder.unpaired_preferences, MaskRules.for_chats(template))
        return [
            {
                "answers": PackedDataset.from_records(encoded),
                "mismatched": PackedDataset.from_records(
                    MismatchedRecords.from_encoded(encoded, settings.max_seq_length)
                ),
            }
            for encoded in parts
        ]

    def encode(self, record: type[Record], encode: Encode, contract: MaskRules, width: int = 1) -> list[EncodedRecords]:
        """Every record of the data as token ids, from files in the scratch folder, the contract proven on them; and
        behind them, where they are to be measured, those held out."""
        parts = []
        for part, files in self._files(record.kind).items():
            records = (row for file in files for row in read_jsonl(file, record))
            parts.append(self._encoded(part, records, encode, contract, width, sum(map(count_records, files))))
        return parts

    def encode_judgements(self, encode: Encode, contract: MaskRules) -> list[EncodedRecords]:
        """The same of judged answers, of pairs both."""
        parts = []
        for part, files in self._files(UnpairedPreference.kind, Preference.kind).items():
            paired = {file: holds_pairs(file) for file in files}
            records = (row for file in files for row in read_unpaired_preferences(file, paired[file]))
            total = sum(count_records(file) * (2 if paired[file] else 1) for file in files)
            parts.append(self._encoded(part, records, encode, contract, 1, total))
        return parts

    def _files(self, *kinds: str) -> dict[str, list[Path]]:
        """The files of records by the part of the scratch folder that they are encoded in: `rows`, and `validation`."""
        paths = self.inputs.paths("data")
        files = {"rows": [file for path in paths for file in require_record_files(path, *kinds)]}
        validation = [path / VALIDATION_FILE for path in paths if (path / VALIDATION_FILE).is_file()]
        if not isinstance(self.settings, Training):
            return files | ({"validation": validation} if validation else {})
        if self.settings.eval_steps is not None:
            files["validation"] = validation
            if not validation:
                raise UserError(
                    say(
                        f"eval_steps is set, but the data holds no {VALIDATION_FILE}",
                        f"设了 eval_steps，但数据中没有 {VALIDATION_FILE}",
                    ),
                    ", ".join(map(str, paths)),
                    say(
                        "set validation_fraction in the stage that makes the data",
                        "请在产生数据的阶段设置 validation_fraction",
                    ),
                )
        return files

    def _encoded(
        self, part: str, records: Iterable[Any], encode: Encode, contract: MaskRules | None, width: int, total: int
    ) -> EncodedRecords:
        folder = self.scratch / part
        if (
            "RANK" in os.environ and not self.context.prepare_only
        ):  # a cluster may set it for what starts the group, too
            return open_encoded(folder)
        encoded = encode_records(
            records,
            encode,
            width=width,
            folder=folder,
            progress=self.context.progress,
            total=total,
            warm_up=self.tokenizer.enable_fast_encoder,
            processes=self.context.cores,
        )
        if contract is not None:
            contract.check(encoded)
        return encoded

    def _probes(self, settings: Training) -> Probes | None:
        if settings.probe_every is None:
            return None
        probes = read_probes(self.inputs.optional_path("probes") or PACKAGED)
        encode = encoder(self.tokenizer, settings.max_seq_length)
        return Probes.of(probes, self._encoded("probes", probes, encode, None, 1, len(probes)), settings)

    def train(self, parts: Sequence[PackedDataset], per_step: int, objective_of: ObjectiveOf) -> dict[str, Any]:
        """Train on the rows, measure those held out where there are some, and write what was trained."""
        settings = self.settings
        assert isinstance(settings, Training)
        rows, *rest = parts
        probes = self._probes(settings)
        if self.context.prepare_only:
            return {}
        dist = DistContext.initialize()
        sampler = Sampler.for_batch_size(len(rows.samples), per_step, self.context.seed)
        if dist.is_main:
            self._show_first(rows, sampler)
        precision = self._precision(dist)
        needed = NeededTokens.of(rows.encoded, self.template) if self.chats and self.template else None

        def opened(device: torch.device) -> TrainModel:
            return load_train_model(self.folder, settings, self.context.seed, device, precision, needed)

        model = opened(dist.device if self.context.mode == "ddp" else CPU)
        parameters = count_parameters(model.hf_model)
        begun = begin(model, settings, dist, self.context, self.out)
        model.set_attention(settings.attention)  # where the weights lie now
        objective = objective_of(model, dist, rows, "")
        validation = None
        if rest:
            validation = Validation.of(rest[0], objective_of(model, dist, rest[0], "validation-"), settings)
            self.figures["validation_records"] = len(rest[0].encoded)
        metrics = train(
            model,
            objective,
            rows,
            sampler,
            settings=settings,
            dist=dist,
            context=self.context,
            out=self.out,
            validation=validation,
            probes=probes,
            begun=begun,
        )
        whole = begun.strategy.full_model(lambda: opened(CPU))
        if dist.is_main:
            if settings.save_best and metrics.get("best_step") is not None:
                take_weights(self.scratch, metrics["best_step"], whole)
            self._save(whole, settings)
        dist.shutdown()
        return {
            **metrics,
            "records": len(rows.encoded),
            "refused": rows.encoded.refused,
            "changed": rows.encoded.changed,
            "rows": len(rows.samples),
            "packing_efficiency": float(rows.sample_lengths.mean()) / settings.max_seq_length,
            "precision": precision,
            "processes": dist.world_size,
            "mode": self.context.mode,
            "parameters": parameters.total,
            "trainable_parameters": parameters.trainable,
            **({"untrained_tokens": list(model.untrained_tokens)} if model.untrained_tokens else {}),
            **self.figures,
        }

    def reference(self, model: TrainModel, dist: DistContext, part: str, **rows: PackedDataset) -> np.ndarray:
        """Log-probabilities of all answers under the model as it is now, [units, answers of a unit]; several rows, of
        the same units, stand side by side. Read from an artifact where one is given."""
        given = self.inputs.optional_path("reference")
        (first, *_) = rows.values()
        if given is not None:
            width = sum(one.encoded.width for one in rows.values())
            name = "validation" if part else "rows"
            found = read_reference(given, name, first.encoded, width, self._precision(dist))
        else:
            found = np.concatenate(
                [
                    measure_reference(
                        model,
                        dist,
                        one,
                        folder=self.scratch / "reference",
                        name=part + name,
                        micro_batch_tokens=self.settings.micro_batch_tokens,
                        progress=self.context.progress,
                    )
                    for name, one in rows.items()
                ],
                axis=1,
            )
        self.figures[f"{part.replace('-', '_')}reference_sha256"] = hashlib.sha256(found.tobytes()).hexdigest()
        return found

    def write_reference(self, parts: Sequence[dict[str, PackedDataset]]) -> dict[str, Any]:
        """Measure the reference of the data's parts, and write it."""
        if self.context.prepare_only:
            return {}
        dist = DistContext.initialize()
        precision = self._precision(dist)
        model = TrainModel(load_model(self.folder, dtype=precision), dist.device, precision)
        model.set_attention(self.settings.attention)
        begun = time.monotonic()
        found = {}
        for part, rows in zip(("rows", "validation"), parts, strict=False):
            (first, *_) = rows.values()
            values = self.reference(model, dist, "" if part == "rows" else f"{part}-", **rows)
            found[part] = values, first.encoded
        if dist.is_main:
            write_reference(self.out, found, precision)
        dist.shutdown()
        encoded = found["rows"][1]
        return {
            "records": len(encoded),
            "refused": encoded.refused,
            "seconds": time.monotonic() - begun,
            "precision": precision,
            **self.figures,
        }

    def _precision(self, dist: DistContext) -> Precision:
        """The number format of the run; what was chosen is kept for a resume on another machine."""
        if self.settings.precision != "auto":
            return self.settings.precision
        file = self.scratch / "precision.json"
        if dist.is_main and not file.is_file():
            _write_text(file, json.dumps(faster_precision(dist.device)))
        dist.barrier()
        return cast(Precision, json.loads(file.read_text(encoding="utf-8")))

    def _show_first(self, rows: PackedDataset, sampler: Sampler) -> None:
        """Write `first_rows.json`: the first rows that are learned from, token by token, and which tokens are learned."""
        shown = []
        parts = ("chosen", "rejected") if rows.encoded.width == 2 else ("",)
        for unit in sampler.step_indices(0)[:SHOWN_UNITS]:
            documents = []
            for segment in rows.samples[unit]:
                first = int(rows.encoded.starts[segment.example]) + segment.start
                last = first + segment.end - segment.start + 1
                place, part = divmod(segment.example, rows.encoded.width)
                (record,) = rows.encoded.record_ids([place])
                ids = [int(number) for number in rows.encoded.ids[first:last]]
                documents.append(
                    ExampleView(
                        record, parts[part], view_tokens(self.tokenizer, ids, rows.encoded.loss_mask[first:last])
                    ).to_json()
                )
            shown.append({"documents": documents})
        text = json.dumps({"max_seq_length": self.settings.max_seq_length, "rows": shown}, ensure_ascii=False)
        _write_text(self.out / "first_rows.json", text + "\n")

    def _save(self, model: TrainModel, settings: Training) -> None:
        if isinstance(model.hf_model, PeftModel) and settings.lora is not None:
            save_adapter(model.hf_model, self.out, base=self.folder, initial=model.adapter_init)
            save_tokenizer(self.tokenizer, self.template, self.out)
            return
        if trains_subset(settings):
            base = load_model(self.folder, dtype="auto")
            state = merge_trained(base.state_dict(), model.hf_model)
            save_model(base, self.out, tokenizer=self.tokenizer, template=self.template, state=state)
            return
        assert not isinstance(model.hf_model, PeftModel)
        save_model(model.hf_model, self.out, tokenizer=self.tokenizer, template=self.template, dtype=self.files.dtype)


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(aside, path)
