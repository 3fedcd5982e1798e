"""The work of the training stages: `Pretrain`, `Sft`, `Dpo`, `Orpo`, `Simpo` and `Kto`.

Owns the sequence of a run: encode, load, train, save. What each of these is, is said in its own file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from peft import PeftModel

from hanlin.chat.inspect import View, pieces
from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import save_tokenizer, template_of
from hanlin.config.settings import train as settings_of
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.core.context import Inputs, Job
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import HELD_OUT, Conversation, Document, Judgement, Preference, read_jsonl
from hanlin.models.adapters import count_parameters, save_adapter
from hanlin.models.folder.checks import check_model_folder, is_adapter
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.callbacks.forgetting import PACKAGED, Probes, encoder, read_probes
from hanlin.train.callbacks.validation import Heldout, take_weights
from hanlin.train.compute.model import Network, NumberFormat, open_network
from hanlin.train.dataset.mask_checks import Contract
from hanlin.train.dataset.mismatched import Mismatched
from hanlin.train.dataset.packed import Encode, EncodedRecords, Order, Rows, encode_records, open_encoded
from hanlin.train.distributed.context import Group
from hanlin.train.distributed.ddp import refuse_undivided
from hanlin.train.objectives.base import ChatEncoder, NextToken, Objective, encode_documents
from hanlin.train.objectives.pairwise import Dpo, Ipo, Kto, Orpo, SimPo
from hanlin.train.objectives.reference_logprobs import measure_reference, read_reference, write_reference
from hanlin.train.optim.trainable import NeededTokens, is_part, with_trained
from hanlin.train.precision import faster_format
from hanlin.train.trainer import begin, train

Record = TypeVar("Record", Document, Conversation, Preference)
Aligning = settings_of.Dpo | settings_of.Orpo | settings_of.Simpo | settings_of.Reference
ObjectiveOf = Callable[[Network, Group, Rows, str], Objective]
"""Makes the objective over some rows; the text begins the names of what is kept for them."""
CPU = torch.device("cpu")
SHOWN_UNITS = 3
"""Rows or pairs of the first step that `first_rows.json` shows."""


def pretrain(settings: Pretrain, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn every token of documents. Writes a model, or an adapter where `lora` is set, and returns the metrics."""
    run = _Run(settings, inputs, out, job)
    contract = Contract.of_documents(run.tokenizer)
    parts = run.encode(Document, lambda batch: encode_documents(batch, run.tokenizer), contract)
    rows = [Rows.cut(encoded, settings.row_length) for encoded in parts]
    return run.train(rows, settings.batch_tokens // settings.row_length, lambda *_: NextToken())


def sft(settings: Sft, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn the assistant's turns of conversations. Writes a model, or an adapter where `lora` is set."""
    run = _Run(settings, inputs, out, job)
    template = run.use_template(settings.template)
    encoder = ChatEncoder(template, settings.row_length, settings.over_length)
    parts = run.encode(Conversation, encoder.conversations, Contract.of_chats(template))
    rows = [Rows.packed(encoded, settings.row_length) for encoded in parts]
    return run.train(rows, settings.batch_tokens // settings.row_length, lambda *_: NextToken())


def dpo(settings: settings_of.Dpo, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn preferences against the model as it is at the start. Writes a model, or an adapter where `lora` is set."""
    run = _Run(settings, inputs, out, job)
    form = Ipo if settings.loss == "ipo" else Dpo

    def objective(network: Network, group: Group, rows: Rows, part: str) -> Objective:
        reference = run.reference(network, group, part, pairs=rows)
        return form(settings.beta, settings.label_smoothing, reference, settings.chosen_weight)

    return run.train(run.pairs(settings), settings.batch_pairs, objective)


def orpo(settings: settings_of.Orpo, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn chosen answers and the odds of preferring them. Writes a model, or an adapter where `lora` is set."""
    run = _Run(settings, inputs, out, job)
    return run.train(run.pairs(settings), settings.batch_pairs, lambda *_: Orpo(settings.odds_weight))


def simpo(settings: settings_of.Simpo, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn preferences by mean log-probabilities. Writes a model, or an adapter where `lora` is set."""
    run = _Run(settings, inputs, out, job)
    return run.train(run.pairs(settings), settings.batch_pairs, lambda *_: SimPo(settings.beta, settings.gamma))


def kto(settings: settings_of.Kto, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Learn from judged answers against the model as it is at the start. Writes a model, or an adapter where `lora` is
    set. Raises UserError when there are fewer than two answers."""
    run = _Run(settings, inputs, out, job)
    parts = run.answers(settings)
    mismatched = {rows["answers"].encoded.folder: rows["mismatched"] for rows in parts}
    good = np.asarray(parts[0]["answers"].encoded.good)
    run.figures |= {"good_answers": int(good.sum()), "bad_answers": int((~good).sum())}

    def objective(network: Network, group: Group, rows: Rows, part: str) -> Objective:
        others = mismatched[rows.encoded.folder]
        reference = run.reference(network, group, part, answers=rows, mismatched=others)
        verdicts = np.asarray(rows.encoded.good)
        return Kto(settings.beta, settings.good_weight, settings.bad_weight, verdicts, reference, others)

    return run.train([rows["answers"] for rows in parts], settings.batch_answers, objective)


def reference(settings: settings_of.Reference, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Measure what `dpo` or `kto` compares a model with while it is aligned. Writes the numbers."""
    run = _Run(settings, inputs, out, job)
    if settings.objective == "kto":
        return run.write_reference(run.answers(settings))
    return run.write_reference([{"pairs": rows} for rows in run.pairs(settings)])


class _Run:
    """What the stages have in common: the model's folder, the scratch folder, and the order of the work.

    Encoding comes before a group of processes begins (`Job.only_prepares`): the processes of a group find it done.
    """

    def __init__(self, settings: Training | settings_of.Reference, inputs: Inputs, out: Path, job: Job) -> None:
        self.settings, self.inputs, self.out, self.job = settings, inputs, out, job
        if isinstance(settings, Training):
            refuse_undivided(settings, job.mode)
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
        self.chats = False
        """Whether the data is rendered through the chat template."""

    def use_template(self, name: str | None) -> ChatTemplate:
        """The chat template to train with and to save. Raises UserError when there is none."""
        self.chats = True
        if name is not None:
            self.template = ChatTemplate.named(name, self.tokenizer)
        elif self.template is None:
            self.template = ChatTemplate.load(self.folder, self.tokenizer).portable()
        return self.template

    def pairs(self, settings: Aligning) -> list[Rows]:
        """The data's preference pairs, each a unit: those to learn, and those held out."""
        template = self.use_template(None)
        encoder = ChatEncoder(template, settings.row_length, settings.over_length)
        parts = self.encode(Preference, encoder.preferences, Contract.of_chats(template), width=2)
        return [Rows.paired(encoded) for encoded in parts]

    def answers(self, settings: settings_of.Kto | settings_of.Reference) -> list[dict[str, Rows]]:
        """The data's judged answers, each a unit, and their prompts with other answers: those to learn, and those held
        out."""
        template = self.use_template(None)
        encoder = ChatEncoder(template, settings.row_length, settings.over_length)
        parts = self.encode_judgements(encoder.judgements, Contract.of_chats(template))
        return [
            {
                "answers": Rows.paired(encoded),
                "mismatched": Rows.paired(Mismatched.of(encoded, settings.row_length)),
            }
            for encoded in parts
        ]

    def encode(self, record: type[Record], encode: Encode, contract: Contract, width: int = 1) -> list[EncodedRecords]:
        """Every record of the data as token ids, from files in the scratch folder, the contract proven on them; and
        behind them, where they are to be measured, those held out."""
        parts = []
        for part, files in self._files(record.noun).items():
            records = (row for file in files for row in read_jsonl(file, record))
            parts.append(self._encoded(part, records, encode, contract, width, sum(map(_lines, files))))
        return parts

    def encode_judgements(self, encode: Encode, contract: Contract) -> list[EncodedRecords]:
        """The same of judged answers, of pairs both."""
        parts = []
        for part, files in self._files(Judgement.noun, Preference.noun).items():
            paired = {file: _holds_pairs(file) for file in files}
            records = (row for file in files for row in _judgements(file, paired[file]))
            total = sum(_lines(file) * (2 if paired[file] else 1) for file in files)
            parts.append(self._encoded(part, records, encode, contract, 1, total))
        return parts

    def _files(self, *nouns: str) -> dict[str, list[Path]]:
        """The files of records by the part of the scratch folder that they are encoded in: `rows`, and `heldout`."""
        paths = self.inputs.many("data")
        files = {"rows": [file for path in paths for file in _record_files(path, *nouns)]}
        heldout = [path / HELD_OUT for path in paths if (path / HELD_OUT).is_file()]
        if not isinstance(self.settings, Training):
            return files | ({"heldout": heldout} if heldout else {})
        if self.settings.evaluate_every is not None:
            files["heldout"] = heldout
            if not heldout:
                raise UserError(
                    say(
                        f"evaluate_every is set, but the data holds no {HELD_OUT}",
                        f"设了 evaluate_every，但数据中没有 {HELD_OUT}",
                    ),
                    ", ".join(map(str, paths)),
                    say("set heldout_share in the stage that makes the data", "请在产生数据的阶段设置 heldout_share"),
                )
        return files

    def _encoded(
        self, part: str, records: Iterable[Any], encode: Encode, contract: Contract | None, width: int, total: int
    ) -> EncodedRecords:
        folder = self.scratch / part
        if "RANK" in os.environ and not self.job.only_prepares:  # a cluster may set it for what starts the group, too
            return open_encoded(folder)
        encoded = encode_records(
            records,
            encode,
            width=width,
            folder=folder,
            progress=self.job.progress,
            total=total,
            quicken=self.tokenizer.quicken,
            processes=self.job.cores,
        )
        if contract is not None:
            contract.check(encoded)
        return encoded

    def _probes(self, settings: Training) -> Probes | None:
        if settings.probe_every is None:
            return None
        probes = read_probes(self.inputs.maybe("probes") or PACKAGED)
        encode = encoder(self.tokenizer, settings.row_length)
        return Probes.of(probes, self._encoded("probes", probes, encode, None, 1, len(probes)), settings)

    def train(self, parts: Sequence[Rows], per_step: int, objective_of: ObjectiveOf) -> dict[str, Any]:
        """Train on the rows, measure those held out where there are some, and write what was trained."""
        settings = self.settings
        assert isinstance(settings, Training)
        rows, *rest = parts
        probes = self._probes(settings)
        if self.job.only_prepares:
            return {}
        group = Group.join()
        order = Order.of(len(rows.units), per_step, self.job.seed)
        if group.first:
            self._show_first(rows, order)
        number_format = self._number_format(group)
        needed = NeededTokens.of(rows.encoded, self.template) if self.chats and self.template else None

        def opened(device: torch.device) -> Network:
            return open_network(self.folder, settings, self.job.seed, device, number_format, needed)

        network = opened(group.device if self.job.mode == "ddp" else CPU)
        parameters = count_parameters(network.model)
        begun = begin(network, settings, group, self.job, self.out)
        network.choose_attention(settings.attention)  # where the weights lie now
        objective = objective_of(network, group, rows, "")
        heldout = None
        if rest:
            heldout = Heldout.of(rest[0], objective_of(network, group, rest[0], "heldout-"), settings)
            self.figures["heldout_records"] = len(rest[0].encoded)
        metrics = train(
            network,
            objective,
            rows,
            order,
            settings=settings,
            group=group,
            job=self.job,
            out=self.out,
            heldout=heldout,
            probes=probes,
            begun=begun,
        )
        whole = begun.placement.whole(lambda: opened(CPU))
        if group.first:
            if settings.keep_best and metrics.get("best_step") is not None:
                take_weights(self.scratch, metrics["best_step"], whole)
            self._save(whole, settings)
        group.leave()
        return {
            **metrics,
            "records": len(rows.encoded),
            "refused": rows.encoded.refused,
            "changed": rows.encoded.changed,
            "rows": len(rows.units),
            "row_fill": float(rows.sizes.mean()) / settings.row_length,
            "precision": number_format,
            "processes": group.size,
            "mode": self.job.mode,
            "parameters": parameters.total,
            "trainable_parameters": parameters.trainable,
            **({"untrained_tokens": list(network.untrained)} if network.untrained else {}),
            **self.figures,
        }

    def reference(self, network: Network, group: Group, part: str, **rows: Rows) -> np.ndarray:
        """Log-probabilities of all answers under the model as it is now, [units, answers of a unit]; several rows, of
        the same units, stand side by side. Read from an artifact where one is given."""
        given = self.inputs.maybe("reference")
        (first, *_) = rows.values()
        if given is not None:
            width = sum(one.encoded.width for one in rows.values())
            name = "heldout" if part else "rows"
            found = read_reference(given, name, first.encoded, width, self._number_format(group))
        else:
            found = np.concatenate(
                [
                    measure_reference(
                        network,
                        group,
                        one,
                        folder=self.scratch / "reference",
                        name=part + name,
                        pass_tokens=self.settings.pass_tokens,
                        progress=self.job.progress,
                    )
                    for name, one in rows.items()
                ],
                axis=1,
            )
        self.figures[f"{part.replace('-', '_')}reference_sha256"] = hashlib.sha256(found.tobytes()).hexdigest()
        return found

    def write_reference(self, parts: Sequence[dict[str, Rows]]) -> dict[str, Any]:
        """Measure the reference of the data's parts, and write it."""
        if self.job.only_prepares:
            return {}
        group = Group.join()
        number_format = self._number_format(group)
        model = load_model(self.folder, dtype=number_format)
        network = Network(model, group.device, number_format)
        network.choose_attention(self.settings.attention)
        begun = time.monotonic()
        found = {}
        for part, rows in zip(("rows", "heldout"), parts, strict=False):
            (first, *_) = rows.values()
            values = self.reference(network, group, "" if part == "rows" else f"{part}-", **rows)
            found[part] = values, first.encoded
        if group.first:
            write_reference(self.out, found, number_format)
        group.leave()
        encoded = found["rows"][1]
        return {
            "records": len(encoded),
            "refused": encoded.refused,
            "seconds": time.monotonic() - begun,
            "precision": number_format,
            **self.figures,
        }

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
                documents.append(
                    View(record, parts[part], pieces(self.tokenizer, ids, rows.encoded.learn[first:last])).to_json()
                )
            shown.append({"documents": documents})
        text = json.dumps({"row_length": self.settings.row_length, "rows": shown}, ensure_ascii=False)
        _write_text(self.out / "first_rows.json", text + "\n")

    def _save(self, network: Network, settings: Training) -> None:
        if isinstance(network.model, PeftModel) and settings.lora is not None:
            save_adapter(network.model, self.out, base=self.folder, start=network.start)
            save_tokenizer(self.tokenizer, self.template, self.out)
            return
        if is_part(settings):
            base = load_model(self.folder, dtype="auto")
            state = with_trained(base.state_dict(), network.model)
            save_model(base, self.out, tokenizer=self.tokenizer, template=self.template, state=state)
            return
        assert not isinstance(network.model, PeftModel)
        save_model(network.model, self.out, tokenizer=self.tokenizer, template=self.template, dtype=self.files.dtype)


def _record_files(path: Path, *nouns: str) -> list[Path]:
    """The files of records in an artifact: `documents.jsonl`, or several of them in the order of their names."""
    files = [path] if path.is_file() else [file for noun in nouns for file in sorted(path.glob(f"{noun}s*.jsonl"))]
    if not files:
        wanted = " / ".join(f"{noun}s.jsonl" for noun in nouns)
        raise UserError(say(f"there is no {wanted} here", f"这里没有 {wanted}"), path)
    return files


def _holds_pairs(file: Path) -> bool:
    """Whether the records of a file are pairs, as its first line says; what is neither is named by its reader."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and "chosen" in row


def _judgements(file: Path, paired: bool) -> Iterator[Judgement]:
    if not paired:
        yield from read_jsonl(file, Judgement)
        return
    for pair in read_jsonl(file, Preference):
        yield from Judgement.of_pair(pair)


def _lines(file: Path) -> int:
    with file.open("rb") as source:
        return sum(1 for line in source if line.strip())


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(aside, path)
