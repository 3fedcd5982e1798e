"""The record of a recipe's last run, `runs/<recipe>/run.json`: which command it was, which process, how it ended.

The page reads it to show runs that were started anywhere, to stop one as Ctrl-C does, and to let one go on. Of two runs
of one recipe at the same time the later is recorded.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object, write_json
from hanlin.core.i18n import tr
from hanlin.core.process import process_start_time
from hanlin.core.signals import Terminated
from hanlin.pipeline.artifacts import Store

RUN_FILE = "run.json"
Outcome = Literal["running", "done", "failed", "interrupted"]
_OUTCOMES = ("running", "done", "failed", "interrupted")
_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class RunSource:
    """Where a recipe came from: its file, the overrides and the last stage that were asked for, and the folder that the
    command ran in, at which a relative root starts.
    """

    recipe: str = ""
    changes: tuple[str, ...] = ()
    until: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run.

    Attributes:
        source: The recipe's file and what was changed; the file's path is empty for a recipe that was in none.
        host: The machine.
        pid: The process.
        process_started: When that process began, in the clock of its system: a number may be given to another process.
        started: When the run began, UTC.
        outcome: `running`, or how it ended.
        finished: When it ended, UTC.
        error: Why it failed.
    """

    source: RunSource
    host: str
    pid: int
    process_started: float
    started: str
    outcome: Outcome = "running"
    finished: str = ""
    error: str = ""

    def is_alive(self) -> bool:
        """Whether its process is still there; False if it was on another machine, about which nothing is known."""
        if self.outcome != "running" or self.host != socket.gethostname():
            return False
        return process_start_time(self.pid) == self.process_started

    def interrupt(self) -> None:
        """Interrupt it as Ctrl-C does: training saves a checkpoint first.

        By SIGTERM, to which a run does the same as to SIGINT: what was started in the background ignores the latter.

        Raises:
            UserError: It is not running on this machine.
        """
        if self.outcome == "running" and self.host != socket.gethostname():
            raise UserError(tr("this run is on the machine {host}: stop it there", host=self.host))
        if not self.is_alive():
            raise UserError(tr("this run has ended already"))
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError as error:
            raise UserError(tr("this run has ended already")) from error
        except PermissionError as error:
            raise UserError(tr("this run belongs to another user of this machine")) from error


def read_run_record(folder: Path) -> RunRecord | None:
    """The record in a folder `runs/<recipe>`, or None if there is none that can be read."""
    try:
        row = load_json_object(folder / RUN_FILE)
        source = row.pop("source")
        record = RunRecord(
            RunSource(source["recipe"], tuple(source["changes"]), source["until"], source["folder"]), **row
        )
    except (OSError, UserError, KeyError, TypeError):
        return None
    texts = (record.host, record.started, record.finished, record.error, *_texts_of(record.source))
    if record.outcome not in _OUTCOMES or not all(isinstance(text, str) for text in texts):
        return None
    if not isinstance(record.pid, int) or isinstance(record.pid, bool) or record.pid <= 1:
        return None
    return record


def _texts_of(source: RunSource) -> Sequence[Any]:
    return (source.recipe, source.until, source.folder, *source.changes)


@contextmanager
def record_run(name: str, store: Store, source: RunSource | None = None) -> Iterator[None]:
    """Keep the record of a run while the block lasts, and how it ended.

    Nothing is written in a store that can only be read.

    Args:
        name: The recipe.
        store: Where its artifacts are.
        source: The recipe's file; None: it is in none.
    """
    pid = os.getpid()
    started = process_start_time(pid) or 0.0
    record = RunRecord(source or RunSource(), socket.gethostname(), pid, started, _now())
    with suppress(OSError):
        store.mark()
    _write(record, name, store)
    outcome: Outcome = "failed"
    problem = ""
    try:
        yield
        outcome = "done"
    except (KeyboardInterrupt, Terminated):
        outcome = "interrupted"
        raise
    except BaseException as error:
        # it may name a file whose name is no UTF-8
        problem = (str(error) or type(error).__name__).encode("utf-8", "backslashreplace").decode("utf-8")
        raise
    finally:
        ended = replace(record, outcome=outcome, finished=_now(), error=problem)
        latest = read_run_record(store.runs / name)
        if latest is None or (latest.host, latest.pid, latest.started) == (record.host, pid, record.started):
            _write(ended, name, store)


def _now() -> str:
    return datetime.now(UTC).strftime(_TIME)


def _write(record: RunRecord, name: str, store: Store) -> None:
    with suppress(OSError, UnicodeEncodeError):  # of a recipe in a folder whose name is no UTF-8
        write_json(store.run_folder(name) / RUN_FILE, asdict(record), shared=True)
