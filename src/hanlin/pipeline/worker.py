"""The bridge: one stage, one process. The control plane sends a job as JSON, the work plane does it, it is sealed.

`Host` is the near side: it starts this module once and hands it jobs. The far side imports torch once and forks a fresh
process for each job, so that no stage inherits another's memory and nobody waits ten seconds for imports per stage.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from hanlin.config.kinds import KINDS
from hanlin.config.settings.launch import Launch
from hanlin.core.context import SCRATCH_FOLDER, Inputs, LineageNode, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.process import available_cores, die_with_parent
from hanlin.core.progress import Progress
from hanlin.core.version import __version__
from hanlin.pipeline import torchrun
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.hub import download
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.manifest import FileEntry, InputEntry, Manifest

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "gguf",
    "xllamacpp",
    "rensa",
    "daft",
)
_HEAVY = ("torch", "transformers.models.llama.modeling_llama", "peft", "accelerate")

OUTCOME = "outcome.json"
CLOCK = "seconds"
"""A file in the scratch folder, written anew every second while its stage is worked on."""


def serve_jobs(preload: bool) -> None:
    """The far side: read jobs from standard input, fork for each, answer one line per job on standard output."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the work prints belongs to the terminal, not to the protocol
    for line in sys.stdin:
        request = json.loads(line)
        if not hasattr(os, "fork"):
            replies.write(json.dumps(_attempt(request), ensure_ascii=False) + "\n")
            replies.flush()
            return
        if KINDS[request["kind"]].heavy:
            _import_heavy()
        gc.freeze()  # a million imported objects, which the child would look through for garbage again and again
        reading, writing = os.pipe()
        # an interrupt is for the child, whose answer is still to come; a function and not SIG_IGN, which programs that
        # are started later would inherit
        signal.signal(signal.SIGINT, lambda number, frame: None)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            die_with_parent()
            os.close(reading)
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                pipe.write(json.dumps(_attempt(request), ensure_ascii=False))
            sys.stderr.flush()
            os._exit(0)
        os.close(writing)
        if preload:
            _import_heavy()  # while a light stage works, get ready for the next
        with os.fdopen(reading, encoding="utf-8") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if not text:
            text = json.dumps({"failed": f"stage {request['stage']} was killed (status {status})"})
        replies.write(text + "\n")
        replies.flush()


def _import_heavy() -> None:
    for name in _HEAVY:
        try:
            importlib.import_module(name)
        except ImportError:  # the stage that needs it says so better
            pass


