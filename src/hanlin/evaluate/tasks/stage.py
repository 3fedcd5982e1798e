"""The stage `evaluate` with tasks: every task under every profile asked, answers kept, scores with their intervals."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.references import HUB_PREFIXES
from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import write_json
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.resumable import Row, process_each
from hanlin.data.ledger import describe_unread_fields
from hanlin.evaluate.contamination import split_by_contamination
from hanlin.evaluate.results import (
    Average,
    Control,
    Results,
    Sample,
    TaskResult,
    describe_lineage,
    hash_prompts,
    installed_versions,
    samples_name,
    summarize,
    write_results,
    write_samples,
)
from hanlin.evaluate.tasks.address import AddressRespondent
from hanlin.evaluate.tasks.definition import LETTERS, Task, find_tasks
from hanlin.evaluate.tasks.format_control import FormatOnlyItems, add_controls, measure_format
from hanlin.evaluate.tasks.items import Item, Items, draw_examples, read_items, shuffle_choices
from hanlin.evaluate.tasks.metrics import Outcome, chosen, extract_answer, score
from hanlin.evaluate.tasks.prompts import Prompt, PromptBuilder, TaskRun
from hanlin.evaluate.tasks.respond import EngineRespondent, Respondent
from hanlin.inference.loading import LoadedEngine, load_engine

_CHUNK_SIZE = {"choices": 512, "target": 512, "generate": 16}
"""Questions that are asked together: choices share what stands before them, written answers a batch."""
_THINKING_TOKENS = 4096
"""The longest answer with thinking turned on, if no setting says how long it may be."""
_UNLIMITED_CONTEXT = 1 << 30


def run(settings: Evaluate, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Ask tasks and write a results folder, see `run_tasks`.

    Raises:
        UserError: No data is named, a task is unknown, or its files are not here or damaged.
    """
    if settings.data is None:
        raise UserError(tr("tasks need the folder of their files"), "data", tr("for example --data FOLDER"))
    data = inputs.path("data")
    tasks = find_tasks(settings.tasks, data)
    items = {name: _items(settings, name, task, data, context.seed) for name, task in tasks.items()}
    unread: Counter[str] = Counter()
    for name, read in items.items():
        if read.unread:
            unread.update(read.unread)
            context.progress.log(f"{name}: {describe_unread_fields(read.unread)}")
    task_runs = [run for name, task in tasks.items() for run in _task_runs(settings, name, task)]
    if settings.format_control:
        task_runs = [run for task_run in task_runs for run in add_controls(task_run, items[task_run.name])]
    respondent, loaded = _open(settings, inputs)
    try:
        if isinstance(respondent, AddressRespondent):
            respondent.check(task_runs)
        results = run_tasks(
            respondent,
            loaded,
            task_runs,
            items,
            settings,
            out,
            context,
            contamination=inputs.paths("contamination"),
            lineage=describe_lineage(inputs),
        )
    finally:
        if loaded is not None:
            loaded.engine.close()
        elif isinstance(respondent, AddressRespondent):
            respondent.close()
    return {**describe(results), **({"unread_fields": dict(unread)} if unread else {})}


