"""A results folder: what a model scored on tasks, and every single answer that the scores are made of.

`results.json` holds the model, the versions and one entry for each task under each profile; `samples-TASK.jsonl` (under
a second profile `samples-TASK@PROFILE.jsonl`) a line for each question. A reader checks that both belong together, so
that a score always opens down to its questions.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json, write_json
from hanlin.core.i18n import tr
from hanlin.core.resumable import read_rows, write_rows
from hanlin.core.version import __version__
from hanlin.evaluate.scoring import Z_95, wilson_interval

RESULTS_FILE = "results.json"
FORMAT = "hanlin-results/1"
Form = Literal["plain", "chat"]
Average = Literal["micro", "macro"]
Control = Literal["", "format_only", "no_examples"]
_PACKAGES = ("torch", "transformers", "tokenizers", "xllamacpp", "lm_eval")


class Sample(TypedDict, total=False):
    """One question and its answer, a line of `samples-TASK.jsonl`.

    `id`, `subject`, `prompt_sha256`, `target`, `answer` and `scores` are always there. The prompt's hash is over the
    text or the token ids that the model got; `question` is the question alone, without its worked examples.

    Attributes:
        id: Unique in its task: `SUBJECT/SPLIT/ROW`, or the row's own id.
        subject: The part of the task that it belongs to; empty if the task has no parts.
        question: The text of the question, after its passage.
        choices: The texts of its choices.
        prompt_sha256: SHA-256 of the whole prompt.
        shots: Worked examples in the prompt; None if not even the question alone fitted the context.
        target: The right answer: a letter or text, or a list of accepted texts; None if it is kept secret.
        answer: The answer that was scored: of choices the chosen letter, of open answers what was extracted from
            `output`; None if none could be extracted, or the question did not fit.
        output: All that the model wrote, of open answers.
        finish: Why it stopped: `stop`, `length` or `until` (a text of the task that ends an answer).
        tokens: Tokens that it wrote.
        logprobs: Log probability of each choice, or of the target (natural, summed over its tokens).
        scores: Each metric's value for this question, from 0 to 1.
        contaminated: Whether a data stage found the question in the training data.
    """

    id: str
    subject: str
    question: str
    choices: Sequence[str]
    prompt_sha256: str
    shots: int | None
    target: Any
    answer: str | None
    output: str
    finish: str
    tokens: int
    logprobs: Sequence[float]
    scores: Mapping[str, float]
    contaminated: bool


@dataclass(frozen=True, slots=True)
class Score:
    """The mean of a metric with its standard error and 95 % interval.

    The interval is Wilson's where each question scores 0 or 1, else the normal one, cut at 0 and 1; of a mean over
    subjects it is made of theirs (`mean_of_subjects`).
    """

    value: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task under one profile.

    Attributes:
        task: Its name.
        task_version: Version of the task file.
        language: `zh` or `en`.
        profile: Name of the scoring profile: who asks in this way.
        profile_version: Its version: of the program or the scripts that it follows, and ours of its description.
        form: `plain` text, or `chat` (through the model's template).
        thinking: Whether the template was asked to think; None if it was not told.
        method: How the answer is found: `choices` (likeliest continuation), `target` (log probability of the right
            one) or `generate`.
        shots: Worked examples asked for; `fewest_shots` is the smallest number that fitted a prompt.
        metric: Name of the main metric, one of `scores`.
        average: Whether `scores` are means over questions (`micro`) or over subjects (`macro`).
        questions: Number of questions, all of which count.
        scores: Each metric; empty for a split whose answers are secret.
        subjects: Each subject's number of questions and scores of the main metric.
        chance: Expected score of guessing; None for open answers. `near_chance` says that the interval holds it.
        too_long: Questions that did not fit the context even alone: scored 0.
        not_extracted: Open answers in which no answer was found: scored 0. `not_extracted_share` is of all questions.
        prompts_sha256: SHA-256 over the prompts' hashes in order: equal if and only if the same was asked.
        example_prompt: The first prompt, as text.
        samples: Name of the file with its samples.
        samples_sha256: Hash of that file.
        submission: Name of a file for the authors' site, if the answers are secret.
        control: Of a task asked once more, to tell what its format alone is worth: `format_only` (its worked examples
            have random answers) or `no_examples`. Empty for the task itself.
        format_effect: What the controls show, as `tasks.format_control.measure_format` gives it; empty without them.
    """

    task: str
    task_version: int
    language: str
    profile: str
    profile_version: str
    form: Form
    thinking: bool | None
    method: str
    shots: int
    fewest_shots: int | None
    metric: str
    average: Average
    questions: int
    scores: Mapping[str, Score]
    subjects: Mapping[str, Mapping[str, float]]
    chance: float | None
    near_chance: bool
    too_long: int
    not_extracted: int
    not_extracted_share: float
    prompts_sha256: str
    example_prompt: str
    samples: str
    samples_sha256: str
    submission: str = ""
    control: Control = ""
    format_effect: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> Score | None:
        """The main metric; None for a split whose answers are secret."""
        return self.scores.get(self.metric)

    @property
    def label(self) -> str:
        """`TASK@PROFILE`, of a control `TASK@PROFILE+CONTROL`: unique in a results folder."""
        return f"{self.task}@{self.profile}" + (f"+{self.control}" if self.control else "")


