"""A group over two machines: network namespaces of this one, which have a cable between them and share a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HOSTS = {"hanlin-one": "10.213.7.1", "hanlin-two": "10.213.7.2"}
RECIPE = """
name: two_hosts
launch: {{ nodes: 2, rendezvous: "10.213.7.1:29513", threads: 1, timeout: 20, mode: {mode} }}
stages:
  world: {{ kind: demo_world, passages: 120, exchanges: 300, pairs: 60, questions: 60 }}
  chats: {{ kind: conversations, sources: [world/chats] }}
  tuned:
    kind: sft
    model: {model}
    data: chats
    max_seq_length: 128
    batch_tokens: 512
    steps: {steps}
    precision: float32
    save_every_seconds: 0.2
"""


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two hosts need root and iproute2")
    names = list(HOSTS)
    try:
        if not all(ip("netns", "add", name) for name in names):
            pytest.skip("network namespaces cannot be made here")
        assert ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in HOSTS.items():
            inside = ("-n", name)
            assert ip(*inside, "addr", "add", f"{address}/24", "dev", "cable")
            assert ip(*inside, "link", "set", "cable", "up") and ip(*inside, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def begin(host: str, rank: int, recipe: Path, home: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "hanlin", "run", str(recipe), "--home", str(home)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *words, "--set", f"launch.node_rank={rank}"],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def saved_step(home: Path) -> int:
    lists = list(home.glob("artifacts/sft-*.partial/.work/checkpoints.json"))
    return int(json.loads(lists[0].read_text(encoding="utf-8"))[0]["step"]) if lists else 0


def end_host(host: str) -> None:
    """As if its plug were pulled: the cable first, so that nobody is told, then every process."""
    assert ip("-n", host, "link", "set", "cable", "down")
    found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True)
    for number in found.stdout.split():
        os.kill(int(number), signal.SIGKILL)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_when_one_of_two_hosts_is_killed_the_other_says_so_and_the_run_resumes(
    mode: str, hosts: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    recipe, home = tmp_path / "recipe.yaml", tmp_path / "home"
    recipe.write_text(RECIPE.format(model=tiny_model, steps=4000, mode=mode), encoding="utf-8")
    runs = [begin(host, rank, recipe, home) for rank, host in enumerate(hosts)]
    deadline = time.monotonic() + 300
    while saved_step(home) < 2:
        assert time.monotonic() < deadline and all(run.poll() is None for run in runs)
        time.sleep(0.2)
    end_host(hosts[1])
    _, said = runs[0].communicate(timeout=120)
    assert runs[0].returncode == 2, said
    assert "no longer answers" in said and "run the same command again" in said
    runs[1].communicate()
    reached = saved_step(home)
    assert 2 <= reached < 4000
    assert ip("-n", hosts[1], "link", "set", "cable", "up")
    # it resumes: both hosts again, until a later checkpoint
    runs = [begin(host, rank, recipe, home) for rank, host in enumerate(hosts)]
    while saved_step(home) <= reached:
        assert time.monotonic() < deadline + 300 and all(run.poll() is None for run in runs)
        time.sleep(0.2)
    for run in runs:  # kill -9 of the command alone leaves nobody behind
        run.kill()
    for run in runs:
        run.communicate(timeout=300)
    curve = next(home.glob("artifacts/sft-*.partial/metrics.jsonl")).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in curve[: saved_step(home)]] == list(range(1, saved_step(home) + 1))


def test_two_hosts_make_one_artifact(hosts: list[str], tiny_model: Path, tmp_path: Path) -> None:
    recipe, home = tmp_path / "recipe.yaml", tmp_path / "home"
    recipe.write_text(RECIPE.format(model=tiny_model, steps=20, mode="ddp"), encoding="utf-8")
    runs = [begin(host, rank, recipe, home) for rank, host in enumerate(hosts)]
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    (manifest,) = home.glob("artifacts/sft-*/manifest.json")
    assert json.loads(manifest.read_text(encoding="utf-8"))["metrics"]["processes"] == 2