def run_tasks(
    respondent: Respondent,
    loaded: LoadedEngine | None,
    task_runs: Sequence[TaskRun],
    items: Mapping[str, Items],
    settings: Evaluate,
    out: Path,
    context: StageContext,
    contamination: Sequence[Path] = (),
    lineage: Sequence[Mapping[str, str]] = (),
) -> Results:
    """Ask tasks and write a results folder.

    Args:
        respondent: What answers.
        loaded: Its engine; None for an address.
        task_runs: How each task is asked.
        items: The questions of each task, by name.
        settings: The stage's settings.
        out: The results folder.
        context: Of the stage.
        contamination: Artifacts of data stages that looked for the questions in their data.
        lineage: What the model and the data were made from.

    Returns:
        The results, as they were written.
    """
    template = loaded.load_template() if loaded is not None and any(task_run.chat for task_run in task_runs) else None
    limit, count_tokens = _UNLIMITED_CONTEXT, None
    if loaded is not None:
        limit = loaded.engine.context_length
    elif isinstance(respondent, AddressRespondent) and respondent.context_length is not None:
        limit, count_tokens = respondent.context_length, respondent.count_tokens
    total = sum(len(items[task_run.name].questions) for task_run in task_runs)
    finished, tasks = 0, []
    controlled: dict[tuple[str, str], dict[Control, list[Sample]]] = {}
    for task_run in task_runs:
        own = items[task_run.name]
        if task_run.profile.sample_shots:
            own = draw_examples(own, task_run.shots)
        if task_run.control == "format_only":
            own = FormatOnlyItems(own.questions, own.examples, own.drawn, seed=context.seed)
        builder = PromptBuilder(task_run, loaded.tokenizer if loaded else None, template, limit, count_tokens)
        builder.build(own.questions[0], own)  # what is wrong with the templates is said before minutes of work

        def ask(
            chunk: Sequence[Item],
            keep: Callable[[int, Row], None],
            task_run: TaskRun = task_run,
            own: Items = own,
            builder: PromptBuilder = builder,
        ) -> None:
            prompts = [builder.build(item, own) for item in chunk]
            respondent.answer(
                task_run,
                prompts,
                lambda index, outcome: keep(index, dict(make_sample(task_run, prompts[index], outcome))),
            )

        name = f"{task_run.name}@{task_run.profile_name}"
        scratch = context.scratch_folder(out) / (f"{name}+{task_run.control}" if task_run.control else name)
        scratch.mkdir(exist_ok=True)
        progress = _WholeProgress(context.progress, finished, total)
        rows = process_each(own.questions, _CHUNK_SIZE[task_run.method], scratch, ask, progress, unit=tr("questions"))
        finished += len(rows)
        samples: list[Sample] = list(rows)  # type: ignore[arg-type]
        _mark_contaminated(samples, contamination)
        controlled.setdefault((task_run.name, task_run.profile_name), {})[task_run.control] = samples
        is_only = len({other.profile_name for other in task_runs if other.name == task_run.name}) == 1
        tasks.append(_result(task_run, builder, own, samples, out, is_only))
    tasks = [_with_format_effect(row, controlled[row.task, row.profile], tasks, context.seed) for row in tasks]
    results = Results(
        _describe_model(settings, respondent, loaded),
        tasks,
        _describe_settings(settings, context),
        installed_versions(),
        lineage=lineage,
    )
    write_results(out, results)
    return results


def make_sample(task_run: TaskRun, prompt: Prompt, outcome: Outcome) -> Sample:
    """The line of the samples' file for a question that was asked."""
    item = prompt.item
    sample: Sample = {
        "id": item.id,
        "subject": item.subject,
        "question": item.fields.get("question", ""),
        "prompt_sha256": prompt.sha256,
        "shots": prompt.shots,
        "target": item.target,
    }
    if item.choices:
        sample["choices"] = list(item.choices)
    metrics = task_run.metrics
    answer: str | None = None
    if prompt.shots is None:
        pass
    elif task_run.method == "generate":
        answer = extract_answer(item, metrics[0], outcome.output)
        sample |= {"output": outcome.output, "finish": outcome.finish, "tokens": outcome.tokens}
    elif task_run.method == "choices":
        answer = LETTERS[chosen(item, outcome)]
    else:
        answer = "" if not outcome.greedy else str(item.answers[0])
    if outcome.logprobs:
        sample["logprobs"] = [round(value, 5) for value in outcome.logprobs]
    sample["answer"] = answer
    if item.target is None and "ifeval" not in {metric.compare for metric in metrics}:
        sample["scores"] = {}
    else:
        extracted = {
            metric.name: answer if metric is metrics[0] else extract_answer(item, metric, outcome.output)
            for metric in metrics
        }
        sample["scores"] = {
            metric.name: 0.0 if prompt.shots is None else score(item, metric, outcome, extracted[metric.name])
            for metric in metrics
        }
    return sample


def describe(results: Results) -> dict[str, Any]:
    """The figures of a results folder for a manifest: for each task under each profile its score and interval."""
    figures: dict[str, Any] = {"engine": results.model["engine"], "tasks": {}}
    asked = [row for row in results.tasks if not row.control]
    for row in asked:
        figures["tasks"][row.label] = {
            "questions": row.questions,
            **({"score": row.score.value, "low": row.score.low, "high": row.score.high} if row.score else {}),
            "metric": row.metric,
            "profile_version": row.profile_version,
            "shots": row.shots,
            "near_chance": row.near_chance,
            "not_extracted_share": row.not_extracted_share,
            "prompts_sha256": row.prompts_sha256,
            **({"submission": row.submission} if row.submission else {}),
            **({"format_effect": dict(row.format_effect)} if row.format_effect else {}),
        }
    scores = {row.label: row.score.value for row in asked if row.score is not None}
    figures["questions"] = sum(row.questions for row in asked)
    if submissions := [row.submission for row in asked if row.submission]:
        figures["submission"] = ", ".join(submissions)
    if scores:
        figures |= {"scores": scores, "mean_score": sum(scores.values()) / len(scores)}
    return figures


