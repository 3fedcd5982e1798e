"""Starting runs from the page, stopping them as Ctrl-C does, and letting them go on: each is a `hanlin run` of its own.

A run that was started from the page is no child of the page's process: it goes on when the page is closed.
"""

from __future__ import annotations

import time
from pathlib import Path

import filelock

from hanlin.config.recipe_file import read_recipe
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import process_start_time, python_command, start_detached
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import RunSource, read_run_record

PAGE_LOG = "page.log"
"""What a run that was started from the page prints, in the folder of the run."""
_START_LOCK = ".start.lock"
_SHOWN_LOG_BYTES = 20_000
_SECONDS_TO_BEGIN = 20.0
"""A command takes half a second to begin, on a busy machine ten times as long."""


def start_run(store: Store, source: RunSource, folder: Path) -> str:
    """Start `hanlin run` for a recipe.

    Args:
        store: Where its artifacts are.
        source: The recipe's file, overrides, and the last stage.
        folder: The folder that it works in, where relative roots start.

    Returns:
        The name of the run.

    Raises:
        UserError: The recipe is not valid, or a run of its name is going on.
    """
    recipe = read_recipe(Path(source.recipe), source.changes)
    if source.until:
        recipe.until(source.until)
    lock_file = store.run_folder(recipe.name) / _START_LOCK
    if lock_file.is_symlink():  # a lock empties the file that it is
        lock_file.unlink()
    try:  # until its record is there, half a second, nothing else says that a run has been started
        with filelock.FileLock(lock_file, timeout=0):
            _start(store, source, folder, recipe.name)
    except filelock.Timeout:
        raise _going_on(recipe.name) from None
    except NotImplementedError as error:
        what = tr("this file system has no locks, which keep two runs apart")
        raise UserError(what, lock_file.parent, tr("keep the store on another disk")) from error
    return recipe.name


def _going_on(name: str) -> UserError:
    return UserError(tr("a run of this recipe is going on"), name, tr("stop it first, or wait"))


def _start(store: Store, source: RunSource, folder: Path, name: str) -> None:
    record = read_run_record(store.runs / name)
    if record is not None and record.is_alive():
        raise _going_on(name)
    log = store.run_folder(name) / PAGE_LOG
    if log.is_symlink():
        log.unlink()
    log.write_bytes(b"")
    changes = [word for change in source.changes for word in ("--set", change)]
    until = ["--until", source.until] if source.until else []
    command = python_command("-m", "hanlin", "run", str(Path(source.recipe).absolute()), *changes, *until)
    pid = start_detached([*command, "--home", str(store.home.absolute())], log.absolute(), folder=folder)
    _wait_for_record(store.runs / name, pid)


def _wait_for_record(folder: Path, pid: int) -> None:
    """Wait until a run that was started has written its record: the page shows it by that.

    Raises:
        UserError: It ended before, with the last line that it printed.
    """
    deadline = time.monotonic() + _SECONDS_TO_BEGIN
    while time.monotonic() < deadline:
        has_ended = process_start_time(pid) is None  # asked first: it may write its record and end in between
        record = read_run_record(folder)
        if record is not None and record.pid == pid:
            return
        if has_ended:
            lines = read_log(folder).strip().splitlines()
            raise UserError(tr("the run ended at once: {line}", line=lines[-1] if lines else "–"), folder.name)
        time.sleep(0.05)


def resume_run(store: Store, name: str, folder: Path) -> None:
    """Start the command of a run again, which goes on where it ended.

    Raises:
        UserError: The run was started from no recipe's file, which is needed to go on; or as `start_run`.
    """
    record = read_run_record(store.runs / name)
    if record is None or not record.source.recipe:
        raise UserError(tr("it is not known which recipe this run is of"), name, tr("start it with `hanlin run`"))
    start_run(store, record.source, Path(record.source.folder or folder))


def stop_run(store: Store, name: str) -> None:
    """Interrupt a run. Raises UserError if it is not running on this machine."""
    record = read_run_record(store.runs / name)
    if record is None:
        raise UserError(tr("it is not known which process this run is"), name, tr("stop it where it was started"))
    record.interrupt()


def read_log(folder: Path) -> str:
    """The end of what a run that was started from the page has printed; empty if it was not."""
    path = folder / PAGE_LOG
    try:
        if path.is_symlink():
            return ""
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _SHOWN_LOG_BYTES))
            data = file.read()
    except OSError:
        return ""
    text = data.decode("utf-8", "replace")
    return text if size <= _SHOWN_LOG_BYTES else text.partition("\n")[2]
