"""lm-evaluation-harness's own task files, with their data from a local folder and nothing from the hub."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._yaml_loader import load_yaml

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr
from hanlin.evaluate.harness.data_sets import (
    FILE_BUILDERS,
    LocalData,
    describe_places,
    find_data_set,
    resolve_split,
)

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


class LocalTasks:
    """The tasks of lm-evaluation-harness by name, over a data folder.

    Args:
        data: The folder of their data sets.
        names: Tasks, groups and tags; or task files and folders of task files in the data folder.
        trusted: Whether task files in the data folder may be loaded: their templates and functions are programs, so not
            those that were fetched from a hub.

    Raises:
        UserError: A name is unknown, or a task file of the data folder is no task file or not trusted.
    """

    def __init__(self, data: Path, names: Sequence[str], *, trusted: bool = True) -> None:
        self._data = data
        self._without_examples: set[str] = set()
        folders: list[str] = []
        self._names: list[str] = []
        self._files: list[str] = []
        has_packaged = False
        for name in dict.fromkeys(part.strip() for text in names for part in text.split(",")):
            if not name:
                continue
            path = data / name
            files = _task_files(path)
            if files and not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(data)):
                raise UserError(tr("a file of a task lies outside the data folder"), name)  # no key would hold it
            names_in_files = [_read_name(file, trusted) for file in files]
            if files and path.is_dir():
                self._names += names_in_files
                folders.append(str(path))
            elif files:
                self._files.append(str(path.resolve()))
            else:
                self._names.append(name)
                has_packaged = True
        if not self._names and not self._files:
            raise UserError(tr("no task is named"), "lm_eval_tasks", tr("for example arc_easy,mmlu"))
        if folders or not has_packaged:
            self._manager = TaskManager(include_path=folders or None, include_defaults=has_packaged)
        else:
            self._manager = copy.copy(_packaged_tasks())
        known = self._manager.all_tasks
        for name in self._names:
            if name not in known:
                what = tr("lm-evaluation-harness has no task '{name}'", name=name)
                raise UserError(what, "lm_eval_tasks", did_you_mean(name, known))
        self._manager._factory = _LocalTaskFactory(self._find)

    def load(self) -> Any:
        """Load the tasks with their data: lm-evaluation-harness's dictionary of tasks and groups.

        Raises:
            UserError: The data of a task is not here, lacks a split or does not fit it.
        """
        with _only_local_data(self._find_for_library):
            try:
                return self._manager.load([*dict.fromkeys(self._names), *self._files])
            except UserError:
                raise
            except ModuleNotFoundError as error:
                what = tr("a task needs the package {name}", name=error.name)
                raise UserError(what, "lm_eval_tasks", f"pip install {error.name}") from error
            except Exception as error:  # of whatever kind a task file's functions raise
                shown = " ".join(str(error).split())[:200]
                what = tr(
                    "a task cannot be loaded over this data: {problem}", problem=f"{type(error).__name__}: {shown}"
                )
                raise UserError(what, self._data) from error

    def has_examples(self, task: str) -> bool:
        """Whether worked examples beside the questions are here, for a task that was loaded."""
        return task not in self._without_examples

    def _find(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What replaces settings of a task file: where its data comes from, and a step that its data need not go
        through.
        """
        path, name = str(config.get("dataset_path") or ""), str(config.get("dataset_name") or "")
        if not path or path in FILE_BUILDERS or callable(config.get("custom_dataset")) or "class" in config:
            return {}
        found = find_data_set(path, name, self._data)
        if found is None:
            raise _missing_data(path, name, self._data, str(config.get("task") or ""))
        asked = str(config.get("test_split") or config.get("validation_split") or "test")
        questions = found.splits["test"] if found.is_converted else resolve_split(found, asked)
        if questions is None:
            raise _missing_split(_title(path, name), found, asked)
        others = LocalData({split: rows for split, rows in found.splits.items() if rows is not questions})
        splits = {**found.splits, asked: questions}
        for split in {str(config[key]) for key in _SPLITS if config.get(key)} - {asked}:
            rows = others.splits.get("train") if found.is_converted else resolve_split(others, split)
            splits[split] = questions[:1] if rows is None else rows
            is_pool = split == str(config.get("fewshot_split") or config.get("training_split"))
            if rows is None and is_pool and not _has_samples(config):
                self._without_examples.add(str(config.get("task")))
        data = LocalData(splits)
        made = _LocalDataSets(_title(path, name), data)
        return {"custom_dataset": lambda **options: made, **({"process_docs": None} if found.is_processed else {})}

    def _find_for_library(self, path: str, name: str | None = None, **options: Any) -> Any:
        """What `datasets.load_dataset` gives to task files: the local rows of a data set."""
        found = find_data_set(path, name or "", self._data, data_files=options.get("data_files"))
        title = _title(path, name or "")
        if found is None:
            raise _missing_data(path, name or "", self._data)
        split = options.get("split")
        if split is None:
            return _LocalDataSets(title, found)
        rows = resolve_split(found, str(split))
        if rows is None:
            raise _missing_split(title, found, str(split))
        return datasets.Dataset.from_list(rows)