def build_submission(samples: Sequence[Sample]) -> dict[str, dict[str, str]]:
    """The answers in the form that C-Eval's site scores: {subject: {row of the file: letter}}.

    A question without an answer gets the first letter.
    """
    submission: dict[str, dict[str, str]] = {}
    for row in samples:
        submission.setdefault(row["subject"], {})[row["id"].rpartition("/")[2]] = row["answer"] or LETTERS[0]
    return submission


def _with_format_effect(
    row: TaskResult, samples: Mapping[Control, Sequence[Sample]], tasks: Sequence[TaskResult], seed: int
) -> TaskResult:
    """The result of a task with what its controls show."""
    if row.control or len(samples) < 2:
        return row
    shots = {other.control: other.shots for other in tasks if (other.task, other.profile) == (row.task, row.profile)}
    return replace(row, format_effect=measure_format(samples, row.metric, row.average, shots, seed))


def _result(
    task_run: TaskRun, builder: PromptBuilder, own: Items, samples: Sequence[Sample], out: Path, is_only: bool
) -> TaskResult:
    name = samples_name(task_run.name, task_run.profile_name, is_only, task_run.control)
    digest = write_samples(out, name, samples)
    names = [metric.name for metric in task_run.metrics]
    is_own = task_run.task.reader == "own"  # whose answers without a score are for a judge
    scored = [row for row in samples if row["scores"]]
    is_scored = bool(scored) if is_own else len(scored) == len(samples)
    average: Average = task_run.profile.average
    scores, subjects = summarize(scored, names, average) if is_scored else ({}, {})
    submission = ""
    if not is_scored and not is_own:
        submission = (
            f"submission-{task_run.name}.json"
            if is_only
            else f"submission-{task_run.name}@{task_run.profile_name}.json"
        )
        write_json(out / submission, build_submission(samples))
    choices = [len(item.choices) for item in own.questions if item.choices]
    chance = sum(1 / count for count in choices) / len(choices) if len(choices) == len(own.questions) else None
    main = scores.get(names[0])
    extracts = task_run.method == "generate"
    not_extracted = sum(row["answer"] is None and row["shots"] is not None for row in samples) if extracts else 0
    return TaskResult(
        task=task_run.name,
        task_version=task_run.task.version,
        language=task_run.task.language,
        profile=task_run.profile_name,
        profile_version=task_run.profile.version,
        form="chat" if task_run.chat else "plain",
        thinking=task_run.thinking,
        method=task_run.method,
        shots=task_run.shots,
        fewest_shots=min((row["shots"] for row in samples if row["shots"] is not None), default=None),
        metric=names[0],
        average=average,
        questions=len(samples),
        scores=scores,
        subjects=subjects,
        chance=chance,
        near_chance=chance is not None and main is not None and main.low <= chance <= main.high,
        too_long=sum(row["shots"] is None for row in samples),
        not_extracted=not_extracted,
        not_extracted_share=not_extracted / len(samples),
        prompts_sha256=hash_prompts(row["prompt_sha256"] for row in samples),
        example_prompt=builder.build(own.questions[0], own).text,
        samples=name,
        samples_sha256=digest,
        submission=submission,
        control=task_run.control,
    )


def _task_runs(settings: Evaluate, name: str, task: Task) -> list[TaskRun]:
    """How a task is asked: once for each profile that it has of those named."""
    wanted = [profile for profile in settings.profiles if profile in task.profiles]
    if settings.profiles and not wanted:
        task.profile(settings.profiles[0], name)
    task_runs = []
    for profile_name in wanted or [""]:
        profile_name, profile = task.profile(profile_name, name)
        is_chat = settings.chat if settings.chat is not None else task.reader == "own"
        method = profile.method
        if settings.method == "generate" or (settings.address and is_chat):  # no chat API scores a letter
            method = "generate"
        if settings.thinking is not None and not is_chat:
            what = tr(
                "`thinking` is a switch of the chat template, and the task {task} is asked as plain text", task=name
            )
            raise UserError(what, "thinking", tr("set `chat: true`, or leave `thinking` out"))
        if method == "generate" and not is_chat and profile.method != "generate":
            what = tr("as plain text the task {task} is answered by the likeliest continuation", task=name)
            raise UserError(what, "method", tr("set `chat: true`, or leave `method` out"))
        tokens = settings.max_new_tokens or (64 if profile.method == "choices" else profile.max_new_tokens)
        if settings.thinking and settings.max_new_tokens is None:
            tokens = max(tokens, _THINKING_TOKENS)
        shots = profile.shots if settings.shots is None else settings.shots
        task_runs.append(TaskRun(name, task, profile_name, profile, method, is_chat, settings.thinking, shots, tokens))
    return task_runs


