"""Processes and what the machine offers them: starting and ending children, ending with the parent, cores and memory.

What only some systems offer is asked here, so that callers work the same on all of them. Every process that Hanlin
starts is started here: Python puts the working folder first on the path of a child (`python -c`, `python -m`), so that
a `random.py` beside the data would run in it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

_IMPORT_NOTHING_HERE = "PYTHONSAFEPATH"


def python_command(*arguments: str, python: str = "") -> list[str]:
    """The command of a Python child that imports nothing from the working folder.

    Args:
        arguments: What follows the interpreter: `-m`, a module, ...
        python: The interpreter; by default the one that runs.
    """
    return [python or sys.executable, "-P", *arguments]


def child_environment(changes: Mapping[str, str] | None = None, without: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a child, Python or not: none of the Python processes below it imports from the working folder.

    An empty entry of `PYTHONPATH` means the working folder (`PYTHONPATH=$PYTHONPATH:/x` leaves one if it was not set),
    so it is taken out.

    Args:
        changes: Variables to set.
        without: Variables that the child does not get.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    if "PYTHONPATH" in environment:
        entries = [entry for entry in environment["PYTHONPATH"].split(os.pathsep) if entry]
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return {**environment, **(changes or {}), _IMPORT_NOTHING_HERE: "1"}


def keep_working_folder_out() -> None:
    """Let no process that a library (Daft, multiprocessing) starts from this one import from the working folder."""
    os.environ.update(child_environment())


def open_standard_streams() -> None:
    """Open what this process was started without of its three standard streams (`2>&-`, some schedulers): on nothing.

    Otherwise the next file that is opened gets the number of the missing one, and what a library or a child prints goes
    into that file; and Python has None in place of the stream.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            replace_stream(descriptor)


def replace_stream(descriptor: int) -> None:
    """Let a standard stream, by its number, lead to nothing from now on: it is missing, or nobody reads it any more."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)
    name = ("stdin", "stdout", "stderr")[descriptor]
    mode = "r" if descriptor == 0 else "w"
    if getattr(sys, name) is None:
        setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (it stays open)


def start_process(
    command: Sequence[str], *, changes: Mapping[str, str] | None = None, without: Sequence[str] = (), **options: Any
) -> subprocess.Popen[Any]:
    """Start a child.

    Args:
        command: Program and arguments; of a Python child from `python_command`.
        changes: Variables of its environment to set.
        without: Variables that it does not get.
        options: Other arguments of `subprocess.Popen`.
    """
    return subprocess.Popen(command, env=child_environment(changes, without), **options)


def run_process(
    command: Sequence[str], *, changes: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Start a child and wait for it; `options` are other arguments of `subprocess.run`."""
    return subprocess.run(command, env=child_environment(changes), **options)


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, so that a killed command leaves no child that writes.

    Linux only (prctl(2), `PR_SET_PDEATHSIG`); elsewhere it does nothing, and a child ends when its pipe closes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that `kill_descendants` still finds them.

    Linux only (prctl(2), `PR_SET_CHILD_SUBREAPER`); elsewhere it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(36, 1)


def end_process(process: subprocess.Popen[Any], seconds: float, *, group: bool = False, terminate: bool = True) -> None:
    """End a child process: ask it to, wait up to `seconds`, then kill it; returns when it has ended.

    Args:
        process: The child.
        seconds: How long it may take to end by itself.
        group: End its whole process group, with all that it started and leaves behind (POSIX; elsewhere the child
            alone).
        terminate: Ask it with SIGTERM; False if it has been told otherwise, for instance by closing its input.
    """
    if terminate:
        _send_signal(process, "SIGTERM", group)
    ended = True
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        ended = False
    if group or not ended:
        _send_signal(process, "SIGKILL", group)
    process.wait()


def _send_signal(process: subprocess.Popen[Any], name: str, group: bool) -> None:
    if group and hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, getattr(signal, name))
        except ProcessLookupError:  # all of it has ended
            pass
    elif name == "SIGTERM":
        process.terminate()
    else:
        process.kill()


def kill_descendants(root: int | None = None, *, itself: bool = False) -> None:
    """Kill all processes that a process has started, and those that they have started, in whatever group or session.

    Args:
        root: Its id; by default this process.
        itself: Kill it too, first, so that it starts no more.
    """
    root = os.getpid() if root is None else root
    doomed = descendants(root)
    for pid in [root, *doomed] if itself else doomed:
        try:
            os.kill(pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):  # it has ended meanwhile
            pass


def descendants(root: int) -> list[int]:
    """The processes that a process has started, and those that they have started; Linux only, elsewhere none."""
    parents: dict[int, int] = {}
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
    found: list[int] = []
    level = {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level and pid not in found}
        found += level
    return found


