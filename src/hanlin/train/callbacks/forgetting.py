"""What a model could do before, measured while it learns something else: English and arithmetic in Chinese training.

The loss on records like those that are trained on is `validation`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hanlin.chat.rendering.special_tokens import MASK_BYTE
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.hardware.devices import to_float64
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.callbacks.base import Callback, TrainerState
from hanlin.train.callbacks.metrics_log import MetricsLog
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encoded import EncodedRecord, EncodedRecords, Example
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext

DEFAULT_PROBES = Path(__file__).with_name("probes.jsonl")
"""English sentences and sums, used if a recipe names no file of its own."""
_TOPIC = re.compile(r"[a-z][a-z0-9_]*")
AT_START = "_at_start"


@dataclass(frozen=True, slots=True)
class Probe:
    """A text to read, or a question whose answer is known word for word.

    Attributes:
        id: File and line.
        topic: What it measures, such as `english`.
        text: The text, or the question.
        answer: The answer; empty for a text.
    """

    id: str
    topic: str
    text: str
    answer: str = ""


def read_probes(file: Path) -> list[Probe]:
    """Read a JSON Lines file of probes, rows of `topic` with `text`, or with `question` and `answer`.

    Raises UserError with the line that is neither.
    """
    probes = []
    for line_number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            probes.append(_parse_probe(line, f"{file}:{line_number}"))
    if not probes:
        raise UserError(tr("there is no probe in this file"), file, None)
    return probes


def _parse_probe(line: str, location: str) -> Probe:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(tr("not JSON"), location, None) from error
    fields = {name: row.get(name) for name in ("topic", "text", "question", "answer")} if isinstance(row, dict) else {}
    texts = {name: value for name, value in fields.items() if isinstance(value, str) and value}
    if texts.keys() not in ({"topic", "text"}, {"topic", "question", "answer"}) or not _TOPIC.fullmatch(texts["topic"]):
        raise UserError(
            tr("not a probe"),
            location,
            tr('write {"topic": "english", "text": ...} or {"topic": "arithmetic", "question": ..., "answer": ...}'),
        )
    return Probe(location, texts["topic"], texts.get("text") or texts["question"], texts.get("answer", ""))


def probe_encoder(tokenizer: Tokenizer, max_seq_length: int) -> Callable[[Sequence[Probe]], Iterator[EncodedRecord]]:
    """A function that encodes probes: all of a text is a target, as far as a row reaches, and of a question the answer
    alone. It raises UserError for a question that is longer than a row with its answer.
    """

    def encode(probes: Sequence[Probe]) -> Iterator[EncodedRecord]:
        begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        for probe in probes:
            prompt = begin + (tokenizer.encode(probe.text) if probe.answer else [])
            targets = tokenizer.encode(probe.answer or probe.text)
            if not probe.answer:
                targets = targets[: max_seq_length + 1 - len(prompt)]
            if not prompt + targets[1:] or len(prompt) + len(targets) - 1 > max_seq_length:
                message = tr("the probe is too short, or longer than max_seq_length")
                raise UserError(message, probe.id, tr("set a greater max_seq_length"))
            loss_mask = MASK_BYTE[False] * len(prompt) + MASK_BYTE[True] * len(targets)
            yield EncodedRecord((Example(prompt + targets, loss_mask),))

    return encode


@dataclass(frozen=True)
class ForgettingProbes(Callback):
    """Measures probes before the first step, every so many steps and after the last.

    The metrics of each topic are `probe_TOPIC_loss`, minus the mean log-probability of a token, and, if it has
    questions, `probe_TOPIC_accuracy`, the share that greedy decoding answers word for word.

    Attributes:
        dataset: The probes, one to a sample.
        topics: The topic of each.
        is_question: Whether each is a question.
        probe_every: Steps between two measurements.
        probe_limit: Training stops if the loss of a topic has grown by more than this; None: never.
        progress: Where the user is told.
    """

    dataset: PackedDataset
    topics: tuple[str, ...]
    is_question: tuple[bool, ...]
    probe_every: int
    probe_limit: float | None
    progress: Progress

    @classmethod
    def from_settings(
        cls, probes: Iterable[Probe], encoded: EncodedRecords, settings: Training, progress: Progress
    ) -> Self:
        assert settings.probe_every is not None
        topics, is_question = zip(*((probe.topic, bool(probe.answer)) for probe in probes), strict=True)
        dataset = PackedDataset.from_records(encoded)
        return cls(dataset, topics, is_question, settings.probe_every, settings.probe_limit, progress)

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        names = []
        for topic in dict.fromkeys(self.topics):
            pairs = zip(self.topics, self.is_question, strict=True)
            has_questions = any(is_question for other, is_question in pairs if other == topic)
            names += [_loss_name(topic), *([_accuracy_name(topic)] if has_questions else [])]
        return tuple(names)

    def on_step_begin(self, state: TrainerState) -> dict[str, float]:
        """Before the first step, measure what the model can do; the metrics' names end in `_at_start`."""
        if state.step > 0:
            return {}
        metrics = self.measure(state.model, state.dist, state.micro_batch_tokens)
        return {name + AT_START: value for name, value in metrics.items()}

    def evaluate(self, state: TrainerState) -> dict[str, float]:
        if state.step % self.probe_every != 0 and state.step != state.total_steps:
            return {}
        return self.measure(state.model, state.dist, state.micro_batch_tokens)

    @torch.no_grad()
    def measure(self, model: TrainModel, dist: DistContext, micro_batch_tokens: int) -> dict[str, float]:
        """The metrics of the model as it is now."""
        model.refresh()
        training = model.hf_model.training
        model.hf_model.eval()
        topics = list(dict.fromkeys(self.topics))
        # for each topic: minus the log-probabilities, tokens, questions answered correctly, questions
        sums = to_float64(torch.zeros((len(topics), 4), device=model.device))
        indices = np.arange(len(self.dataset.samples))[dist.rank :: dist.world_size]
        for batch in model.micro_batches(self.dataset, indices, micro_batch_tokens):
            logprobs, argmax = model.logprobs_and_argmax(batch)
            counts = list(batch.target_counts)
            hits = (argmax == batch.targets).split(counts)
            for index, part, hit in zip(batch.sample_indices, to_float64(logprobs).split(counts), hits, strict=True):
                is_question = self.is_question[index]
                values = [-part.sum(), len(part), float(is_question and bool(hit.all())), float(is_question)]
                sums[topics.index(self.topics[index])] += sums.new_tensor([float(value) for value in values])
        model.hf_model.train(training)
        dist.all_reduce_sum([sums])
        metrics = {}
        for topic, (loss, tokens, correct, questions) in zip(topics, sums.tolist(), strict=True):
            metrics[_loss_name(topic)] = loss / tokens
            if questions:
                metrics[_accuracy_name(topic)] = correct / questions
        return metrics

    def should_stop(self, state: TrainerState) -> bool:
        message = self.describe_regression(state.log)
        if message is not None and state.dist.is_main:
            self.progress.log(message)
        return message is not None

    def describe_regression(self, log: MetricsLog) -> str | None:
        """A sentence if the loss of a topic has grown by more than the limit since the start, else None."""
        if self.probe_limit is None or not log.rows:
            return None
        for topic in dict.fromkeys(self.topics):
            name = _loss_name(topic)
            before, now = log.rows[0].get(name + AT_START), log.rows[-1].get(name)
            if before is not None and now is not None and now > before + self.probe_limit:
                return tr(
                    "stopped: the loss on the probes of {topic} rose from {before:.3f} to {now:.3f}, more than "
                    "probe_limit {probe_limit:g}",
                    topic=topic,
                    before=before,
                    now=now,
                    probe_limit=self.probe_limit,
                )
        return None

    def summarize(self, log: MetricsLog) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        for name in self.shown_metrics:
            values = [float(row[name]) for row in log.rows if name in row]
            if values and name + AT_START in log.rows[0]:
                metrics[name] = {"before": float(log.rows[0][name + AT_START]), "after": values[-1]}
        return metrics


def _loss_name(topic: str) -> str:
    return f"probe_{topic}_loss"


def _accuracy_name(topic: str) -> str:
    return f"probe_{topic}_accuracy"
