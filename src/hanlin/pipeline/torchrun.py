"""A training stage as a torchrun process group, on one machine or several: how it is started and how its errors read.

The stage's work and its artifact are in `worker`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.settings.launch import GROUP_TIMEOUT, Launch
from hanlin.core.errors import UserError, memory_error
from hanlin.core.i18n import tr
from hanlin.core.names import quote_comment, quote_shell
from hanlin.core.process import available_cores, die_with_parent, python_command, start_process
from hanlin.core.signals import announce_safe_points

REQUEST_FILE = "request.json"
"""The file in a stage's scratch folder that the processes of its group read."""
PREPARED_FILE = "prepared"
"""Beside it as soon as the data is prepared and the group may start."""
PORT = 29500
_THREADS = "OMP_NUM_THREADS"
_LOST = ("gloo", "nccl", "connection reset by peer", "connection closed by peer", "broken pipe", "socket")


def launch_command(launch: Launch, request_file: Path, python: str = "") -> list[str]:
    """The command that starts this machine's processes of a group."""
    count = f"--nproc-per-node={launch.processes}"
    arguments = python_command("-m", "torch.distributed.run", count, python=python)
    if launch.nodes == 1:
        arguments.append("--standalone")
    else:
        assert launch.rendezvous is not None
        host, _, port = launch.rendezvous.rpartition(":")
        arguments += [f"--nnodes={launch.nodes}", f"--node-rank={launch.node_rank}"]
        arguments += [f"--master-addr={host.strip('[]')}", f"--master-port={port}"]
    return [*arguments, "-m", "hanlin.pipeline.worker", "--rank", str(request_file)]


def run_group(launch: Launch, request_file: Path) -> int:
    """Start this machine's processes and wait for them. Returns torchrun's exit code.

    They share its cores: torchrun gives each process of several one thread, however many cores there are.
    """
    environment = {GROUP_TIMEOUT: str(launch.timeout)}
    if _THREADS not in os.environ:  # which has `launch.threads` too
        environment[_THREADS] = str(max(1, available_cores() // launch.processes))
    command = launch_command(launch, request_file)
    in_child = die_with_parent if sys.platform == "linux" else None  # one system call, safe with threads
    with start_process(command, changes=environment, stdin=subprocess.DEVNULL, preexec_fn=in_child) as group:
        announce_safe_points(True)
        try:
            return group.wait()
        except KeyboardInterrupt:  # the group gets it too, and saves a checkpoint
            group.wait()
            raise
        finally:
            announce_safe_points(False)


def explain_lost_peer(error: BaseException) -> UserError | None:
    """The message for an error that means that other processes of the group have ended; None for any other error.

    Backends have no common error class for it, so it is recognized by class names and words of the message.
    """
    named = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    mentions_network = "RuntimeError" in named and any(word in text.lower() for word in _LOST)
    if not mentions_network and not named & {"DistBackendError", "DistNetworkError", "DistStoreError"}:
        return None
    return UserError(
        tr("another process of the group no longer answers: it has ended, or its machine or network is down"),
        None,
        tr("run the same command again on every machine of the group: it resumes from the last checkpoint"),
    )


def rank0_timeout(seconds: float, stage: str, home: str) -> UserError:
    """The error of a machine that has waited too long for machine 0 to work on a stage."""
    return UserError(
        tr(
            "machine 0 has not worked on stage {stage} for {seconds:g} s: it was not started or has ended, or "
            "the folder is not shared",
            stage=stage,
            seconds=seconds,
        ),
        home,
        tr("start it with launch.node_rank=0 on the same folder; launch.timeout sets how long the others wait"),
    )


def launch_scripts(launch: Launch, command: Sequence[str], name: str, request_file: Path, home: str) -> str:
    """What to type to run a command on the machines of `launch`: by hand, and as a Slurm job.

    Args:
        launch: How many machines and processes.
        command: The `hanlin run` command, word by word.
        name: Name of the Slurm job.
        request_file: The request of the training stage, below `home`.
        home: The folder that all machines share.

    Returns:
        Lines for a shell, with comments.
    """
    nodes, run = launch.nodes, [*command, "--home", home]
    rendezvous = launch.rendezvous or f"HOST:{PORT}"
    with_rendezvous = launch.model_copy(update={"rendezvous": rendezvous})
    shared = tr("one line for each machine; all share the folder")
    first = tr("machine 0 makes all earlier stages, prepares the data and starts its processes with torchrun")
    lines = [f"# {shared}: {quote_comment(home)}", f"# {first}"]
    if nodes == 1:
        lines.append(shlex.join(run))
        lines += [
            "# " + tr("which runs"),
            "#   " + quote_comment(shlex.join(launch_command(with_rendezvous, request_file, "python"))),
        ]
    else:
        for rank in range(nodes):
            options = ["--set", f"launch.node_rank={rank}", "--set", f"launch.rendezvous={rendezvous}"]
            lines.append(shlex.join([*run, *options]))
        lines.append(
            "# " + tr("or, on the machines after the first, plain torchrun for this stage alone")
        )  # fmt: skip
        for rank in range(1, nodes):
            node = with_rendezvous.model_copy(update={"node_rank": rank})
            variables = f"PYTHONSAFEPATH=1 {GROUP_TIMEOUT}={launch.timeout:g} "  # for what torchrun starts
            lines.append(variables + shlex.join(launch_command(node, request_file, "python")))
    return "\n".join([*lines, "", *_slurm(launch, run, rendezvous, name)]) + "\n"


def _slurm(launch: Launch, run: list[str], rendezvous: str, name: str) -> list[str]:
    port = rendezvous.rpartition(":")[2]
    step = f"{shlex.join(run)} --set launch.nodes=$SLURM_NNODES --set launch.node_rank=$SLURM_NODEID"
    step += f" --set launch.rendezvous=$MEET:{port}"
    return [
        "# " + tr("Slurm: save what follows as a file and submit it with sbatch"),
        "#!/bin/bash",
        f"#SBATCH --job-name={quote_shell(name)}",
        f"#SBATCH --nodes={launch.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={launch.processes}",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
        'export MEET=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(step)}",
    ]


def metrics_of_reply(code: int, reply: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The metrics in the reply of a group. Raises UserError as the stage raised it, or if a process was killed;
    RuntimeError if the group failed.
    """
    if "user_error" in reply:
        raise UserError(*reply["user_error"])
    if code != 0 and not reply:  # every process writes what it raises: one that could not was killed
        what = tr("a process of its group was killed, as systems do when memory runs out")
        raise memory_error(what, stage)
    if code != 0 or "metrics" not in reply:
        raise RuntimeError(reply.get("failed") or f"the process group of stage {stage} ended with {code}")
    metrics: dict[str, Any] = reply["metrics"]
    return metrics
