"""A training stage as a group of processes, on one machine or several: the commands that start it, what became of it.

Owns torchrun's command line, the scripts that are printed for people, and the words for a group that broke. Does not
own the stage's work nor its artifact (`worker`).
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
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.process import die_with_parent

JOB = "job.json"
PREPARED = "prepared"
"""Beside the job when all is there that the processes of a group begin with."""
PORT = 29500
_LOST = ("gloo", "nccl", "connection reset by peer", "connection closed by peer", "broken pipe", "socket")


def command(launch: Launch, job_file: Path, python: str = sys.executable) -> list[str]:
    """The command that starts this machine's processes of a group."""
    words = [python, "-m", "torch.distributed.run", f"--nproc-per-node={launch.processes}"]
    if launch.nodes == 1:
        words.append("--standalone")
    else:
        assert launch.rendezvous is not None
        host, _, port = launch.rendezvous.rpartition(":")
        words += [f"--nnodes={launch.nodes}", f"--node-rank={launch.node_rank}"]
        words += [f"--master-addr={host.strip('[]')}", f"--master-port={port}"]
    return [*words, "-m", "hanlin.pipeline.worker", "--rank", str(job_file)]


def run(launch: Launch, job_file: Path) -> int:
    """Start this machine's processes and wait for them; return torchrun's exit code."""
    environment = {**os.environ, GROUP_TIMEOUT: str(launch.timeout)}
    words = command(launch, job_file)
    own = die_with_parent if sys.platform == "linux" else None  # one system call, safe beside threads
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment, preexec_fn=own) as group:  # noqa: PLW1509
        try:
            return group.wait()
        except KeyboardInterrupt:  # the group has heard it too, and saves
            group.wait()
            raise


def lost(error: BaseException) -> UserError | None:
    """What is said when a process finds that others of its group are gone; None for any other error.

    Backends tell it in their own words, of which some are known here.
    """
    named = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    told = "RuntimeError" in named and any(word in text.lower() for word in _LOST)
    if not told and not named & {"DistBackendError", "DistNetworkError", "DistStoreError"}:
        return None
    return UserError(
        say(
            "another process of the group does not answer any more: it was ended, or its machine or network is gone",
            "组内另一个进程不再应答：它已结束，或其机器、网络已断开",
        ),
        None,
        say(
            "run the same command again, on every machine of the group: it goes on from the last checkpoint",
            "请在组内每台机器上再次运行同一命令，将从最近的检查点继续",
        ),
    )


def machine_0_is_silent(seconds: float, stage: str, home: str) -> UserError:
    """What another machine says that waited so long for a stage of machine 0."""
    return UserError(
        say(
            f"machine 0 has shown no work on stage {stage} for {seconds:g} s: it was not started or has ended, or the "
            "folder is not shared",
            f"0 号机已有 {seconds:g} 秒没有处理阶段 {stage}：它未启动、已结束，或文件夹并非共用",
        ),
        home,
        say(
            "start it with launch.node_rank=0 over the same folder; launch.timeout sets how long others wait",
            "请在同一文件夹上以 launch.node_rank=0 启动；launch.timeout 设定其他机器等待的时间",
        ),
    )


def scripts(launch: Launch, words: Sequence[str], name: str, job_file: Path, home: str) -> str:
    """What to type to run the command `words` on the machines of `launch`: by hand, and through Slurm as a job `name`.
    `job_file` is the training stage's, below the shared folder `home`."""
    nodes, own = launch.nodes, [*words, "--home", home]
    there = launch.rendezvous or f"HOST:{PORT}"
    meeting = launch.model_copy(update={"rendezvous": there})
    shared = say("one line on each machine; all see the same folder", "每台机器运行一行；所有机器共用同一文件夹")
    first = say(
        "machine 0 makes everything before the stage, prepares its rows, and starts its processes with torchrun",
        "0 号机完成此前的所有阶段并准备数据行，再以 torchrun 启动进程",
    )
    lines = [f"# {shared}: {home}", f"# {first}"]
    if nodes == 1:
        lines.append(shlex.join(own))
        lines += ["# " + say("which runs", "即运行"), "#   " + shlex.join(command(meeting, job_file, "python"))]
    else:
        for rank in range(nodes):
            at = ["--set", f"launch.node_rank={rank}", "--set", f"launch.rendezvous={there}"]
            lines.append(shlex.join([*own, *at]))
        lines.append(
            "# " + say("or, on the machines after the first, plain torchrun for this stage alone",
                       "或在其余机器上只为此阶段直接运行 torchrun")
        )  # fmt: skip
        for rank in range(1, nodes):
            there_too = meeting.model_copy(update={"node_rank": rank})
            lines.append(f"{GROUP_TIMEOUT}={launch.timeout:g} " + shlex.join(command(there_too, job_file, "python")))
    return "\n".join([*lines, "", *_slurm(launch, own, there, name)]) + "\n"


def _slurm(launch: Launch, own: list[str], there: str, name: str) -> list[str]:
    port = there.rpartition(":")[2]
    step = f"{shlex.join(own)} --set launch.nodes=$SLURM_NNODES --set launch.node_rank=$SLURM_NODEID"
    step += f" --set launch.rendezvous=$MEET:{port}"
    return [
        "# " + say("Slurm: save from here on and submit it with sbatch", "Slurm：将以下内容存为文件，用 sbatch 提交"),
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={launch.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={launch.processes}",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
        'export MEET=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(step)}",
    ]


def result(code: int, reply: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The metrics that a group left. Raises UserError as its work raised it, RuntimeError when it failed."""
    if "user_error" in reply:
        raise UserError(*reply["user_error"])
    if code != 0 or "metrics" not in reply:
        raise RuntimeError(reply.get("failed") or f"the process group of stage {stage} ended with {code}")
    metrics: dict[str, Any] = reply["metrics"]
    return metrics