SPAWN_VARIABLE = "HANLIN_START"
"""`spawn` in it lets this system start processes as those do that cannot fork (Windows): for tests, and where libraries
do not survive a fork."""


def forks() -> bool:
    """Whether processes are forked: the system can, and `HANLIN_START=spawn` does not forbid it.

    Raises:
        UserError: The variable holds another word.
    """
    word = os.environ.get(SPAWN_VARIABLE, "")
    if word not in ("", "fork", "spawn"):
        raise UserError(tr("'{word}' is no way to start processes", word=word), SPAWN_VARIABLE, tr("fork or spawn"))
    return hasattr(os, "fork") and word != "spawn"


def process_start_time(pid: int) -> float | None:
    """When a process began, in ticks since the system did; 0 if the system does not say; None if there is none.

    Two processes that had one number have different times. A zombie, which has ended, is none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] == b"Z" else float(fields[19])
    except (OSError, ValueError, IndexError):
        if sys.platform == "linux":
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it is another user's
        pass
    return 0.0


_DETACHED = """
import json, os, subprocess, sys
command, log = json.loads(sys.argv[1]), sys.argv[2]
with open(log, "ab", buffering=0) as output:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
print(child.pid, flush=True)
os._exit(0)
"""


def start_detached(command: Sequence[str], log: Path, *, folder: Path) -> int:
    """Start a process that goes on when this one ends, whatever ends it: it is no child of this process.

    Args:
        command: Program and arguments; of a Python program from `python_command`.
        log: The file that gets what it prints, appended.
        folder: The folder that it works in.

    Returns:
        Its id.
    """
    starter = python_command("-c", _DETACHED, json.dumps(list(command)), str(log))
    done = run_process(starter, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=folder, check=True)
    return int(done.stdout)


def available_cores() -> int:
    """The processor cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int | None:
    """Bytes of this machine's main memory, or None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def peak_host_memory() -> int | None:
    """The most bytes of main memory that this process has held, or None if the system does not say.

    Linux counts it twice: what `getrusage` gives begins with what the parent held when it started this process.
    """
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def quiet_libraries() -> None:
    """Silence what libraries log when they are imported: bitsandbytes tells of kernels that it could download."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


_BOUNDED_CHILD = "from hanlin.core.process import bounded_child; bounded_child()"
_CPU_SECONDS_TO_START = 5
BOUNDED_MEMORY = 4 << 30
"""Bytes of address space of a child; its libraries alone take one or two GB of that, not of memory."""


class BoundsExceededError(Exception):
    """The function did not end within its limits; `reason` is `time`, `memory` or `crash`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def run_bounded(function: str, argument: Any, *, seconds: float, memory: int = BOUNDED_MEMORY) -> Any:
    """Run a function on data of others in a child process with limits on time and memory, and end it beyond them.

    For what cannot be bounded in this process: regular expressions and libraries in C on files of models. A child takes
    a tenth of a second to start, so this is for a proof before the first use and not for each use.

    Args:
        function: `module:name`; it takes and returns what JSON can hold.
        argument: What it is given.
        seconds: How long it may take.
        memory: Bytes of address space that the child may have.

    Returns:
        What the function returned.

    Raises:
        BoundsExceededError: It took too long or too much memory, or the child crashed.
        RuntimeError: The function raised an error, whose text this is.
    """
    request = json.dumps({"function": function, "argument": argument, "seconds": seconds, "memory": memory})
    try:
        done = run_process(
            python_command("-c", _BOUNDED_CHILD),
            input=request.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=3 * seconds + _CPU_SECONDS_TO_START,
        )
    except subprocess.TimeoutExpired:
        raise BoundsExceededError("time") from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode != 0 or not lines:
        # SIGXCPU and SIGKILL are how the limit on processor time ends a process
        raise BoundsExceededError("time" if done.returncode in (-24, -9) else "crash")
    reply = json.loads(lines[-1])
    if "error" in reply:
        if reply["error"] == "MemoryError":
            raise BoundsExceededError("memory")
        raise RuntimeError(reply["error"])
    return reply["result"]


def bounded_child() -> None:
    """The child: limits first, then the function."""
    die_with_parent()
    request = json.loads(sys.stdin.buffer.read())
    _limit(request["seconds"], request["memory"])
    module, _, name = request["function"].partition(":")
    try:
        reply = {"result": getattr(importlib.import_module(module), name)(request["argument"])}
    except MemoryError:
        reply = {"error": "MemoryError"}
    except BaseException as error:  # a panic of a library in Rust is no Exception
        reply = {"error": str(error)[:2_000] or type(error).__name__}
    sys.stdout.write("\n" + json.dumps(reply) + "\n")


def _limit(seconds: float, memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's clock alone
        return
    cpu = int(seconds) + _CPU_SECONDS_TO_START
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
