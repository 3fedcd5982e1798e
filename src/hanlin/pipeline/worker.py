"""The worker: the process in which stages run, one request for each stage, as JSON lines.

`WorkerClient` starts this module once and sends it requests. It imports torch once and forks a fresh process for each
request, so that no stage inherits another's memory and imports are paid for once (about ten seconds a stage otherwise).
If the system cannot fork (Windows), it handles one request and ends; the client starts it again for the next.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from hanlin.config.kinds import KINDS
from hanlin.config.settings.base import Settings, setting_info
from hanlin.config.settings.launch import Launch
from hanlin.core.context import SCRATCH_FOLDER, Inputs, LineageNode, StageContext
from hanlin.core.errors import (
    UserError,
    explain_import_error,
    explain_memory_error,
    explain_os_error,
    killed_error,
)
from hanlin.core.files import FileState, parse_json, write_text
from hanlin.core.i18n import tr
from hanlin.core.process import available_cores, die_with_parent, forks, quiet_libraries
from hanlin.core.progress import Progress
from hanlin.core.signals import interrupt_unless_importing, on_announcement
from hanlin.core.version import __version__
from hanlin.pipeline import torchrun
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.hubs.inputs import download
from hanlin.pipeline.inputs import check_inputs
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

REPLY_FILE = "reply.json"
PROGRESS_FILE = "progress.json"
ELAPSED_FILE = "seconds"
"""A file in the scratch folder, rewritten every second while its stage runs: other machines see that it does."""
COMMITS_FILE = "commits.json"
"""A file in the scratch folder: the commit of each hub's repository that the stage began with."""


def serve_requests(preload: bool) -> None:
    """Read requests from standard input, fork for each, and write one line of reply for each to standard output.

    Args:
        preload: Import torch and the like while the first stage runs.
    """
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a stage prints goes to the terminal and not into the protocol
    # an interrupt is for the child, whose reply is awaited; a function and not SIG_IGN, which programs that are started
    # later would inherit. The client has blocked it until now.
    signal.signal(signal.SIGINT, lambda signal_number, frame: None)
    _block_interrupts(False)
    for line in sys.stdin:
        request = json.loads(line)
        if not forks():
            signal.signal(signal.SIGINT, interrupt_unless_importing)
            replies.write(json.dumps(_handle_request(request)) + "\n")
            replies.flush()
            return
        if KINDS[request["kind"]].heavy:
            _import_heavy()
        gc.freeze()  # a million imported objects, which the child would otherwise scan for garbage again and again
        reading, writing = os.pipe()
        parent = os.getpid()
        _block_interrupts(True)  # the child would do as this process does, nothing, until it has a handler of its own
        child = os.fork()
        if child == 0:
            die_with_parent()
            if os.getppid() != parent:  # it ended before it could be said
                os._exit(1)
            os.close(reading)
            _run_child(request, writing)
        _block_interrupts(False)
        os.close(writing)
        if preload:
            _import_heavy()  # while a light stage runs, for the next one
        has_replied = False
        with os.fdopen(reading, encoding="utf-8") as pipe:
            for text in pipe:
                if not text.endswith("\n"):  # it was killed while it wrote
                    break
                has_replied = has_replied or not text.startswith(_ANNOUNCEMENT)
                replies.write(text)
                replies.flush()
        _, status = os.waitpid(child, 0)
        if not has_replied:
            killed = killed_error(request["stage"], os.waitstatus_to_exitcode(status))
            reply = {"user_error": [killed.what, killed.where, killed.hint, killed.code]}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


_ANNOUNCEMENT = '{"safe_points": '


def _run_child(request: Mapping[str, Any], writing: int) -> NoReturn:
    """Run a stage in the process that was forked for it, and end it; write the reply, and whether it ends at safe
    points.
    """
    try:
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:

            def announce(begin: bool) -> None:
                pipe.write(f"{_ANNOUNCEMENT}{json.dumps(begin)}}}\n")
                pipe.flush()

            on_announcement(announce)
            reply: dict[str, Any] = {"interrupted": True}
            with contextlib.suppress(KeyboardInterrupt):
                signal.signal(signal.SIGINT, interrupt_unless_importing)
                _block_interrupts(False)
                reply = _handle_request(request)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            pipe.write(json.dumps(reply) + "\n")
        sys.stderr.flush()
    finally:
        os._exit(0)