@dataclass(frozen=True, slots=True)
class Results:
    """A results folder.

    Attributes:
        model: `name`, `kind` (model, adapter, gguf, quantized or address), `engine`, `dtype`, and `sha256` of its
            configuration and the names and sizes of its weights.
        tasks: Each task under each profile, in the order that they were asked.
        settings: What was asked for: seed, limit, shots, ...
        versions: Python, Hanlin and the packages that computed.
        folder: Where it was read from; None before it is written.
        lineage: What the model and the data were made from, as `describe_lineage` gives it; empty if no manifest lies
            beside them.
    """

    model: Mapping[str, Any]
    tasks: Sequence[TaskResult]
    settings: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    lineage: Sequence[Mapping[str, str]] = ()

    def find(self, task: str, profile: str = "") -> TaskResult | None:
        """The result of a task, of the first profile if none is named; None if it was not asked."""
        rows = (row for row in self.tasks if row.task == task and not row.control)
        return next((row for row in rows if profile in ("", row.profile)), None)

    def read_samples(self, result: TaskResult) -> list[Sample]:
        """The samples of a task, in order. Raises UserError if the file is missing or was changed."""
        assert self.folder is not None
        path = self.folder / result.samples
        if not path.is_file():
            raise UserError(tr("the answers of {task} are missing", task=result.label), path)
        if _sha256(path) != result.samples_sha256:
            raise UserError(
                tr("the answers of {task} are not those that were scored", task=result.label),
                path,
                tr("evaluate again, or take the folder as it was written"),
            )
        return cast("list[Sample]", read_rows(path))


def samples_name(task: str, profile: str, is_only: bool, control: Control = "") -> str:
    """The name of a file of samples; `is_only`: the task is asked under no other profile."""
    name = f"samples-{task}" if is_only else f"samples-{task}@{profile}"
    return f"{name}+{control}.jsonl" if control else f"{name}.jsonl"


def write_samples(folder: Path, name: str, samples: Iterable[Sample]) -> str:
    """Write a file of samples and return its SHA-256."""
    write_rows(folder / name, (dict(sample) for sample in samples))
    return _sha256(folder / name)


def write_results(folder: Path, results: Results) -> None:
    """Write `results.json`, after all files of samples. It holds no time: two equal runs write equal bytes."""
    data = {
        "format": FORMAT,
        "model": dict(results.model),
        "settings": dict(results.settings),
        "versions": dict(results.versions),
        "lineage": [dict(row) for row in results.lineage],
        "tasks": [asdict(row) for row in results.tasks],
    }
    write_json(folder / RESULTS_FILE, data)


