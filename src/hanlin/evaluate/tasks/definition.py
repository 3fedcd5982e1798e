"""Task files: which questions a task asks, in which layouts they come, and how each profile asks and scores them.

A task file is YAML, `name: definition` for one task or several. Templates hold fields of a question in braces:
`{question}`, `{passage}`, ..., and `{choices}` (a line `A. ...` for each choice), `{choice}` and `{letter}` of the one
choice that is scored, `{answer}` (the right letter, choice or text), `{subject}`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml

from hanlin.config.settings.base import Settings, setting
from hanlin.config.settings.evaluate import OWN_QUESTIONS, TASK_GROUPS, task_names
from hanlin.config.validation import read_settings
from hanlin.config.yaml_text import load_yaml
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Compare = Literal["choice", "choice_norm", "greedy", "exact", "contains", "number", "regex", "f1", "row", "ifeval"]
Method = Literal["choices", "target", "generate"]


class Metric(Settings):
    """How an answer is scored, from 0 to 1.

    Values of `compare`: `choice` (the likeliest choice is the right one), `choice_norm` (the same for log probabilities
    divided by the number of characters of the choice), `greedy` (greedy decoding gives the target), `exact`,
    `contains`, `number`, `regex` (a target is a pattern), `f1` (of characters for Chinese, of words otherwise), `row`
    (each question names its own), `ifeval` (the share of its instructions that are followed; `all`: whether all are).
    """

    name: str = setting(description="name of the metric")
    compare: Compare = setting(description="how the answer is compared with the right one")
    extract: str = setting("", description="pattern of the answer in the output; its first group that matched counts")
    pick: Literal["first", "last"] = setting("first", description="which match of the pattern counts")
    remove: tuple[str, ...] = setting((), description="patterns to remove from answer and target before they are equal")
    ignore_case: bool = setting(False, description="whether capital letters count as small ones")
    ignore_punctuation: bool = setting(False, description="whether ASCII punctuation is left out")
    variant: Literal["", "all", "loose"] = setting("", description="variant of `ifeval`")


class Profile(Settings):
    """How a task is asked and scored: a difference between two profiles is a difference in one of these."""

    version: str = setting(description="version of what it follows, and its source")
    method: Method = setting(description="how an answer is found")
    prompt: str = setting(description="template of a question, up to the answer")
    answer: str = setting(" {answer}", description="template of what follows the prompt in a worked example")
    continuation: str = setting(" {choice}", description="template of what is scored after the prompt")
    heading: str = setting("", description="template of what stands before all, its line ends included")
    example_prompt: str = setting("", description="template of a question in a worked example; empty: `prompt`")
    separator: str = setting("\n\n", description="what stands between worked examples and before the question")
    letter_token: bool = setting(
        False, description="whether a letter is scored as the token that it is alone, whatever stands before it"
    )
    shots: int = setting(0, description="worked examples", ge=0)
    sample_shots: bool = setting(
        False,
        description="whether worked examples are drawn for each question as lm-evaluation-harness does; else the first",
    )
    metrics: tuple[Metric, ...] = setting(description="metrics; the first is the score")
    average: Literal["micro", "macro"] = setting("micro", description="mean over questions or over subjects")
    until: tuple[str, ...] = setting((), description="texts that end an answer")
    max_new_tokens: int = setting(256, description="maximum number of tokens of an answer", ge=1)


class RowLayout(Settings):
    """One layout in which rows of a task are found: where each part of a question is in a row.

    A path is a name, or names with dots between (`choices.text`, `options.0`).
    """

    fields: dict[str, str] = setting({}, description="path of each field that the templates name")
    find: dict[str, str] = setting({}, description="pattern in a field; its first group is the field")
    remove: dict[str, str] = setting({}, description="pattern to remove from a field, `choices` included")
    values: dict[str, dict[str, str]] = setting({}, description="texts that stand for the values of a field")
    choices: str | tuple[str, ...] = setting((), description="path of the list of choices, or a path for each")
    choice_texts: tuple[str, ...] = setting((), description="choices that all questions share")
    split_choices: str = setting("", description="pattern between choices that are one text")
    gold: str = setting("", description="path of the right choice: its number from 0, letter or text")
    gold_index: int | None = setting(None, description="number of the right choice, if it is the same in all rows")
    labels: str | tuple[str, ...] = setting(
        (), description="values of `gold` in the order of the choices, or their path"
    )
    answers: str | tuple[str, ...] = setting((), description="fields or paths of accepted answers, texts or lists")
    skip: dict[str, str] = setting({}, description="values of fields of rows that are no questions")
    subject: str = setting("", description="path of the subject")
    id: str = setting("", description="path of the id")
    rows: Literal["", "squad", "c3", "gaokao"] = setting("", description="how rows are found inside a row of the file")


class Task(Settings):
    """A task: its files, their layouts, its profiles."""

    version: int = setting(1, description="raised when questions, layouts or scores change", ge=1)
    description: str = setting(description="what it asks")
    language: Literal["zh", "en"] = setting(description="language of the questions")
    reader: Literal["rows", "exam", "own"] = setting("rows", description="how its files are read")
    files: tuple[str, ...] = setting((), description="patterns of its files in the data folder; the first that match")
    labels_file: str = setting("", description="pattern of the file that holds the right choices, a line each")
    shots_files: tuple[str, ...] = setting((), description="patterns of the files of worked examples")
    own_examples: bool = setting(
        True, description="whether other questions are the worked examples if there is no file of them"
    )
    layouts: tuple[RowLayout, ...] = setting((), description="layouts of its rows; the first whose parts are there")
    columns: tuple[str, ...] = setting((), description="columns of an exam's files; empty: six without a heading")
    split: str = setting("test", description="part of an exam that is asked")
    subject_names: Literal["", "cmmlu", "ceval"] = setting("", description="table of the subjects' names")
    profiles: dict[str, Profile] = setting(description="how it is asked; the first is the default")

    def profile(self, name: str, task: str) -> tuple[str, Profile]:
        """A profile by name; empty: the first. Raises UserError if there is none of that name."""
        name = name or next(iter(self.profiles))
        if name not in self.profiles:
            what = tr("the task {task} has no profile '{name}'", task=task, name=name)
            raise UserError(what, "profiles", tr("it has {names}", names=join_list(list(self.profiles))))
        return name, self.profiles[name]


@functools.cache
def packaged_tasks() -> dict[str, Task]:
    """The tasks that come with Hanlin, by name."""
    tasks: dict[str, Task] = {}
    for file in sorted(
        resources.files("hanlin.evaluate.tasks").joinpath("files").iterdir(), key=lambda path: path.name
    ):
        if file.name.endswith(".yaml"):
            tasks |= read_tasks(file.read_text(encoding="utf-8"), file.name)
    return tasks


def read_tasks(text: str, location: str | Path) -> dict[str, Task]:
    """Read a task file.

    Args:
        text: The YAML.
        location: The file, for messages.

    Raises:
        UserError: It is not YAML, or a definition has a setting that is wrong or missing; with file and setting.
    """
    try:
        data, _ = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(tr("not YAML: {problem}", problem=str(error).splitlines()[0]), location) from error
    if not isinstance(data, dict) or not data or not all(isinstance(name, str) for name in data):
        raise UserError(tr("a task file holds `name: definition`"), location)
    return {name: _read_task(name, row, location) for name, row in data.items() if not name.startswith("_")}


def _read_task(name: str, row: object, location: str | Path) -> Task:
    owner = tr("the task {name}", name=name)
    task: Task = read_settings(Task, row, f"{location}: {name}", owner)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(tr("the name of a task is letters, digits, `_`, `-` and `.`"), f"{location}: {name}")
    if not task.profiles or not all(profile.metrics for profile in task.profiles.values()):
        raise UserError(tr("a task needs a profile, and a profile a metric"), f"{location}: {name}")
    for profile in task.profiles.values():
        for pattern in (text for metric in profile.metrics for text in (metric.extract, *metric.remove)):
            _check_pattern(pattern, f"{location}: {name}")
    for layout in task.layouts:
        for pattern in (*layout.find.values(), *layout.remove.values(), layout.split_choices):
            _check_pattern(pattern, f"{location}: {name}")
    return task


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        what = tr("{pattern!r} is no regular expression: {error}", pattern=pattern, error=error)
        raise UserError(what, where) from error


def find_tasks(names: Sequence[str], data: Path) -> dict[str, Task]:
    """The tasks that a user names, in order, each once.

    Args:
        names: Names of tasks or groups, or of files in the data folder: task files (`.yaml`), or questions of your own
            (`.jsonl`, `.json`, `.csv`), which become the task of their name.
        data: The data folder.

    Raises:
        UserError: A name is unknown (with the nearest known one), or a file is no task file.
    """
    known = packaged_tasks()
    found: dict[str, Task] = {}
    for name in dict.fromkeys(part.strip() for text in names for part in text.split(",")):
        if not name:
            continue
        file = data / name
        if file.is_file() and not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(data)):
            raise UserError(tr("a file of a task lies outside the data folder"), name)  # no key would hold it
        if name in TASK_GROUPS:
            named = {member: known[member] for member in TASK_GROUPS[name]}
        elif name in known:
            named = {name: known[name]}
        elif name.endswith((".yaml", ".yml")) and file.is_file():
            named = read_tasks(file.read_text(encoding="utf-8"), file)
        elif "." in name and file.is_file():
            named = {file.name.partition(".")[0]: known[OWN_QUESTIONS].model_copy(update={"files": (name,)})}
        else:
            raise UserError(tr("there is no task '{name}'", name=name), "tasks", did_you_mean(name, task_names()))
        for task_name, task in named.items():
            if found.setdefault(task_name, task) != task:  # its results would replace those of the other
                what = tr("two tasks are called '{name}'", name=task_name)
                raise UserError(what, "tasks", tr("give the second file another name, or evaluate it on its own"))
    if not found:
        raise UserError(tr("no task is named"), "tasks", tr("for example cmmlu,mmlu,arc_easy"))
    return found
