"""Run tasks in this process, or through Daft on all cores of this machine or on a Ray cluster.

What a task does is the same function everywhere, so that no result depends on where it ran. Files are in a folder that
every worker sees; only the task and a short result are sent.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import keep_working_folder_out

SMALL_INPUT_BYTES = 24 << 20
"""Bytes of text that one process has processed before Daft and its workers would have started."""
_REPORT_INTERVAL = 1.0
"""Seconds between two reports of progress."""

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


class ProgressCounter:
    """Counts bytes that are done, and passes their sum to `on_progress`."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self.done = 0
        self._on_progress = on_progress

    def add(self, amount: int) -> None:
        """Count `amount` more bytes."""
        self.done += amount
        self._on_progress(self.done)


class Executor:
    """Runs tasks on the cores or the cluster of a stage, or in this process if they are small.

    Args:
        context: Cores, address of a Ray cluster, progress.
        folder: A folder that every worker sees.
        in_process: Run all tasks in this process.
        total_bytes: Bytes to process; 0: no progress is reported.
        done_bytes: Bytes that an earlier run has processed.
    """

    def __init__(
        self, context: StageContext, folder: Path, in_process: bool, total_bytes: int = 0, done_bytes: int = 0
    ) -> None:
        self._context, self._folder, self._in_process = context, folder, in_process
        self._total_bytes, self._done_bytes = total_bytes, done_bytes

    def map(
        self, function: Callable[[Shared, Task, ProgressCounter], Result], shared: Shared, tasks: Sequence[Task]
    ) -> Iterator[Result]:
        """Yield the results in the order of the tasks.

        Args:
            function: A function of a module; it, `shared`, tasks and results can be pickled.
            shared: First argument of every call; sent once to each worker.
            tasks: Second argument of each call.

        Raises:
            UserError, OSError, RuntimeError: As the first task (in their order) that failed.
        """
        if self._in_process or len(tasks) < 2 or (not self._context.ray and self._context.cores < 2):
            progress = ProgressCounter(
                lambda done: self._context.progress.update(self._done_bytes + done, self._total_bytes, tr("bytes"))
            )
            for task in tasks:
                yield function(shared, task, progress)
            return
        counts = self._folder / "progress"
        call = pickle.dumps((function, shared, self._folder, counts))
        packed = [pickle.dumps(task) for task in tasks]
        finished: dict[int, bytes] = {}
        next_index = 0
        with self._report_progress(counts):
            for index, result in _run_with_daft(call, packed, self._context):
                finished[index] = result
                while next_index in finished:
                    yield _unpack_result(finished.pop(next_index))
                    next_index += 1

    @contextmanager
    def _report_progress(self, counts: Path) -> Iterator[None]:
        """Report the progress of all workers during the block: each writes its own count to a file."""
        counts.mkdir(parents=True, exist_ok=True)
        for file in counts.iterdir():
            file.unlink(missing_ok=True)
        stop = threading.Event()

        def report() -> None:
            while not stop.wait(_REPORT_INTERVAL):
                done = self._done_bytes + _sum_counts(counts)
                self._context.progress.update(done, self._total_bytes, tr("bytes"))

        thread = threading.Thread(target=report, daemon=True)
        if self._total_bytes:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self._total_bytes:
                thread.join()


def _sum_counts(counts: Path) -> int:
    total = 0
    for file in counts.glob("[!.]*"):
        try:
            total += int(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is being replaced at this moment
            continue
    return total


# --- the parent process ---------------------------------------------------------------------------------------------


def _run_with_daft(call: bytes, tasks: Sequence[bytes], context: StageContext) -> Iterator[tuple[int, bytes]]:
    """Yield the indices of tasks and their pickled results, as they finish."""
    keep_working_folder_out()  # Daft gives its workers this process's environment
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    import daft

    workers = _connect_to_cluster(context.ray) if context.ray else context.cores
    workers = min(workers, len(tasks))

    class Worker:
        def __init__(self, call: bytes) -> None:
            self.call = call

        @daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=1)
        def run(self, tasks: Any) -> list[bytes]:
            return [run_task(self.call, task) for task in tasks.to_pylist()]

    pool = daft.cls(Worker, use_process=True, max_concurrency=workers, cpus=1)
    frame = daft.from_pydict({"index": list(range(len(tasks))), "task": list(tasks)})
    if context.ray:
        frame = frame.into_partitions(len(tasks))
    frame = frame.select(frame["index"], pool(call).run(frame["task"]).alias("result"))
    for row in frame.iter_rows(results_buffer_size=None):
        yield row["index"], row["result"]


def _connect_to_cluster(address: str) -> int:
    """Make Daft run on a Ray cluster; return the number of its cores. Raises UserError if there is none."""
    try:
        import ray
    except ImportError as error:
        what = tr("Ray is needed for `launch.ray`")
        raise UserError(what, None, "pip install 'hanlin[ray]'") from error
    import daft

    if not ray.is_initialized():
        try:
            if address != "auto":  # Ray itself would retry for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            with tempfile.TemporaryDirectory() as nothing, chdir(nothing):  # Ray's workers import from the folder
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            hint = tr("start one with `ray start --head`")
            raise UserError(tr("no Ray cluster answers"), address, hint) from error
    daft.set_runner_ray(address=address, noop_if_initialized=True)
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _unpack_result(result: bytes) -> Any:
    kind, value = pickle.loads(result)
    if kind == "result":
        return value
    raise {"user": UserError, "os": OSError}.get(kind, RuntimeError)(*value)


# --- a worker process -----------------------------------------------------------------------------------------------

_prepared_calls: dict[bytes, tuple[Any, Any, Path, ProgressCounter]] = {}


def run_task(call: bytes, task: bytes) -> bytes:
    """Run one task of a call in a worker process; an error is returned as data.

    Args:
        call: The pickled function, its first argument and two folders.
        task: The pickled task.

    Returns:
        The pickled result, or the kind and the arguments of an error.
    """
    try:
        if call not in _prepared_calls:
            _prepared_calls.clear()
            _prepared_calls[call] = _prepare_call(call)
        function, shared, folder, progress = _prepared_calls[call]
        if not folder.is_dir():
            host = socket.gethostname()
            hint = tr("keep the store and the sources in a folder that every machine mounts at the same "
                "path")  # fmt: skip
            what = tr("the machine {host} does not see this folder", host=host)
            raise UserError(what, folder, hint)
        return pickle.dumps(("result", function(shared, pickle.loads(task), progress)))
    except UserError as error:
        return pickle.dumps(("user", (error.what, error.where, error.hint, error.code)))
    except OSError as error:
        return pickle.dumps(("os", (error.errno, error.strerror, error.filename)))
    except Exception:
        return pickle.dumps(("failed", (traceback.format_exc(),)))


def _prepare_call(call: bytes) -> tuple[Any, Any, Path, ProgressCounter]:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"  # before the libraries of the function are loaded: each core has a worker of its own
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    function, shared, folder, counts = pickle.loads(call)
    file = counts / f"{socket.gethostname()}-{os.getpid()}"
    last_report = 0.0

    def write_count(done: int) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > _REPORT_INTERVAL:
            last_report = time.monotonic()
            # Not `core.files`: every file here without a leading dot is read as a count.
            partial = file.with_name("." + file.name)
            partial.write_text(str(done), encoding="utf-8")
            os.replace(partial, file)

    return function, shared, folder, ProgressCounter(write_count)
