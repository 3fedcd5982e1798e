"""Runs training stages in processes of their own: alone, killed and resumed, or as a torchrun group.

Imported it launches; as a program it is what is launched.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hanlin.config.settings import preference, train
from hanlin.config.settings.train import Training
from hanlin.core.context import Inputs, StageContext


def launch(
    stage: str, settings: Training, given: Inputs, out: Path, action: str, processes: int = 0, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Do `action`, a function below; with `processes`, in a group of so many that finds its rows prepared."""
    job = {
        "stage": stage,
        "settings": type(settings).__name__,
        "values": settings.model_dump(mode="json"),
        "inputs": {name: [str(path) for path in paths] for name, paths in given.by_field.items()},
        "out": str(out),
        "how": how,
    }
    launcher = []
    if processes:
        work({**job, "how": {"prepare_only": True}})
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, __file__, action, json.dumps(job)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def work(job: dict[str, Any], out: str | None = None) -> dict[str, Any]:
    from hanlin.train import stages

    settings = getattr(preference if hasattr(preference, job["settings"]) else train, job["settings"]).model_validate(
        job["values"]
    )
    inputs = Inputs({name: tuple(map(Path, paths)) for name, paths in job["inputs"].items()})
    folder = Path(out or job["out"])
    folder.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = getattr(stages, job["stage"])(
        settings, inputs, folder, StageContext(seed=5, **job["how"])
    )
    return metrics


def in_a_group(job: dict[str, Any]) -> None:
    metrics = work(job)
    Path(job["out"] + "-rank-" + os.environ["RANK"]).write_text(json.dumps(metrics), encoding="utf-8")


def child(job: dict[str, Any], out: str) -> int:
    process = os.fork()
    if process == 0:
        work(job, out)
        os._exit(0)
    return process


def ended(process: int) -> int:
    return os.waitpid(process, 0)[1]


def killed_once(job: dict[str, Any]) -> None:
    """A process that never computes itself: it forks one that trains, kills another, and lets a third go on."""
    import hanlin.train.stages  # noqa: F401

    assert ended(child(job, job["out"] + "/unbroken")) == 0
    victim = child(job, job["out"] + "/broken")
    scratch = Path(job["out"], "broken", ".work")
    while not (scratch / "checkpoints.json").exists() and os.waitpid(victim, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    assert ended(victim) == signal.SIGKILL, "it ended before it could be killed"
    os.link(scratch / "checkpoints.json", job["out"] + "/checkpoints.json")
    assert ended(child(job, job["out"] + "/broken")) == 0


def killed_often(job: dict[str, Any]) -> None:
    """The same, killed at thirty random moments of what was left to do."""
    import hanlin.train.stages  # noqa: F401

    begun = time.monotonic()
    assert ended(child(job, job["out"] + "/unbroken")) == 0
    length = time.monotonic() - begun
    seed = int(os.environ.get("HANLIN_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"HANLIN_KILL_SEED={seed}")
    moments, kills = random.Random(seed), 0
    broken = Path(job["out"], "broken")
    while kills < 30:
        victim = child(job, str(broken))
        until = time.monotonic() + moments.uniform(0, length)
        while (found := os.waitpid(victim, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
            time.sleep(0.002)
        if found == (0, 0):
            os.kill(victim, signal.SIGKILL)
            ended(victim)
            kills += 1
        else:
            assert found[1] == 0
            shutil.rmtree(broken)  # it came through: begin anew, so that there is more to kill
    assert ended(child(job, str(broken))) == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](json.loads(sys.argv[2]))
