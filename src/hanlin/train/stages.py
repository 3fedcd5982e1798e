"""The work of the training stages: `Pretrain`, `Sft` and `Dpo`.

Owns the sequence of a run: encode, load, train, save. What each of these is, is said in its own file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from peft import PeftModel

from hanlin.errors import UserError
from hanlin.job import Inputs, Job
from hanlin.language import say
from hanlin.model.adapters import count_parameters, save_adapter
from hanlin.model.saving import save_model, save_tokenizer, template_of
from hanlin.model_files import check_model_folder, is_adapter
from hanlin.records import Conversation, Document, Preference, read_jsonl
from hanlin.settings.train import Dpo as DpoSettings
from hanlin.settings.train import Pretrain, Sft, Training
from hanlin.tokens.chat_template import ChatTemplate
from hanlin.tokens.tokenizer import Tokenizer
from hanlin.tokens.view import View, pieces
from hanlin.train.contract import Contract
from hanlin.train.loop import Group, train
from hanlin.train.network import Network, NumberFormat, open_network
from hanlin.train.objectives import (
    ChatEncoder,
    Dpo,
    NextToken,
    Objective,
    encode_documents,
    pair_log_probabilities,
)
from hanlin.train.precision import faster_format
from hanlin.train.rows import WHOLE, Encode, EncodedRecords, Order, Rows, encode_records, open_encoded

Record = TypeVar("Record", Document, Conversation, Preference)
SHOWN_UNITS = 3
"""Rows or pairs of the first step that `first_rows.json` shows."""
PAIR_BLOCK = 256
"""Pairs whose reference is written at once: what a killed run may have to compute again."""


def pretrain(settings: Pretrain, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn every token of documents. Writes a model, or an adapter where `lora` is set, and returns the metrics."""
    run = _Run(settings, inputs, out, job)
    contract = Contract.of_documents(run.tokenizer)
    encoded = run.encode(Document, lambda batch: encode_documents(batch, run.tokenizer), contract)
    rows = Rows.cut(encoded, settings.row_length)
    return run.train(rows, settings.batch_tokens // settings.row_length, lambda network, group: NextToken())


def sft(settings: Sft, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn the assistant's turns of conversations. Writes a model, or an adapter where `lora` is set."""
    run = _Run(settings, inputs, out, job)
    template = run.use_template(settings.template)
    encoder = ChatEncoder(template, settings.row_length, settings.over_length)
    encoded = run.encode(Conversation, encoder.conversations, Contract.of_chats(template))
    rows = Rows.packed(encoded, settings.row_length)
    return run.train(rows, settings.batch_tokens // settings.row_length, lambda network, group: NextToken())


def dpo(settings: DpoSettings, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn preferences against the model as it is at the start. Writes a model, or an adapter where `lora` is set."""
    run = _Run(settings, inputs, out, job)
    template = run.use_template(None)
    encoder = ChatEncoder(template, settings.row_length, settings.over_length)
    encoded = run.encode(Preference, encoder.preferences, Contract.of_chats(template), width=2)
    rows = Rows.paired(encoded)

    def objective(network: Network, group: Group) -> Objective:
        reference = run.reference(network, rows, group)
        run.figures["reference_sha256"] = hashlib.sha256(reference.tobytes()).hexdigest()
        return Dpo(settings.beta, settings.label_smoothing, reference, settings.chosen_weight)

    return run.train(rows, settings.batch_pairs, objective)


class _Run:
    """What the stages have in common: the model's folder, the scratch folder, and the order of the work.

    Encoding comes before the processes of a group join: one process encodes while the others wait for its files, and no
    time limit of a collective operation runs meanwhile.
    """

    def __init__(self, settings: Training, inputs: Inputs, out: Path, job: Job) -> None:
        self.settings, self.inputs, self.out, self.job = settings, inputs, out, job
        # said explicitly, the number of threads is fixed: MKL may otherwise change it from product to product, and sums
        # of other parts differ in their last bits
        torch.set_num_threads(torch.get_num_threads())
        self.folder = inputs.one("model")
        if is_adapter(self.folder):
            raise UserError(
                say("training starts from a whole model, and this is an adapter", "训练须从完整模型开始，而这是适配器"),
                self.folder,
                say("merge it first, with a stage of kind `merge`", "请先用 merge 阶段合并"),
            )
        self.files = check_model_folder(self.folder)
        self.tokenizer = Tokenizer.load(self.folder)
        self.template = template_of(self.tokenizer)
        self.scratch = job.scratch(out)
        self.figures: dict[str, Any] = {}

    def use_template(self, name: str | None) -> ChatTemplate:
        """The chat template to train with and to save. Raises UserError when there is none."""
        if name is not None:
            self.template = ChatTemplate.named(name, self.tokenizer)
        elif self.template is None:
            self.template = ChatTemplate.load(self.folder, self.tokenizer).portable()
        return self.template

    def encode(self, record: type[Record], encode: Encode, contract: Contract, width: int = 1) -> EncodedRecords:
        """Every record of the data as token ids, from files in the scratch folder, the contract proven on them."""
        folder = self.scratch / "rows"
        if os.environ.get("RANK", "0") == "0":
            files = [file for path in self.inputs.many("data") for file in _record_files(path, record.noun)]
            total = sum(_lines(file) for file in files)
            records = (row for file in files for row in read_jsonl(file, record))
            encoded = encode_records(
                records, encode, width=width, folder=folder, progress=self.job.progress, total=total
            )
        else:
            while not (folder / WHOLE).is_file():
                time.sleep(0.2)
            encoded = open_encoded(folder)
        contract.check(encoded)
        return encoded

    def train(self, rows: Rows, per_step: int, objective_of: Callable[[Network, Group], Objective]) -> dict[str, Any]:
        """Train on the rows and write what was trained."""
        group = Group.join()
        order = Order.of(len(rows.units), per_step, self.job.seed)
        if group.first:
            self._show_first(rows, order)
        number_format = self._number_format(group)
        network = open_network(self.folder, self.settings, self.job.seed, group.device, number_format)
        objective = objective_of(network, group)
        metrics = train(
            network, objective, rows, order, settings=self.settings, group=group, job=self.job, out=self.out
        )
        if group.first:
            self._save(network)
        group.leave()
        parameters = count_parameters(network.model)
        return {
            **metrics,
            "records": len(rows.encoded),
            "refused": rows.encoded.refused,
            "changed": rows.encoded.changed,
            "rows": len(rows.units),
            "row_fill": float(rows.sizes.mean()) / self.settings.row_length,
            "precision": number_format,
            "processes": group.size,
            "parameters": parameters.total,
            "trainable_parameters": parameters.trainable,
            **self.figures,
        }

    def reference(self, network: Network, rows: Rows, group: Group) -> np.ndarray:
        """Log-probabilities [pairs, 2] of the answers under the model as it is now, in blocks that outlive a kill."""
        network.model.eval()
        folder = self.scratch / "reference"
        folder.mkdir(exist_ok=True)
        blocks = []
        for start in range(0, len(rows.units), PAIR_BLOCK):
            units = range(start, min(start + PAIR_BLOCK, len(rows.units)))
            file = folder / f"pairs-{start:08d}.npy"
            known = torch.tensor([float(file.is_file())], device=group.device)
            group.add_up([known])
            if float(known) < group.size:
                found = torch.zeros((len(units), 2), device=group.device)
                with torch.no_grad():
                    for batch in rows.passes(units[group.rank :: group.size], self.settings.pass_tokens):
                        places = [unit - start for unit in batch.units]
                        found[places] = pair_log_probabilities(network, batch.to(group.device))
                group.add_up([found])
                if group.first:
                    _write_array(file, found.cpu().numpy())
                blocks.append(found.cpu().numpy())
            else:
                blocks.append(np.load(file))
            self.job.progress.at(units[-1] + 1, len(rows.units), say("reference pairs", "对参考值"))
        return np.concatenate(blocks)

    def _number_format(self, group: Group) -> NumberFormat:
        """The number format of the run; what was chosen is kept for a resume on another machine."""
        if self.settings.precision != "auto":
            return self.settings.precision
        file = self.scratch / "precision.json"
        if group.first and not file.is_file():
            _write_text(file, json.dumps(faster_format(group.device)))
        group.wait()
        return cast(NumberFormat, json.loads(file.read_text(encoding="utf-8")))

    def _show_first(self, rows: Rows, order: Order) -> None:
        """Write `first_rows.json`: the first rows that are learnt from, token by token, and which tokens are learnt."""
        shown = []
        parts = ("chosen", "rejected") if rows.encoded.width == 2 else ("",)
        for unit in order.units_of(0)[:SHOWN_UNITS]:
            documents = []
            for segment in rows.units[unit]:
                first = int(rows.encoded.starts[segment.example]) + segment.start
                last = first + segment.end - segment.start + 1
                place, part = divmod(segment.example, rows.encoded.width)
                (record,) = rows.encoded.record_ids([place])
                ids = [int(number) for number in rows.encoded.ids[first:last]]
                learn = [bool(learnt) for learnt in rows.encoded.learn[first:last]]
                documents.append(View(record, parts[part], pieces(self.tokenizer, ids, learn)).to_json())
            shown.append({"documents": documents})
        text = json.dumps({"row_length": self.settings.row_length, "rows": shown}, ensure_ascii=False)
        _write_text(self.out / "first_rows.json", text + "\n")

    def _save(self, network: Network) -> None:
        if isinstance(network.model, PeftModel):
            save_adapter(network.model, self.out, base=self.folder)
            save_tokenizer(self.tokenizer, self.template, self.out)
            return
        save_model(network.model, self.out, tokenizer=self.tokenizer, template=self.template, dtype=self.files.dtype)


def _record_files(path: Path, noun: str) -> list[Path]:
    """The files of records in an artifact: `documents.jsonl`, or several of them in the order of their names."""
    files = [path] if path.is_file() else sorted(path.glob(f"{noun}s*.jsonl"))
    if not files:
        raise UserError(say(f"there is no {noun}s.jsonl here", f"这里没有 {noun}s.jsonl"), path)
    return files


def _lines(file: Path) -> int:
    with file.open("rb") as source:
        return sum(1 for line in source if line.strip())


def _write_array(path: Path, values: np.ndarray) -> None:
    aside = path.with_name(path.name + ".writing")
    with aside.open("wb") as file:
        np.save(file, values)
    os.replace(aside, path)


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(aside, path)