def _items(settings: Evaluate, name: str, task: Task, data: Path, seed: int) -> Items:
    """The questions of a task: those of the subjects, sampled, their choices shuffled, as the settings say."""
    items = read_items(name, task, data, split=settings.split, subjects=settings.subjects)
    asked = list(items.questions)
    if settings.limit is not None:
        by_subject: dict[str, list[int]] = {}
        for index, item in enumerate(asked):
            by_subject.setdefault(item.subject, []).append(index)
        chosen_indices = sorted(
            index
            for subject, indices in by_subject.items()
            for index in random.Random(f"{seed}/{name}/{subject}").sample(indices, min(settings.limit, len(indices)))
        )
        asked = [asked[index] for index in chosen_indices]
    if settings.shuffle_choices:
        asked = [shuffle_choices(item, seed) for item in asked]
    return Items(asked, items.examples, unread=items.unread)


def _open(settings: Evaluate, inputs: Inputs) -> tuple[Respondent, LoadedEngine | None]:
    model = inputs.optional_path("model")
    if (model is None) == (not settings.address):
        raise UserError(tr("name either `model` or `address`"), "model")
    if settings.address:
        return AddressRespondent(settings.address, settings.served_model), None
    assert model is not None
    loaded = load_engine(
        model, settings.file, settings.engine, batch=settings.batch, dtype=settings.dtype, precision=settings.precision
    )
    try:
        is_chat = settings.chat or (settings.chat is None and _has_own(settings, inputs))
        template = loaded.load_template() if is_chat else None
    except UserError as error:
        loaded.engine.close()
        if error.hint is None:
            raise
        hint = tr("ask as plain text: `chat: false`; or keep the template of a chat model in its folder")
        raise UserError(error.what, error.where, hint) from error  # its own names a setting of training
    except BaseException:
        loaded.engine.close()
        raise
    if template is None:
        return EngineRespondent(loaded, ()), loaded
    return EngineRespondent(loaded, template.stop_ids, template.opens_thinking), loaded


def _has_own(settings: Evaluate, inputs: Inputs) -> bool:
    return any(task.reader == "own" for task in find_tasks(settings.tasks, inputs.path("data")).values())


def _mark_contaminated(samples: Sequence[Sample], folders: Sequence[Path]) -> None:
    rows: Any = samples
    split_by_contamination(rows, folders, "score", lambda some: None)


def _describe_model(settings: Evaluate, respondent: Respondent, loaded: LoadedEngine | None) -> dict[str, Any]:
    if loaded is None:
        assert isinstance(respondent, AddressRespondent)
        return {"name": respondent.model, "kind": "address", "engine": settings.address, "dtype": "", "sha256": ""}
    return describe_weights(loaded, settings.dtype, settings.precision)


def describe_weights(loaded: LoadedEngine, dtype: str, precision: str = "auto") -> dict[str, Any]:
    """The model of a results folder: its name, kind and engine, and a hash of its configuration, file names and sizes.

    Args:
        loaded: The engine.
        dtype: Number format that the weights were loaded in; a GGUF file has its own.
        precision: Number format that they were multiplied in.
    """
    location = loaded.location
    weights = location.weights
    files = sorted(weights.iterdir()) if weights.is_dir() else [weights]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            if file.suffix == ".json" and file.stat().st_size < 1 << 20:
                digest.update(file.read_bytes())
    return {
        "name": location.name,
        "kind": location.kind,
        "engine": loaded.engine.name,
        "dtype": "" if location.kind == "gguf" else dtype + (", bfloat16 products" if precision == "bfloat16" else ""),
        "sha256": digest.hexdigest(),
    }


def _describe_settings(settings: Evaluate, context: StageContext) -> dict[str, Any]:
    names = ("limit", "subjects", "split", "shots", "chat", "thinking", "method", "shuffle_choices", "max_new_tokens",
             "format_control")  # fmt: skip
    values = {name: getattr(settings, name) for name in names}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    data = {"data": settings.data} if settings.data and settings.data.startswith(HUB_PREFIXES) else {}
    return {"seed": context.seed, **data, **plain}


class _WholeProgress(Progress):
    """Reports the progress of one task as that of all."""

    def __init__(self, progress: Progress, finished: int, total: int) -> None:
        super().__init__(quiet=True)
        self._progress, self._finished, self._total = progress, finished, total

    def update(self, done: float, total: float, unit: str, force: bool = False, **figures: float) -> None:
        self._progress.update(self._finished + done, self._total, unit, force, **figures)