def read_results(folder: Path) -> Results:
    """Read a results folder.

    Args:
        folder: The folder, or its `results.json`.

    Raises:
        UserError: It holds no results, or they are damaged or of another format.
    """
    path = folder / RESULTS_FILE if folder.is_dir() else folder
    if not path.is_file():
        hint = tr("name the folder that `hanlin evaluate --tasks ... --out FOLDER` wrote")
        raise UserError(tr("there are no results of tasks here"), folder, hint)
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            what = tr("these results have the format {format!r}, not {known}", format=data["format"], known=FORMAT)
            raise UserError(what, path, tr("evaluate again with this version of Hanlin"))
        tasks = []
        for row in data["tasks"]:
            scores = {name: Score(**score) for name, score in row["scores"].items()}
            tasks.append(TaskResult(**{**row, "scores": scores}))
        return Results(data["model"], tasks, data["settings"], data["versions"], path.parent, data.get("lineage", ()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(tr("these are no results of tasks, or they are damaged"), path) from error


def describe_lineage(inputs: Inputs) -> list[dict[str, str]]:
    """The model and the data that a stage reads and everything they were made from, each once, nearest first: `name`,
    `type`, `kind` of the stage that made it, `digest` of its bytes, `license`.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in ("model", "data"):
        for node in inputs.lineage.get(name, ()):
            for ancestor in node.walk():
                fields = ("name", "type", "kind", "digest", "license")
                row = {field: str(getattr(ancestor, field)) for field in fields}
                rows.setdefault((ancestor.name, ancestor.digest), row)
    return list(rows.values())


def summarize(
    samples: Sequence[Sample], metrics: Sequence[str], average: Average
) -> tuple[dict[str, Score], dict[str, dict[str, float]]]:
    """The scores of a task and of its subjects.

    Args:
        samples: All its samples; a score that a sample lacks counts as 0.
        metrics: Names of the metrics, the main one first.
        average: `micro`: mean over questions. `macro`: mean over subjects.

    Returns:
        The score of each metric, and for each subject `questions` and `value`, `low`, `high`, `standard_error` of the
        main metric.
    """
    if not samples:
        return {}, {}
    by_subject: dict[str, list[Sample]] = {}
    for sample in samples:
        by_subject.setdefault(sample["subject"], []).append(sample)

    def values(rows: Sequence[Sample], metric: str) -> list[float]:
        return [float(row["scores"].get(metric, 0.0)) for row in rows]

    scores: dict[str, Score] = {}
    for metric in metrics:
        if average == "macro" and len(by_subject) > 1:
            scores[metric] = mean_of_subjects([mean_score(values(rows, metric)) for rows in by_subject.values()])
        else:
            scores[metric] = mean_score(values(samples, metric))
    subjects = {
        name: {"questions": len(rows), **asdict(mean_score(values(rows, metrics[0])))}
        for name, rows in by_subject.items()
    }
    return scores, subjects


def mean_of_subjects(parts: Sequence[Score]) -> Score:
    """The mean of the scores of subjects, with the standard error √Σ se² / subjects.

    Its limits lie √Σ (distance of a subject's limit)² / subjects from it (MOVER: Zou and Donner 2008, Statistics in
    Medicine 27, section 2): of subjects whose questions are all right or all wrong the standard error is 0, and the
    normal interval of such an exam would have no width.
    """
    count = len(parts)
    mean = sum(part.value for part in parts) / count
    below, above, error = (
        math.sqrt(sum(distance**2 for distance in distances)) / count
        for distances in (
            [part.value - part.low for part in parts],
            [part.high - part.value for part in parts],
            [part.standard_error for part in parts],
        )
    )
    return Score(mean, max(0.0, mean - below), min(1.0, mean + above), error)


def mean_score(values: Sequence[float]) -> Score:
    """The mean of values from 0 to 1, with its standard error and 95 % interval. The values are not empty.

    One value between 0 and 1 alone says nothing of how others lie around it: its interval is all that there is.
    """
    total = len(values)
    mean = sum(values) / total
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (total - 1) / total) if total > 1 else 0.0
    if all(value in (0.0, 1.0) for value in values):
        interval = wilson_interval(int(sum(values)), total)
        return Score(mean, interval.low, interval.high, error)
    if total == 1:
        return Score(mean, 0.0, 1.0, error)
    return Score(mean, max(0.0, mean - Z_95 * error), min(1.0, mean + Z_95 * error), error)


def hash_prompts(hashes: Iterable[str]) -> str:
    """SHA-256 over the hashes of prompts in order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def installed_versions(find: Callable[[str], str] = version) -> dict[str, str]:
    """The versions of Python, of Hanlin and of the packages that compute, as far as they are installed."""
    versions = {"python": platform.python_version(), "hanlin": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = find(name)
        except PackageNotFoundError:
            continue
    return versions


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