@functools.cache
def _packaged_tasks() -> Any:
    """Its own tasks by name. To read its 14,000 files takes 13 s."""
    return TaskManager()


class _LocalDataSets(dict[str, Any]):
    """The splits of a data set, each made when it is asked for."""

    def __init__(self, title: str, data: LocalData) -> None:
        super().__init__(dict.fromkeys(data.splits))
        self._title, self._data_of = title, data
        self._read = functools.cache(self._make)

    def _make(self, split: str) -> Any:
        rows = resolve_split(self._data_of, split)
        if rows is None:
            raise _missing_split(self._title, self._data_of, split)
        return datasets.Dataset.from_list(rows)

    def __getitem__(self, split: str) -> Any:
        return self._read(split)


def _refuse_unsafe(config: Mapping[str, Any]) -> None:
    task = str(config.get("task") or "")
    if config.get("unsafe_code"):
        raise UserError(tr("the task {task} runs what the model writes as a program", task=task), "lm_eval_tasks")
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise UserError(tr("the task {task} shows pictures or sound", task=task), "lm_eval_tasks")


def _title(path: str, name: str) -> str:
    return f"{path} ({name})" if name else path


def _missing_data(path: str, name: str, data: Path, task: str = "") -> UserError:
    title = _title(path, name)
    if task:
        what = tr("the data set {name} of the task {task} is not here", name=title, task=task)
    else:
        what = tr("the data set {name} is not here", name=title)
    return UserError(what, data, tr("looked for {names}", names=describe_places(path)))


def _has_samples(config: Mapping[str, Any]) -> bool:
    """Whether a task file holds its worked examples itself."""
    few_shot = config.get("fewshot_config")
    return isinstance(few_shot, Mapping) and few_shot.get("samples") is not None


def _missing_split(title: str, data: LocalData, split: str) -> UserError:
    what = tr("the data set {name} has no split '{split}' here", name=title, split=split)
    return UserError(what, None, tr("it has {names}", names=join_list(sorted(data.splits))))


class _LocalTaskFactory(TaskFactory):  # type: ignore[misc]
    """Builds tasks with the data that `find` gives for their settings."""

    def __init__(self, find: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        super().__init__(meta=None)
        self._find = find

    def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        if entry.yaml_path:  # before its functions are imported, which may fetch or run something
            _refuse_unsafe(load_yaml(entry.yaml_path, resolve_func=False))
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        return {**config, **self._find(config)}


@contextmanager
def _only_local_data(find: Callable[..., Any]) -> Iterator[None]:
    """Inside the block whatever asks for a data set of the hub gets the local one: task files have no other way."""
    original = datasets.load_dataset
    datasets.load_dataset = find
    try:
        yield
    finally:
        datasets.load_dataset = original


def _task_files(path: Path) -> list[Path]:
    """The task files that a name in the data folder means. A data set may have the name of a task, but holds none."""
    if path.is_dir():
        return sorted(path.rglob("*.yaml"))
    return [path] if path.suffix in (".yaml", ".yml") and path.is_file() else []


def _read_name(file: Path, trusted: bool) -> str:
    """The name of the task or group that a task file of a user defines."""
    if not trusted:
        what = tr("a task file from a hub is a program that would be run")
        raise UserError(what, file, tr("read it, and name a copy in a folder of your own"))
    try:
        config = load_yaml(file, resolve_func=False)
    except Exception as error:  # what yaml raises, and an include that is not there
        what = tr("not a task file of lm-evaluation-harness: {problem}", problem=" ".join(str(error).split())[:200])
        raise UserError(what, file) from error
    name = config.get("task") if not isinstance(config.get("task"), list) else config.get("group")
    name = name or config.get("group")
    if not isinstance(name, str) or not name:
        raise UserError(tr("this task file names no task"), file, tr("`task: NAME` is its name"))
    return name


def packaged_folder() -> Path:
    """The folder of lm-evaluation-harness's task files."""
    return Path(str(lm_eval.tasks.__file__)).parent
