"""The stage `compare`: any number of models beside each other, with what was gained, what was forgotten, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.settings.probe import Compare
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import write_json, write_text
from hanlin.core.i18n import tr
from hanlin.core.resumable import Row, write_rows
from hanlin.core.version import __version__
from hanlin.evaluate.comparison.compare import TaskComparison, compare, count_verdicts, name_models
from hanlin.evaluate.comparison.format_effect import compare_format
from hanlin.evaluate.comparison.judge import judge_answers
from hanlin.evaluate.comparison.markdown import write_markdown
from hanlin.evaluate.comparison.names import COMPARISON, MARKDOWN, QUESTIONS, condense_lineage, title_of
from hanlin.evaluate.comparison.results import OpenAnswer, Results, read_results
from hanlin.evaluate.contamination import load_contamination
from hanlin.inference.chat_server import api_key

_SAMPLES = 3
"""Open questions of each language whose answers are shown whole."""


def run(settings: Compare, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `comparison.json`, the same as Markdown, and `questions.jsonl` with every question of every task.

    Returns:
        For each model how many tasks it gained and lost against the first, and the scores by task and model.

    Raises:
        UserError: The results are of different tasks or questions, a file of them is wrong, or the judge breaks off.
    """
    folders = inputs.paths("results")
    if not folders:
        raise UserError(tr("there are no results to compare"), "results")
    nodes = iter(inputs.lineage.get("results", ()))
    results = [read_results(folder, next(nodes, None) if _is_artifact(folder) else None) for folder in folders]
    names = name_models(results, settings.names)
    data = inputs.paths("contamination")
    compared = compare(
        results,
        names,
        seed=context.seed,
        resamples=settings.resamples,
        contamination=load_contamination(data) if data else None,
        common=settings.common,
    )
    formats = compare_format(results, names, seed=context.seed, resamples=settings.resamples)
    answers = _open_answers(results, names)
    judged = None
    if settings.judge is not None:
        if len(answers) < 2:
            what = tr("there are no open answers of two models to judge")
            raise UserError(
                what,
                "judge",
                tr("compare results of `probe`, or of questions with `match: judge`, or leave out `judge`"),
            )
        scratch = context.scratch_folder(out) / "judge"
        scratch.mkdir(exist_ok=True)
        judged = judge_answers(
            settings.judge, answers, context.seed, settings.resamples, scratch, context, api_key()
        )  # fmt: skip
        if judged is None:
            raise UserError(tr("no two models answered the same open question"), "judge")
    tasks = [task.figures for task in compared]
    comparison = {
        "hanlin": __version__,
        "seed": context.seed,
        "resamples": settings.resamples,
        "models": _models(results, names),
        "tasks": tasks,
        "format": formats,
        "judge": judged,
        "samples": _samples(answers),
    }
    write_json(out / COMPARISON, comparison)
    write_text(out / MARKDOWN, write_markdown(comparison))
    write_rows(out / QUESTIONS, _question_rows(compared))
    verdicts = count_verdicts(tasks)
    return {
        "models": len(set(names)),
        "tasks": len(tasks),
        "gains": sum(row["gain"] for row in verdicts.values()),
        "losses": sum(row["loss"] for row in verdicts.values()),
        "verdicts": verdicts,
        "scores": _scores(tasks),
        **({"format": _format_verdicts(formats)} if formats else {}),
        **({"judge": {row["model"]: row["share"] for row in judged["models"]}} if judged else {}),
    }


def _is_artifact(folder: Path) -> bool:
    """Whether a folder has a manifest, without which its lineage is not known."""
    return (folder / "manifest.json").is_file()


def _scores(tasks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {title_of(task): {score["model"]: score["value"] for score in task["scores"]} for task in tasks}


def _format_verdicts(formats: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {
        title_of(task): {row["model"]: row["gain"]["verdict"] for row in task["rows"] if "gain" in row}
        for task in formats
    }


def _question_rows(compared: Sequence[TaskComparison]) -> Iterator[Row]:
    for task in compared:
        for question in task.questions:
            yield {"task": task.figures["name"], "setup": task.figures["setup"], **question}


def _open_answers(results: Sequence[Results], names: Sequence[str]) -> dict[str, list[OpenAnswer]]:
    answers: dict[str, list[OpenAnswer]] = {}
    for item, name in zip(results, names, strict=True):
        if item.open_answers:
            answers.setdefault(name, []).extend(item.open_answers)
    return answers


def _samples(answers: Mapping[str, Sequence[OpenAnswer]]) -> list[dict[str, Any]]:
    """The first open questions of each language that all models answered, with the answers whole."""
    if not answers:
        return []
    by_model = {model: {answer.id: answer for answer in some} for model, some in answers.items()}
    first = next(iter(answers.values()))
    shared = [answer for answer in first if all(answer.id in some for some in by_model.values())]
    shared.sort(key=lambda answer: not answer.id.startswith("open_questions/"))
    chosen = [
        answer
        for language in ("zh", "en")
        for answer in [answer for answer in shared if answer.language == language][:_SAMPLES]
    ]
    return [
        {
            "id": answer.id,
            "language": answer.language,
            "question": answer.question,
            "answers": {model: some[answer.id].answer for model, some in by_model.items()},
        }
        for answer in chosen
    ]


def _models(results: Sequence[Results], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each model once, with what its results were made from."""
    models: dict[str, dict[str, Any]] = {}
    for item, name in zip(results, names, strict=True):
        row = models.setdefault(name, {"name": name, "results": [], "lineage": []})
        node = item.node
        settings = {} if node is None else node.settings
        plain = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        row["results"].append(
            {
                "kind": item.kind,
                "folder": item.folder.name if node is None else node.name,
                "digest": "" if node is None else node.digest,
                "settings": plain,
                "measured": dict(item.measured),
            }
        )
        known = {(ancestor["name"], ancestor["digest"]) for ancestor in row["lineage"]}
        names_of = ("name", "type", "digest", "kind", "license")
        ancestors = [] if node is None else list(node.walk())[1:]
        # what the results say themselves comes first: of another store the manifests behind them are not here
        told = [dict(ancestor) for ancestor in item.lineage]
        for ancestor in (*told, *({field: getattr(ancestor, field) for field in names_of} for ancestor in ancestors)):
            if (ancestor["name"], ancestor["digest"]) not in known:
                known.add((ancestor["name"], ancestor["digest"]))
                row["lineage"].append(ancestor)
    return [{**row, "made_from": condense_lineage(row["lineage"])} for row in models.values()]
