"""Reads what evaluations wrote, whatever their kind, as scored questions that two models can be compared by.

A `ScoredTask` is one score of one model with the value of every question behind it. What each kind keeps:

- `evaluate`: `results.json` and a file of samples for each task, or `answers.jsonl` with exact matches;
- `probe`: `answers.jsonl`, one task for each figure and mode;
- `perplexity`: `perplexity.jsonl`, bits per byte of each record.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hanlin.core.context import LineageNode
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.resumable import read_rows
from hanlin.core.text import answer_language
from hanlin.evaluate.bootstrap import Average
from hanlin.evaluate.probes.checks import FIGURES
from hanlin.evaluate.results import RESULTS_FILE, TaskResult
from hanlin.evaluate.results import Results as TaskResults
from hanlin.evaluate.results import read_results as read_task_results

SHARE, BITS = "share", "bits_per_byte"


@dataclass(frozen=True, slots=True)
class ScoredQuestion:
    """A question with its value: Σ value / Σ weight is the score. Its texts are what a reader sees."""

    id: str
    value: float
    weight: float = 1.0
    subject: str = ""
    question: str = ""
    target: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class ScoredTask:
    """One score of one model.

    Attributes:
        name: The task; equal names with equal `setup` are compared.
        setup: How it was asked, as far as another way would give another score.
        metric: What is measured.
        unit: `share` (0 to 1) or `bits_per_byte`.
        higher_is_better: Which way is good.
        average: Over questions, or over subjects.
        questions: The questions in the order in which they were asked.
        notes: Figures beside the score: how many answers could not be read, perplexity, ...
        description: What the name means, a message of the catalog; empty for a task that is known by its name.
        controls: The same task as `no_examples` and with `format_only` examples, if it was asked so.
        format_effect: What these controls show of this model; empty without them.
        asked: How it was asked, for the record: method, worked examples that fitted, prompts.
    """

    name: str
    setup: Mapping[str, Any]
    metric: str
    unit: str
    higher_is_better: bool
    average: Average
    questions: Sequence[ScoredQuestion]
    notes: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    controls: Mapping[str, ScoredTask] = field(default_factory=dict)
    format_effect: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """A greedy answer that nothing but a reader can judge, and its question."""

    id: str
    language: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Results:
    """What one evaluation found of one model. `digest` tells models of one name apart; empty if it is not known.
    `lineage` is what the results say themselves of what the model was made from.

    `measured` holds what ran the model: its engine, number format and weights, and the versions of packages.
    """

    folder: Path
    model: str
    digest: str
    kind: str
    tasks: Sequence[ScoredTask]
    open_answers: Sequence[OpenAnswer] = ()
    node: LineageNode | None = None
    measured: Mapping[str, str] = field(default_factory=dict)
    lineage: Sequence[Mapping[str, str]] = ()


def read_results(folder: Path, node: LineageNode | None = None) -> Results:
    """Read the folder of an evaluation.

    Args:
        folder: The artifact's folder.
        node: Its lineage; without one the model is called as the folder is.

    Raises:
        UserError: It is not the folder of an evaluation whose answers were kept, or holds none.
    """
    open_answers: list[OpenAnswer] = []
    measured: dict[str, str] = {}
    own_lineage: Sequence[Mapping[str, str]] = ()
    if (folder / RESULTS_FILE).is_file():
        results = read_task_results(folder)
        kind, tasks, measured = "evaluate", list(_read_tasks(results)), _measured(results)
        own_lineage = results.lineage
        open_answers = [answer for result in results.tasks for answer in _answers_to_judge(results, result)]
        tasks = [task for task in tasks if task.questions or not open_answers]
    elif (folder / "perplexity.jsonl").is_file():
        kind, tasks = "perplexity", [_perplexity(read_rows(folder / "perplexity.jsonl"))]
    elif (folder / "answers.jsonl").is_file():
        kind, tasks, open_answers = _read_answers(folder / "answers.jsonl")
    else:
        hint = tr("name the folder of an evaluation: evaluate, probe or perplexity")
        raise UserError(tr("no results are here"), folder, hint)
    if not any(task.questions for task in tasks) and not open_answers:
        raise UserError(tr("these results hold no answer"), folder)
    return Results(folder, *_model_of(folder, node), kind, tasks, open_answers, node, measured, own_lineage)


def _measured(results: TaskResults) -> dict[str, str]:
    """What ran the model, in one line each."""
    weights = {name: str(results.model.get(name, "")) for name in ("kind", "engine", "dtype")}
    weights["configuration sha256"] = str(results.model.get("sha256", ""))  # not of the weights, which are large
    versions = {f"{name} version": str(value) for name, value in results.versions.items()}
    return {name: value for name, value in {**weights, **versions}.items() if value}


def _model_of(folder: Path, node: LineageNode | None) -> tuple[str, str]:
    """The name of the model that was measured, and what tells it from others of that name."""
    settings = {} if node is None else node.settings
    name = str(settings.get("address_model") or settings.get("address") or settings.get("model") or folder.name)
    name = name if "://" in name else Path(name).name
    if settings.get("file"):
        name = f"{name}:{settings['file']}"
    parents = () if node is None or not settings.get("model") else node.parents
    if not parents:
        return name, ""
    if parents[0].type != "file":  # the model is the first that an evaluation reads
        return name, parents[0].digest
    base = parents[0].name.split("/")[0]
    digests = [parent.digest for parent in parents if parent.type == "file" and parent.name.split("/")[0] == base]
    return name, hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_tasks(results: TaskResults) -> Iterator[ScoredTask]:
    """The tasks of `evaluate`, with the main metric of each; the samples are checked against the results."""
    controls: dict[tuple[str, str], dict[str, ScoredTask]] = {}
    for result in results.tasks:
        if result.control:
            own = controls.setdefault((result.task, result.profile), {})
            own[result.control] = _read_task(results, result)
    for result in results.tasks:
        if not result.control:
            task = _read_task(results, result)
            yield replace(task, controls=controls.get((result.task, result.profile), {}))


def _read_task(results: TaskResults, result: TaskResult) -> ScoredTask:
    setup = {"profile": result.profile, "version": result.profile_version, "form": result.form, "shots": result.shots}
    if result.form == "chat" and result.method == "choices":
        setup["answer"] = "likeliest letter"
    if result.thinking is not None:
        setup["thinking"] = "thinking" if result.thinking else "no thinking"
    notes = {"not_extracted": result.not_extracted_share} if result.method == "generate" else {}
    questions = [
        ScoredQuestion(
            sample["id"], float(sample["scores"][result.metric]), subject=sample.get("subject") or "",
            question=sample.get("question") or "", target=str(sample.get("target") or ""),
            answer=str(sample.get("output") or sample.get("answer") or ""),
        )
        for sample in results.read_samples(result)
        if result.metric in sample["scores"]
    ]  # fmt: skip
    return ScoredTask(
        result.task, setup, result.metric, SHARE, True, result.average, questions, notes,
        format_effect=result.format_effect, asked=_asked(result),
    )  # fmt: skip


def _answers_to_judge(results: TaskResults, result: TaskResult) -> list[OpenAnswer]:
    """The answers to questions of one's own that have no right answer (`match: judge`)."""
    if result.submission or result.control:
        return []
    return [
        OpenAnswer(
            f"{result.task}/{sample['id']}",
            "en" if answer_language(sample["question"]) == "en" else "zh",
            sample["question"],
            sample["answer"] or "",
        )
        for sample in results.read_samples(result)
        if not sample["scores"]
    ]