def _block_interrupts(block: bool) -> None:
    """Let interrupts wait, or come through again; a process that is started meanwhile lets them wait too."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, {signal.SIGINT})


def _import_heavy() -> None:
    quiet_libraries()
    for name in _HEAVY:
        try:
            importlib.import_module(name)
        except ImportError:  # the stage that needs it has a better message
            pass


def _limit_threads(threads: int | None) -> None:
    """Set how many processor threads the libraries of this process use, before any of them has started its own."""
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _handle_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a stage and return the reply as JSON data: `made`, `interrupted`, `user_error` or `failed`."""
    _limit_threads(request.get("threads"))
    try:
        run_stage(request)
    except KeyboardInterrupt:
        return {"interrupted": True}
    except Exception as error:
        return _error_reply(error, request)
    return {"made": True}


def _error_reply(error: Exception, request: Mapping[str, Any]) -> dict[str, Any]:
    known = error if isinstance(error, UserError) else explain_os_error(error) or torchrun.explain_lost_peer(error)
    known = known or explain_memory_error(error, request["stage"]) or explain_import_error(error)
    if known is not None:
        where = known.where
        if where is None and not isinstance(error, UserError):
            where = str(Store(Path(request["home"])).partial_folder(request["kind"], request["key"]))
        return {"user_error": [known.what, where, known.hint, known.code]}
    return {"failed": traceback.format_exc()}


def run_stage(request: Mapping[str, Any]) -> Manifest:
    """Make one artifact under its lock and commit it; if another process has made it meanwhile, return that one."""
    kind = KINDS[request["kind"]]
    store = Store(Path(request["home"]))
    launch = Launch.model_validate(request["launch"])
    if launch.node_rank > 0:
        return follow_rank0(request, launch, store)
    with store.lock(kind.name, request["key"]):
        inputs = tuple(_entry(row["entry"]) for row in request["inputs"])
        existing = _existing_artifact(request, store)
        if existing is not None:
            return existing
        seen = check_inputs(request["inputs"])
        _set_aside_of_other_inputs(request, store)
        partial = store.open_partial(kind.name, request["key"], keep=kind.resumes)
        scratch = partial / SCRATCH_FOLDER
        write_text(scratch / torchrun.REQUEST_FILE, json.dumps(request, indent=1))
        started = datetime.now(UTC)
        in_group = kind.group and launch.grouped
        try:
            with _ElapsedTime(scratch / ELAPSED_FILE) as elapsed:
                metrics = _run_in_group(request, launch, partial, scratch) if in_group else _run_work(request, partial)
        except BaseException:
            if not in_group:  # the other machines of a group read the scratch folder until they know of its end
                _remove_if_useless(partial, kind.resumes)
            raise
        try:
            check_inputs(request["inputs"], seen)
        except UserError:
            # no run may go on from it: it is of other bytes than those whose hash the manifest would name
            store.archive_as(partial, "changed-input")
            raise
        settings = kind.settings.model_validate(request["settings"])
        return store.commit(
            partial,
            Manifest(
                kind=kind.name,
                type=kind.artifact_type(settings),
                version=kind.version,
                key=request["key"],
                digest="",
                settings=request["settings"],
                seed=request["seed"],
                inputs=_with_commits(inputs, scratch),
                files=(),
                metrics=metrics,
                made_by=_made_by(),
                started=started.strftime("%Y-%m-%d %H:%M:%S"),
                finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
                seconds=round(elapsed.seconds, 3),
                key_settings=request["key_settings"],
            ),
        )


