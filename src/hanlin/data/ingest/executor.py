"""Work that is divided into tasks, done here or through Daft: on this machine's cores, or on a Ray cluster.

Owns where tasks are done, how their errors come back and how far they are. Does not own what is done: that is the same
function of the same task everywhere, so that no result depends on where it was made. Files lie in a folder that every
worker sees; what travels is the task and a short answer.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

SMALL = 24 << 20
"""Bytes of text that one process has read and judged before Daft and its workers would have started."""
_EVERY = 1.0

Context = TypeVar("Context")
Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Meter:
    """Counts the bytes that are done, and tells `tell` their sum."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.done = 0
        self._tell = tell

    def add(self, amount: int) -> None:
        self.done += amount
        self._tell(self.done)


class Tasks:
    """Where tasks are done: by `job`'s cores or cluster, unless they are `small`. `folder` is seen by every worker;
    `total` bytes are to be done, of which `before` were done by an earlier run."""

    def __init__(self, job: StageContext, folder: Path, small: bool, total: int = 0, before: int = 0) -> None:
        self._job, self._folder, self._small = job, folder, small
        self._total, self._before = total, before

    def each(
        self, work: Callable[[Context, Task, Meter], Answer], context: Context, tasks: Sequence[Task]
    ) -> Iterator[Answer]:
        """The answers in the order of the tasks. `work` is a function of a module; it, its context, its tasks and
        answers can be pickled. Raises what the first task (in their order) raised that failed."""
        if self._small or len(tasks) < 2 or (not self._job.ray and self._job.cores < 2):
            meter = Meter(lambda done: self._job.progress.update(self._before + done, self._total, "bytes"))
            for task in tasks:
                yield work(context, task, meter)
            return
        counts = self._folder / "done"
        call = pickle.dumps((work, context, self._folder, counts))
        packed = [pickle.dumps(task) for task in tasks]
        ready: dict[int, bytes] = {}
        given = 0
        with self._watching(counts):
            for place, answer in _by_daft(call, packed, self._job):
                ready[place] = answer
                while given in ready:
                    yield _opened(ready.pop(given))
                    given += 1

    @contextmanager
    def _watching(self, counts: Path) -> Iterator[None]:
        """Tell how far all workers are, while the block lasts: each keeps its own count in a file."""
        counts.mkdir(parents=True, exist_ok=True)
        for file in counts.iterdir():
            file.unlink(missing_ok=True)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_EVERY):
                self._job.progress.update(self._before + _sum_of(counts), self._total, "bytes")

        thread = threading.Thread(target=watch, daemon=True)
        if self._total:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self._total:
                thread.join()


def _sum_of(counts: Path) -> int:
    total = 0
    for file in counts.glob("[!.]*"):
        try:
            total += int(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is just being replaced
            continue
    return total


# --- the near side --------------------------------------------------------------------------------------------------


def _by_daft(call: bytes, tasks: Sequence[bytes], job: StageContext) -> Iterator[tuple[int, bytes]]:
    """The places of tasks and their packed answers, as they come."""
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    import daft

    workers = _join_cluster(job.ray) if job.ray else job.cores
    workers = min(workers, len(tasks))

    class Worker:
        def __init__(self, call: bytes) -> None:
            self.call = call

        @daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=1)
        def answer(self, tasks: Any) -> list[bytes]:
            return [answer(self.call, task) for task in tasks.to_pylist()]

    pool = daft.cls(Worker, use_process=True, max_concurrency=workers, cpus=1)
    frame = daft.from_pydict({"place": list(range(len(tasks))), "task": list(tasks)})
    if job.ray:
        frame = frame.into_partitions(len(tasks))
    frame = frame.select(frame["place"], pool(call).answer(frame["task"]).alias("answer"))
    for row in frame.iter_rows(results_buffer_size=None):
        yield row["place"], row["answer"]


def _join_cluster(address: str) -> int:
    """Make Daft run on this Ray cluster; return how many cores that has. Raises UserError where there is none."""
    try:
        import ray
    except ImportError as error:
        what = say("Ray is needed for `launch.ray`", "launch.ray 需要 Ray")
        raise UserError(what, None, "pip install 'hanlin[ray]'") from error
    import daft

    if not ray.is_initialized():
        try:
            if address != "auto":  # Ray itself would go on trying for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            hint = say("`ray start --head` starts one", "可用 ray start --head 启动")
            raise UserError(say("no Ray cluster answers", "没有 Ray 集群应答"), address, hint) from error
    daft.set_runner_ray(address=address, noop_if_initialized=True)
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _opened(answer: bytes) -> Any:
    kind, value = pickle.loads(answer)
    if kind == "answer":
        return value
    raise {"user": UserError, "os": OSError}.get(kind, RuntimeError)(*value)


# --- the far side: one process of a worker --------------------------------------------------------------------------

_calls: dict[bytes, tuple[Any, Any, Path, Meter]] = {}


def answer(call: bytes, task: bytes) -> bytes:
    """Do one task of a call; errors come back as words."""
    try:
        if call not in _calls:
            _calls.clear()
            _calls[call] = _ready(call)
        work, context, folder, meter = _calls[call]
        if not folder.is_dir():
            hint = say("keep the store and the sources in a folder that every machine mounts at the same place",
                       "请把产物库与数据放在各机器以相同路径挂载的共享文件夹中")  # fmt: skip
            what = say(f"the machine {socket.gethostname()} does not see this folder",
                       f"机器 {socket.gethostname()} 看不到此文件夹")  # fmt: skip
            raise UserError(what, folder, hint)
        return pickle.dumps(("answer", work(context, pickle.loads(task), meter)))
    except UserError as error:
        return pickle.dumps(("user", (error.what, error.where, error.hint)))
    except OSError as error:
        return pickle.dumps(("os", (error.errno, error.strerror, error.filename)))
    except Exception:
        return pickle.dumps(("failed", (traceback.format_exc(),)))


def _ready(call: bytes) -> tuple[Any, Any, Path, Meter]:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"  # before the libraries of the work are loaded: each core has a worker of its own
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the near side, which ends its workers
    work, context, folder, counts = pickle.loads(call)
    file = counts / f"{socket.gethostname()}-{os.getpid()}"
    told = 0.0

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > _EVERY:
            told = time.monotonic()
            aside = file.with_name("." + file.name)
            aside.write_text(str(done), encoding="utf-8")
            os.replace(aside, file)

    return work, context, folder, Meter(tell)