def _asked(result: TaskResult) -> dict[str, Any]:
    """How a task was asked."""
    return {
        "method": result.method,
        "profile_version": result.profile_version,
        "task_version": result.task_version,
        "fewest_shots": result.fewest_shots,
        "too_long": result.too_long,
        "chance": result.chance,
        "prompts_sha256": result.prompts_sha256,
        "example_prompt": result.example_prompt,
    }


def _read_answers(file: Path) -> tuple[str, list[ScoredTask], list[OpenAnswer]]:
    rows = read_rows(file)
    keys = set(rows[0]) if rows else set()
    try:
        if "counts" in keys:
            return "probe", list(_probe(rows)), _open_answers(rows)
        if {"exact", "answers"} <= keys:
            return "evaluate", [_questions(rows)], []
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(tr("not answers as an evaluation writes them: {error!r}", error=error), file) from error
    if not rows:
        return "evaluate", [], []
    raise UserError(tr("these answers have no score"), file, tr("name the folder of an evaluation"))


def _probe(rows: Sequence[Mapping[str, Any]]) -> Iterator[ScoredTask]:
    """A task for each figure and mode; the answers to one prompt are one question, whose value is their share."""
    for mode in ("greedy", "sampled"):
        for name, figure in FIGURES.items():
            by_prompt: dict[str, list[Mapping[str, Any]]] = {}
            for row in rows:
                if row["mode"] == mode and name in row["counts"]:
                    by_prompt.setdefault(row["id"], []).append(row)
            if not by_prompt:
                continue
            questions = [
                ScoredQuestion(
                    prompt,
                    sum(row["counts"][name] for row in some) / len(some),
                    subject=some[0]["language"],
                    question=some[0]["messages"][-1]["content"],
                    answer=next((row for row in some if row["counts"][name] != figure.higher_is_better), some[0])[
                        "answer"
                    ],
                )
                for prompt, some in by_prompt.items()
            ]
            yield ScoredTask(
                name, {"mode": mode}, name, SHARE, figure.higher_is_better, "micro", questions,
                description=figure.description,
            )  # fmt: skip


def _open_answers(rows: Sequence[Mapping[str, Any]]) -> list[OpenAnswer]:
    """The greedy answers to prompts that expect nothing but an answer in their language."""
    return [
        OpenAnswer(row["id"], row["language"], row["messages"][-1]["content"], row["answer"])
        for row in rows
        if row["mode"] == "greedy" and not row["expect"]
    ]


def _perplexity(rows: Sequence[Mapping[str, Any]]) -> ScoredTask:
    """Bits per byte: bytes do not depend on the tokenizer, so that models of different vocabularies compare."""
    questions = [
        ScoredQuestion(row["id"], row["nats"] / math.log(2), float(row["bytes"]), row["language"])
        for row in rows
        if row["bytes"]
    ]
    tokens, nats = sum(row["tokens"] for row in rows), sum(row["nats"] for row in rows)
    notes = {
        "tokens": tokens,
        "characters_per_token": sum(row["characters"] for row in rows) / max(1, tokens),
        "perplexity": math.exp(min(700.0, nats / max(1, tokens))),
    }
    return ScoredTask("bits_per_byte", {}, "bits_per_byte", BITS, False, "micro", questions, notes)


def _questions(rows: Sequence[Mapping[str, Any]]) -> ScoredTask:
    questions = [
        ScoredQuestion(
            row["id"], float(row["exact"]), subject=row.get("topic") or "", question=row["question"],
            target=" / ".join(row["answers"]), answer=row["answer"],
        )
        for row in rows
    ]  # fmt: skip
    return ScoredTask("questions", {}, "exact_match", SHARE, True, "micro", questions)