def _set_aside_of_other_inputs(request: Mapping[str, Any], store: Store) -> None:
    """Rename what an interrupted run left of an artifact if its inputs held other bytes then.

    The key of an input stays when it is made again, its bytes may not: on another machine, or after its folder was
    moved away. Encoded records and checkpoints of the old ones must not become a part of the new result.
    """
    partial = store.partial_folder(request["kind"], request["key"])
    if partial.is_symlink():  # `open_partial` refuses it
        return
    try:
        left = parse_json((partial / SCRATCH_FOLDER / torchrun.REQUEST_FILE).read_text(encoding="utf-8"))
        digests = [row["entry"]["digest"] for row in left["inputs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if digests != [row["entry"]["digest"] for row in request["inputs"]]:
        folder = store.archive_as(partial, "changed-input")
        what = tr(
            "what it reads was made again since it was interrupted: it begins anew, and {folder} is set aside",
            folder=folder.name,
        )
        Progress(request["stage"]).log(what)


def _remove_if_useless(partial: Path, resumes: bool) -> None:
    """Remove the folder of an artifact that no later run goes on from: nothing was made, or its kind begins anew."""
    own = {torchrun.REQUEST_FILE, ELAPSED_FILE, PROGRESS_FILE, COMMITS_FILE}
    with contextlib.suppress(OSError):
        made = {entry.name for entry in partial.iterdir()} - {SCRATCH_FOLDER}
        if not resumes or (not made and own.issuperset(entry.name for entry in (partial / SCRATCH_FOLDER).iterdir())):
            shutil.rmtree(partial)


def _existing_artifact(request: Mapping[str, Any], store: Store) -> Manifest | None:
    """The manifest of the artifact if it has been made from the same inputs, else None."""
    manifest = store.manifest(request["kind"], request["key"])
    digests = [row["entry"]["digest"] for row in request["inputs"]]
    return manifest if manifest is not None and [entry.digest for entry in manifest.inputs] == digests else None


def follow_rank0(request: Mapping[str, Any], launch: Launch, store: Store) -> Manifest:
    """On the machines after the first: join the process group of the stage if it has one, and wait for the artifact
    that machine 0 makes.

    Raises UserError if for `launch.timeout` seconds nothing shows that machine 0 works on it.
    """
    scratch = store.partial_folder(request["kind"], request["key"]) / SCRATCH_FOLDER
    grouped = KINDS[request["kind"]].group
    # what a machine 0 that was killed has left says `prepared` too: only one that works now, whose seconds go on while
    # it is looked at, has removed that first
    last_beat, last_seen = _read_bytes(scratch / ELAPSED_FILE), time.monotonic()
    is_alive = False
    while (made := _existing_artifact(request, store)) is None:
        beat = _read_bytes(scratch / ELAPSED_FILE)
        if beat != last_beat:
            last_beat, last_seen, is_alive = beat, time.monotonic(), True
        if grouped and is_alive and (scratch / torchrun.PREPARED_FILE).is_file():
            code = torchrun.run_group(launch, scratch / torchrun.REQUEST_FILE)
            reply = _read_reply(scratch)
            if code != 0:
                torchrun.metrics_of_reply(code, reply, request["stage"])
            grouped = False  # the rest is done by machine 0
            last_seen = time.monotonic()
        if time.monotonic() - last_seen > launch.timeout:
            raise torchrun.rank0_timeout(launch.timeout, request["stage"], request["home"])
        time.sleep(0.5)
    return made


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # not there yet, or being replaced
        return b""


def _entry(row: Mapping[str, Any]) -> InputEntry:
    return InputEntry(**{**row, "files": tuple(FileEntry(**item) for item in row["files"])})


class _ElapsedTime:
    """The seconds that an artifact has taken over all runs, saved every second so that a kill loses little."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._before = float(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._before = 0.0
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._save_regularly, daemon=True)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _save_regularly(self) -> None:
        while not self._stop.wait(1.0):
            try:
                self._file.write_text(f"{self.seconds:.3f}", encoding="utf-8")
            except OSError:
                pass


def _run_work(request: Mapping[str, Any], partial: Path, prepare_only: bool = False) -> dict[str, Any]:
    """Call the work function of the stage's kind; returns its metrics."""
    kind = KINDS[request["kind"]]
    settings = kind.settings.model_validate(request["settings"])
    module, _, function = kind.run.partition(":")
    launch = Launch.model_validate(request["launch"])
    progress = Progress(request["stage"], partial / SCRATCH_FOLDER / PROGRESS_FILE)
    paths: dict[str, tuple[Path, ...]] = {}
    lineage_by_field: dict[str, tuple[LineageNode, ...]] = {}
    scratch = partial / SCRATCH_FOLDER
    commits = _read_commits(scratch)  # a branch may have moved since the stage began
    for row in request["inputs"]:
        name = row["entry"]["field"]
        row_paths = tuple(Path(path) for path in row["paths"])
        if not row_paths:
            key = row["entry"]["key"]
            folder, commits[key] = download(row["entry"], progress, launch.endpoints, commits.get(key, ""))
            row_paths = (folder,)
        paths[name] = paths.get(name, ()) + row_paths
        if kind.lineage and row["entry"]["artifact"]:
            nodes = tuple(lineage(path) for path in row_paths[:1])
            lineage_by_field[name] = lineage_by_field.get(name, ()) + nodes
    if commits != _read_commits(scratch):
        write_text(scratch / COMMITS_FILE, json.dumps(commits))
    settings = _with_resource_files(settings, paths)
    work = getattr(importlib.import_module(module), function)
    context = StageContext(
        request["seed"],
        progress,
        launch.mode,
        launch.offload,
        prepare_only=prepare_only,
        log=Path(request["log"]),
        cores=launch.threads or available_cores(),
        ray=launch.ray or "",
    )
    states = {path: FileState(*state) for row in request["inputs"] for path, (state, _) in row["files"].items()}
    metrics: dict[str, Any] = work(settings, Inputs(paths, lineage_by_field, states), partial, context)
    progress.close()
    return metrics


def _read_commits(scratch: Path) -> dict[str, str]:
    """The commits of the hubs' repositories that an artifact is made from, by the key of the input."""
    file = scratch / COMMITS_FILE
    commits: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return commits


def _with_commits(inputs: tuple[InputEntry, ...], scratch: Path) -> tuple[InputEntry, ...]:
    commits = _read_commits(scratch)
    return tuple(replace(entry, commit=commits.get(entry.key, "")) for entry in inputs)


def _with_resource_files(settings: Settings, paths: Mapping[str, tuple[Path, ...]]) -> Settings:
    """Settings in which a packaged text that a file of the user replaces (a chat template) is named by the file."""
    files = {
        name: str(paths[name][0])
        for name, field in type(settings).model_fields.items()
        if setting_info(field).resource and paths.get(name)
    }
    return settings.model_copy(update=files) if files else settings


def _run_in_group(request: Mapping[str, Any], launch: Launch, partial: Path, scratch: Path) -> dict[str, Any]:
    """Do the work in a torchrun group, whose rank 0 writes the metrics into the scratch folder.

    The data is prepared before it starts: meanwhile no time limit of the group runs and no other process waits.
    """
    prepared = scratch / torchrun.PREPARED_FILE
    prepared.unlink(missing_ok=True)
    (scratch / REPLY_FILE).unlink(missing_ok=True)
    _run_work(request, partial, prepare_only=True)
    prepared.touch()
    code = torchrun.run_group(launch, scratch / torchrun.REQUEST_FILE)
    return torchrun.metrics_of_reply(code, _read_reply(scratch), request["stage"])


def _read_reply(scratch: Path) -> dict[str, Any]:
    file = scratch / REPLY_FILE
    reply: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return reply


def run_rank(request_file: Path) -> None:
    """Do the work of one rank of a torchrun group; rank 0 writes the metrics, the first rank that fails its error."""
    die_with_parent()
    request = json.loads(request_file.read_text(encoding="utf-8"))
    _limit_threads(request.get("threads"))
    partial = Store(Path(request["home"])).partial_folder(request["kind"], request["key"])
    reply_file = partial / SCRATCH_FOLDER / REPLY_FILE
    try:
        reply = {"metrics": _run_work(request, partial)}
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # the first rank to fail knows why: the others only see that it has ended
        with contextlib.suppress(FileExistsError), reply_file.open("x", encoding="utf-8") as file:
            json.dump(_error_reply(error, request), file)
        sys.stderr.flush()
        os._exit(2)  # threads of a broken group may never end
    if os.environ.get("RANK", "0") == "0":
        write_text(reply_file, json.dumps(reply))


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
            serve_requests("--preload" in sys.argv)
        except KeyboardInterrupt:
            sys.exit(130)
