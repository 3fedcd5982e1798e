"""What a model could do before, measured while it learns something else: English and arithmetic in Chinese training.

Owns the probes and their measuring, so that forgetting is seen while it happens. Does not own the loss on records like
those that are learned (`validation`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hanlin.chat.special_tokens import MASK_BYTE
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encoded import EncodedRecord, EncodedRecords, Example
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext

PACKAGED = Path(__file__).with_name("probes.jsonl")
"""English sentences and sums, written for this: taken where a recipe names no file of its own."""
_TOPIC = re.compile(r"[a-z][a-z0-9_]*")
AT_START = "_at_start"


@dataclass(frozen=True, slots=True)
class Probe:
    """A text that is read, or a question and the answer that is expected word for word; `topic` is what it tells of."""

    id: str
    topic: str
    text: str
    answer: str = ""


def read_probes(file: Path) -> list[Probe]:
    """The probes of a JSON Lines file, rows of `topic` with `text`, or with `question` and `answer`.

    Raises UserError with the line that is none of these.
    """
    probes = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            probes.append(_probe(line, f"{file}:{number}"))
    if not probes:
        raise UserError(say("there is no probe here", "这里没有探针"), file, None)
    return probes


def _probe(line: str, where: str) -> Probe:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(say("not JSON", "不是 JSON"), where, None) from error
    given = {name: row.get(name) for name in ("topic", "text", "question", "answer")} if isinstance(row, dict) else {}
    words = {name: value for name, value in given.items() if isinstance(value, str) and value}
    if words.keys() not in ({"topic", "text"}, {"topic", "question", "answer"}) or not _TOPIC.fullmatch(words["topic"]):
        raise UserError(
            say("not a probe", "不是探针"),
            where,
            say(
                'write {"topic": "english", "text": ...} or {"topic": "arithmetic", "question": ..., "answer": ...}',
                '请写成 {"topic": "english", "text": …} 或 {"topic": "arithmetic", "question": …, "answer": …}',
            ),
        )
    return Probe(where, words["topic"], words.get("text") or words["question"], words.get("answer", ""))


def encoder(tokenizer: Tokenizer, max_seq_length: int) -> Callable[[Sequence[Probe]], Iterator[EncodedRecord]]:
    """Makes probes token ids, of which a text counts whole, as far as a row reaches, and of a question the answer
    alone. Raises UserError for a question that with its answer is longer than a row."""

    def encode(probes: Sequence[Probe]) -> Iterator[EncodedRecord]:
        begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        for probe in probes:
            read = begin + (tokenizer.encode(probe.text) if probe.answer else [])
            key_settings = tokenizer.encode(probe.answer or probe.text)
            if not probe.answer:
                key_settings = key_settings[: max_seq_length + 1 - len(read)]
            if not read + key_settings[1:] or len(read) + len(key_settings) - 1 > max_seq_length:
                what = say("the probe is too short, or longer than a row", "探针过短或超过一行")
                raise UserError(what, probe.id, say("set a greater max_seq_length", "请增大 max_seq_length"))
            yield EncodedRecord(
                (Example(read + key_settings, MASK_BYTE[False] * len(read) + MASK_BYTE[True] * len(key_settings)),)
            )

    return encode


@dataclass(frozen=True, slots=True)
class Probes:
    """Probes as rows, one to a unit. `every` so many steps, before the first and after the last, they are measured.

    Told of each topic are `probe_TOPIC_loss`, minus the mean log-probability of a token, and, where it has questions,
    `probe_TOPIC_right`, the share that is answered word for word by writing the likeliest token each time.
    """

    rows: PackedDataset
    topics: tuple[str, ...]
    """Of each unit."""
    asks: tuple[bool, ...]
    """Whether a unit is a question."""
    every: int
    limit: float | None

    @classmethod
    def of(cls, probes: Iterable[Probe], encoded: EncodedRecords, settings: Training) -> Self:
        assert settings.probe_every is not None
        topics, asks = zip(*((probe.topic, bool(probe.answer)) for probe in probes), strict=True)
        return cls(PackedDataset.from_records(encoded), topics, asks, settings.probe_every, settings.probe_limit)

    @property
    def shown(self) -> tuple[str, ...]:
        """The names of what is measured."""
        names = []
        for topic in dict.fromkeys(self.topics):
            asks = any(asks for of, asks in zip(self.topics, self.asks, strict=True) if of == topic)
            names += [_loss(topic), *([_right(topic)] if asks else [])]
        return tuple(names)

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    def at_start(self, model: TrainModel, dist: DistContext, micro_batch_tokens: int) -> dict[str, float]:
        """What is measured before anything was learned, which the first row of the curve tells beside its own."""
        return {name + AT_START: value for name, value in self.measure(model, dist, micro_batch_tokens).items()}

    @torch.no_grad()
    def measure(self, model: TrainModel, dist: DistContext, micro_batch_tokens: int) -> dict[str, float]:
        model.refresh()
        training = model.hf_model.training
        model.hf_model.eval()
        topics = list(dict.fromkeys(self.topics))
        # of each topic: minus the log-probabilities, tokens, questions answered right, questions
        sums = torch.zeros((len(topics), 4), dtype=torch.float64, device=model.device)
        mine = np.arange(len(self.rows.samples))[dist.rank :: dist.world_size]
        for batch in model.micro_batches(self.rows, mine, micro_batch_tokens):
            found, likeliest = model.logprobs_and_argmax(batch)
            counts = list(batch.target_counts)
            hits = (likeliest == batch.targets).split(counts)
            for unit, part, hit in zip(batch.sample_indices, found.double().split(counts), hits, strict=True):
                asks = self.asks[unit]
                told = [-part.sum(), len(part), float(asks and bool(hit.all())), float(asks)]
                sums[topics.index(self.topics[unit])] += sums.new_tensor([float(value) for value in told])
        model.hf_model.train(training)
        dist.all_reduce_sum([sums])
        measured = {}
        for topic, (loss, tokens, right, questions) in zip(topics, sums.tolist(), strict=True):
            measured[_loss(topic)] = loss / tokens
            if questions:
                measured[_right(topic)] = right / questions
        return measured

    def worse(self, curve: Sequence[Mapping[str, Any]]) -> str | None:
        """A sentence when a topic's loss has grown by more than the limit since the start; None while all is well."""
        if self.limit is None or not curve:
            return None
        for topic in dict.fromkeys(self.topics):
            name = _loss(topic)
            before, now = curve[0].get(name + AT_START), curve[-1].get(name)
            if before is not None and now is not None and now > before + self.limit:
                return say(
                    f"stopped: the loss on the probes of {topic} went from {before:.3f} to {now:.3f}, "
                    f"more than probe_limit {self.limit:g}",
                    f"已停止：{topic} 探针的损失由 {before:.3f} 升至 {now:.3f}，超过 probe_limit {self.limit:g}",
                )
        return None

    def summary(self, curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the metrics of a run say of its probes."""
        found: dict[str, Any] = {}
        for name in self.shown:
            values = [float(row[name]) for row in curve if name in row]
            if values and name + AT_START in curve[0]:
                found[name] = {"before": float(curve[0][name + AT_START]), "after": values[-1]}
        return found


def _loss(topic: str) -> str:
    return f"probe_{topic}_loss"


def _right(topic: str) -> str:
    return f"probe_{topic}_right"