def _limit_threads(threads: int | None) -> None:
    """Let the libraries of this process use so many processor threads; before any of them has started its own."""
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _attempt(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job and put the outcome into words that travel."""
    _limit_threads(request.get("threads"))
    try:
        do(request)
    except KeyboardInterrupt:
        return {"interrupted": True}
    except Exception as error:
        return _in_words(error, request)
    return {"made": True}


def _in_words(error: Exception, request: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = say("free some space and run again; what was made is kept", "腾出空间后重新运行；已完成的部分仍在")
        where = error.filename or Store(Path(request["home"])).partial(request["kind"], request["key"])
        return {"user_error": [say("the disk is full", "磁盘已满"), str(where), hint]}
    known = error if isinstance(error, UserError) else torchrun.lost(error)
    if known is not None:
        return {"user_error": [known.what, known.where, known.hint]}
    return {"failed": traceback.format_exc()}


def do(request: Mapping[str, Any]) -> Manifest:
    """Make one artifact under its lock and seal it; if another process made it meanwhile, return that one."""
    kind = KINDS[request["kind"]]
    store = Store(Path(request["home"]))
    launch = Launch.model_validate(request["launch"])
    if launch.node_rank > 0:
        return _follow(request, launch, store)
    with store.lock(kind.name, request["key"]):
        inputs = tuple(_entry(row["entry"]) for row in request["inputs"])
        already = _made(request, store)
        if already is not None:
            return already
        partial = store.partial(kind.name, request["key"])
        scratch = partial / SCRATCH_FOLDER
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / torchrun.JOB).write_text(json.dumps(request, ensure_ascii=False, indent=1), encoding="utf-8")
        started = datetime.now(UTC)
        with _Clock(scratch / CLOCK) as clock:
            in_group = kind.group and launch.grouped
            metrics = _launch(request, launch, partial, scratch) if in_group else _work(request, partial)
        settings = kind.settings.model_validate(request["settings"])
        return store.seal(
            partial,
            Manifest(
                kind=kind.name,
                type=kind.type_made(settings),
                version=kind.version,
                key=request["key"],
                digest="",
                settings=request["settings"],
                seed=request["seed"],
                inputs=inputs,
                files=(),
                metrics=metrics,
                made_by=_made_by(),
                started=started.strftime("%Y-%m-%d %H:%M:%S"),
                finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
                seconds=round(clock.seconds, 3),
                key_settings=request["key_settings"],
            ),
        )


def _made(request: Mapping[str, Any], store: Store) -> Manifest | None:
    """The artifact, where it is there already and was made from the same inputs."""
    found = store.manifest(request["kind"], request["key"])
    wanted = [row["entry"]["digest"] for row in request["inputs"]]
    return found if found is not None and [entry.digest for entry in found.inputs] == wanted else None


def _follow(request: Mapping[str, Any], launch: Launch, store: Store) -> Manifest:
    """On the machines after the first: take part where a group of processes does the work, and wait for the artifact
    that machine 0 makes of it. Raises UserError when nothing shows for `launch.timeout` seconds that it works on it."""
    scratch = store.partial(request["kind"], request["key"]) / SCRATCH_FOLDER
    grouped = KINDS[request["kind"]].group
    seen, since = b"", time.monotonic()
    while (made := _made(request, store)) is None:
        if grouped and (scratch / torchrun.PREPARED).is_file():
            code = torchrun.run(launch, scratch / torchrun.JOB)
            reply = _outcome(scratch)
            if code != 0:
                torchrun.result(code, reply, request["stage"])
            grouped = False  # what is left is machine 0's
            since = time.monotonic()
        beat = _bytes(scratch / CLOCK)
        if beat != seen:
            seen, since = beat, time.monotonic()
        if time.monotonic() - since > launch.timeout:
            raise torchrun.machine_0_is_silent(launch.timeout, request["stage"], request["home"])
        time.sleep(0.5)
    return made


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # not there yet, or being replaced
        return b""


def _entry(row: Mapping[str, Any]) -> InputEntry:
    return InputEntry(**{**row, "files": tuple(FileEntry(**item) for item in row["files"])})


class _Clock:
    """Seconds that an artifact took, over all tries; kept in a file every second, so that a kill loses little."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._before = float(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._before = 0.0
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._begun

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._stop.wait(1.0):
            try:
                self._file.write_text(f"{self.seconds:.3f}", encoding="utf-8")
            except OSError:
                pass


def _work(request: Mapping[str, Any], partial: Path, prepare_only: bool = False) -> dict[str, Any]:
    kind = KINDS[request["kind"]]
    settings = kind.settings.model_validate(request["settings"])
    module, _, function = kind.run.partition(":")
    paths: dict[str, tuple[Path, ...]] = {}
    ancestors: dict[str, tuple[LineageNode, ...]] = {}
    for row in request["inputs"]:
        name = row["entry"]["field"]
        found = tuple(Path(path) for path in row["paths"]) or download(row["entry"])
        paths[name] = paths.get(name, ()) + found
        if kind.lineage and row["entry"]["artifact"]:
            ancestors[name] = ancestors.get(name, ()) + tuple(lineage(path) for path in found[:1])
    progress = Progress(request["stage"], partial / SCRATCH_FOLDER / "progress.json")
    work = getattr(importlib.import_module(module), function)
    launch = Launch.model_validate(request["launch"])
    given = StageContext(
        request["seed"],
        progress,
        launch.mode,
        launch.offload,
        prepare_only=prepare_only,
        log=Path(request["log"]),
        cores=launch.threads or available_cores(),
        ray=launch.ray or "",
    )
    metrics: dict[str, Any] = work(settings, Inputs(paths, ancestors), partial, given)
    progress.close()
    return metrics


def _launch(request: Mapping[str, Any], launch: Launch, partial: Path, scratch: Path) -> dict[str, Any]:
    """Do the work in a torchrun group, whose rank 0 leaves the metrics in the scratch folder. What can be done before
    it begins is: no time limit of the group runs meanwhile, and no other process waits."""
    prepared = scratch / torchrun.PREPARED
    prepared.unlink(missing_ok=True)
    (scratch / OUTCOME).unlink(missing_ok=True)
    _work(request, partial, prepare_only=True)
    prepared.touch()
    code = torchrun.run(launch, scratch / torchrun.JOB)
    return torchrun.result(code, _outcome(scratch), request["stage"])


def _outcome(scratch: Path) -> dict[str, Any]:
    file = scratch / OUTCOME
    reply: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return reply


def run_rank(job_file: Path) -> None:
    """One rank of a torchrun group."""
    die_with_parent()
    request = json.loads(job_file.read_text(encoding="utf-8"))
    _limit_threads(request.get("threads"))
    partial = Store(Path(request["home"])).partial(request["kind"], request["key"])
    outcome = partial / SCRATCH_FOLDER / OUTCOME
    try:
        reply = {"metrics": _work(request, partial)}
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # the first to fail knows why: the others only see that it is gone
        with contextlib.suppress(FileExistsError), outcome.open("x", encoding="utf-8") as file:
            json.dump(_in_words(error, request), file, ensure_ascii=False)
        sys.stderr.flush()
        os._exit(2)  # threads of a broken group may not end
    if os.environ.get("RANK", "0") == "0":
        outcome.write_text(json.dumps(reply, ensure_ascii=False), encoding="utf-8")


def _made_by() -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "hanlin": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": packages,
    }


if __name__ == "__main__":
    if "--rank" in sys.argv:
        run_rank(Path(sys.argv[sys.argv.index("--rank") + 1]))
    else:
        try:
            serve_jobs("--preload" in sys.argv)
        except KeyboardInterrupt:
            sys.exit(130)
