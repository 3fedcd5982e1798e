"""The stage `evaluate` with `lm_eval_tasks`: lm-evaluation-harness's own task files, asked of any model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.references import HUB_PREFIXES
from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import write_json
from hanlin.core.i18n import join_list, tr
from hanlin.core.text import answer_language
from hanlin.evaluate.results import (
    Results,
    Sample,
    TaskResult,
    describe_lineage,
    hash_prompts,
    installed_versions,
    mean_score,
    samples_name,
    write_results,
    write_samples,
)
from hanlin.evaluate.tasks.definition import LETTERS
from hanlin.evaluate.tasks.stage import describe
from hanlin.inference.loading import LoadedEngine, load_engine

PROFILE = "lm_eval_task"
"""The profile under which its task files are asked: prompt, scores and average are theirs."""
REPORT_FILE = "lm_eval.json"
_METHODS = {"multiple_choice": "choices", "loglikelihood": "target", "loglikelihood_rolling": "rolling"}
_NOT_HERE = ("profiles", "subjects", "split", "thinking", "format_control", "shuffle_choices", "contamination")
_FEW_SHOT_SEED = 1234
"""lm-evaluation-harness's own."""


def run(settings: Evaluate, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Ask tasks of lm-evaluation-harness and write a results folder, with its own figures in `lm_eval.json`.

    Raises:
        UserError: lm_eval is not installed, a setting has no meaning here, a task is unknown or its data is not here,
            or the model or address cannot do what a task asks for.
    """
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    _check_settings(settings)
    try:
        import lm_eval.api.task
        import lm_eval.evaluator
    except ModuleNotFoundError as error:
        what = tr("tasks of lm-evaluation-harness need the package lm_eval")
        raise UserError(what, "lm_eval_tasks", "pip install 'hanlin[lm-eval]'") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # its bars, which no setting turns off; ours shows the progress
    lm_eval.api.task.tqdm = lambda rows, **options: rows
    from hanlin.evaluate.harness.address import AddressLM
    from hanlin.evaluate.harness.answers import AnswerStore
    from hanlin.evaluate.harness.model import HanlinLM
    from hanlin.evaluate.harness.tasks import LocalTasks

    data = inputs.path("data")
    is_from_hub = str(settings.data).startswith(HUB_PREFIXES)
    local_tasks = LocalTasks(data, settings.lm_eval_tasks, trusted=not is_from_hub)
    loaded_tasks = local_tasks.load()
    for name, task in loaded_tasks["tasks"].items():
        _prepare(name, task, settings, local_tasks.has_examples(name))
    store = AnswerStore(context.scratch_folder(out) / "lm_eval", context.progress)
    loaded: LoadedEngine | None = None
    if settings.address:
        model: Any = AddressLM(settings.address, settings.served_model, store=store)
    else:
        loaded = load_engine(
            inputs.path("model"),
            settings.file,
            settings.engine,
            batch=settings.batch,
            dtype=settings.dtype,
            precision=settings.precision,
        )
        model = HanlinLM(loaded=loaded, store=store)
    try:
        report = lm_eval.evaluator.evaluate(
            model,
            loaded_tasks,
            samples=_draw(loaded_tasks["tasks"], settings.limit, context.seed),
            bootstrap_iters=0,
            apply_chat_template=bool(settings.chat),
            fewshot_as_multiturn=bool(settings.chat),
        )
        described = _describe_model(settings, model, loaded)
    finally:
        if loaded is not None:
            loaded.engine.close()
        else:
            model.close()
    rows = [_result(name, report, loaded_tasks["tasks"][name], settings, out) for name in loaded_tasks["tasks"]]
    results = Results(
        described,
        rows,
        _describe_settings(settings, context),
        installed_versions(),
        lineage=describe_lineage(inputs),
    )
    write_results(out, results)
    figures = _figures(report)
    write_json(out / REPORT_FILE, {"lm_eval": figures, "truncated": model.truncated})
    return {**describe(results), "lm_eval": figures, **({"truncated": model.truncated} if model.truncated else {})}


def _check_settings(settings: Evaluate) -> None:
    for name in _NOT_HERE:
        if getattr(settings, name) not in ((), "", None, False):
            what = tr("`{name}` has no meaning for tasks of lm-evaluation-harness", name=name)
            raise UserError(what, name, tr("leave it out, or ask our own task of that name with `tasks`"))
    if settings.method != "auto":
        what = tr("`{name}` has no meaning for tasks of lm-evaluation-harness", name="method")
        raise UserError(
            what, "method", tr("its task files with `_generate` or `_chat` in their name let a model write")
        )
    if settings.data is None:
        raise UserError(tr("tasks need the folder of their files"), "data", tr("for example --data FOLDER"))
    if (settings.model is None) == (not settings.address):
        raise UserError(tr("name either `model` or `address`"), "model")


def _prepare(name: str, task: Any, settings: Evaluate, has_examples: bool) -> None:
    """Set worked examples and the length of answers of a task as the settings say."""
    own_shots = task.get_config("num_fewshot")
    shots = int(own_shots or 0) if settings.shots is None else settings.shots
    if settings.shots and own_shots == 0:
        what = tr("the task file of {task} forbids worked examples", task=name)
        raise UserError(what, "shots", tr("leave `shots` out"))
    if shots and not has_examples:
        what = tr("the task {task} wants {shots} worked examples, and its data has none", task=name, shots=shots)
        raise UserError(what, "shots", tr("add the split that holds them, or set `shots: 0`"))
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=_FEW_SHOT_SEED)
    if settings.max_new_tokens and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value={"max_gen_toks": settings.max_new_tokens}, update=True)


def _draw(tasks: Mapping[str, Any], limit: int | None, seed: int) -> dict[str, list[int]] | None:
    """The numbers of the questions to ask, drawn with the seed; None: all."""
    if limit is None:
        return None
    counts = {name: len(task.eval_docs) for name, task in tasks.items()}
    return {
        name: sorted(random.Random(f"{seed}/{name}/").sample(range(count), min(limit, count)))
        for name, count in counts.items()
    }


# --- its report as ours -----------------------------------------------------------------------------------------------


def _result(name: str, report: Mapping[str, Any], task: Any, settings: Evaluate, out: Path) -> TaskResult:
    """A task of its report as an entry of `results.json`, with every answer.

    Scores are the metrics that are means of values from 0 to 1. Others (perplexity, BLEU, ...) are in `lm_eval.json`.
    """
    by_question: dict[int, list[Mapping[str, Any]]] = {}
    for row in report["samples"][name]:
        by_question.setdefault(row["doc_id"], []).append(row)
    scored = _share_metrics(by_question, report["results"][name])
    shots = int(report["n-shot"].get(name) or 0)
    samples = [_sample(index, rows, scored, shots) for index, rows in sorted(by_question.items())]
    choices = [len(sample["choices"]) for sample in samples if "choices" in sample]
    metrics = list(scored)
    scores = {metric: mean_score([sample["scores"][metric] for sample in samples]) for metric in metrics}
    is_plain_choice = len(choices) == len(samples) and metrics[:1] == ["acc"]
    chance = sum(1 / count for count in choices) / len(choices) if is_plain_choice else None
    main = scores.get(metrics[0]) if metrics else None
    file = samples_name(name, PROFILE, is_only=True)
    version = report["versions"].get(name)
    first = report["samples"][name][0]["arguments"][0]
    return TaskResult(
        task=name,
        task_version=1,
        language="zh" if answer_language("".join(sample["question"] for sample in samples[:20])) == "zh" else "en",
        profile=PROFILE,
        profile_version=f"{installed_versions().get('lm_eval', '')}, task {version}",
        form="chat" if settings.chat else "plain",
        thinking=None,
        method=_METHODS.get(task.OUTPUT_TYPE, "generate"),
        shots=shots,
        fewest_shots=shots,
        metric=metrics[0] if metrics else next((key for key, _, _ in _metric_names(report["results"][name])), ""),
        average="micro",
        questions=len(samples),
        scores=scores,
        subjects={},
        chance=chance,
        near_chance=chance is not None and main is not None and main.low <= chance <= main.high,
        too_long=0,
        not_extracted=0,
        not_extracted_share=0.0,
        prompts_sha256=hash_prompts(sample["prompt_sha256"] for sample in samples),
        example_prompt=str(first[0]),
        samples=file,
        samples_sha256=write_samples(out, file, samples),
    )


def _metric_names(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, metric, filter) of a task's metrics: `acc`, or `exact_match,strict-match` under several filters."""
    names = []
    for key in row:
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            names.append((metric if chosen == "none" else key, metric, chosen))
    return names


def _share_metrics(
    by_question: Mapping[int, Sequence[Mapping[str, Any]]], totals: Mapping[str, Any]
) -> dict[str, Callable[[Sequence[Mapping[str, Any]]], float]]:
    """The metrics that are means of a value from 0 to 1 of each question, and how to get it from its rows."""

    def value_of(metric: str, chosen: str) -> Callable[[Sequence[Mapping[str, Any]]], Any]:
        return lambda rows: next((row[metric] for row in rows if row["filter"] == chosen and metric in row), None)

    metrics: dict[str, Callable[[Sequence[Mapping[str, Any]]], float]] = {}
    for name, metric, chosen in _metric_names(totals):
        read = value_of(metric, chosen)
        values = [read(rows) for rows in by_question.values()]
        if not all(isinstance(value, bool | int | float) and 0 <= value <= 1 for value in values):
            continue
        mean = sum(float(value) for value in values) / len(values)
        if abs(mean - float(totals[f"{metric},{chosen}"])) < 1e-9:
            metrics[name] = lambda rows, read=read: float(read(rows))  # type: ignore[misc]
    return metrics


def _sample(
    index: int, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Callable[[Any], float]], shots: int
) -> Sample:
    row = rows[0]
    arguments = row["arguments"]
    contexts = [str(arg[0]) for arg in arguments]
    asked = {"contexts": contexts, "continuations": [str(arg[1]) for arg in arguments if len(arg) > 1]}
    document = row["doc"]
    question = next(
        (
            document[key]
            for key in ("question", "Question", "query", "goal", "text")
            if isinstance(document.get(key), str)
        ),
        contexts[0].rpartition("\n\n")[2],
    )
    sample: Sample = {
        "id": str(index),
        "subject": "",
        "question": question,
        "prompt_sha256": hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest(),
        "shots": shots,
        "target": _plain(row["target"]),
    }
    answers = row["resps"]
    if answers and isinstance(answers[0][0], list | tuple):  # scores of continuations
        logprobs = [float(answer[0][0]) for answer in answers]
        sample["logprobs"] = [round(value, 5) for value in logprobs]
        if len(answers) > 1:
            sample["choices"] = [str(arg[1]) for arg in arguments]
            best = max(range(len(logprobs)), key=lambda place: (logprobs[place], -place))
            sample["answer"] = LETTERS[best] if best < len(LETTERS) else str(best)
            target = row["target"]
            if isinstance(target, int) and 0 <= target < min(len(answers), len(LETTERS)):
                sample["target"] = LETTERS[target]
        else:
            sample["answer"] = str(arguments[0][1]) if answers[0][0][1] else ""
    elif answers and isinstance(answers[0][0], float):  # of whole texts
        sample["logprobs"], sample["answer"] = [round(answers[0][0], 5)], None
    else:
        sample["output"] = str(answers[0][0])
        filtered = row["filtered_resps"][0]
        sample["answer"] = str(filtered[0] if isinstance(filtered, list | tuple) and filtered else filtered)
    sample["scores"] = {name: read(rows) for name, read in metrics.items()}
    return sample


def _plain(value: Any) -> Any:
    """A target as JSON holds it."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _figures(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """All metrics of all tasks and groups, as lm-evaluation-harness gives them."""
    tables = {**report["results"], **report.get("groups", {})}
    return {
        name: {key: row[f"{metric},{chosen}"] for key, metric, chosen in _metric_names(row)}
        for name, row in tables.items()
        if _metric_names(row)
    }


def _describe_model(settings: Evaluate, model: Any, loaded: LoadedEngine | None) -> dict[str, Any]:
    from hanlin.evaluate.tasks.stage import describe_weights

    if loaded is not None:
        return describe_weights(loaded, settings.dtype, settings.precision)
    return {"name": model.name, "kind": "address", "engine": settings.address, "dtype": "", "sha256": ""}


def _describe_settings(settings: Evaluate, context: StageContext) -> dict[str, Any]:
    return {
        "seed": context.seed,
        "lm_eval_tasks": join_list(list(settings.lm_eval_tasks)),
        "limit": settings.limit,
        "shots": settings.shots,
        "chat": bool(settings.chat),
        "max_new_tokens": settings.max_new_tokens,
        **({"data": settings.data} if str(settings.data).startswith(HUB_PREFIXES) else {}),
    }
