"""How groups of processes are started: commands for a shell, settings that are refused, words for a lost peer."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from hanlin.config.recipe import build_recipe
from hanlin.config.settings.launch import Launch
from hanlin.core.errors import UserError
from hanlin.pipeline import torchrun
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run import launch_commands
from hanlin.pipeline.worker import follow_rank0
from hanlin.web.pages.run_report import _curve

TWO = Launch(nodes=2, processes=4, mode="fsdp", rendezvous="10.0.0.1:29500")


def test_one_machine_needs_no_meeting_place() -> None:
    words = torchrun.launch_command(Launch(processes=2), Path("request.json"))
    assert "--standalone" in words and "--nproc-per-node=2" in words
    assert words[-3:] == ["hanlin.pipeline.worker", "--rank", "request.json"]


def test_several_machines_meet_at_the_first() -> None:
    words = torchrun.launch_command(TWO.model_copy(update={"node_rank": 1}), Path("request.json"))
    wanted = {"--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=29500", "--nproc-per-node=4"}
    assert wanted <= set(words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"nodes": 2}, "rendezvous"),
        ({"nodes": 2, "rendezvous": "h:1", "node_rank": 2}, "node_rank"),
        ({"offload": True}, "ddp shards nothing"),
        ({"nodes": 2, "rendezvous": "no port"}, "pattern"),
        ({"nodes": 2, "rendezvous": "a host:29500"}, "pattern"),
        ({"nodes": 2, "rendezvous": "10.0.0.1:29500 more"}, "pattern"),
    ],
)
def test_what_does_not_go_together_is_refused(row: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Launch.model_validate(row)


def test_a_group_is_started_where_there_is_something_to_divide() -> None:
    assert not Launch().grouped
    assert Launch(processes=2).grouped and Launch(mode="zero3").grouped


def test_the_processes_of_a_group_share_the_cores_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, torchrun gives each of several processes one thread."""
    given: dict[str, str] = {}

    class Group:
        def __enter__(self) -> Group:
            return self

        def __exit__(self, *_: object) -> None: ...

        def wait(self) -> int:
            return 0

    def start(command: list[str], changes: dict[str, str], **_: object) -> Group:
        given.clear()
        given.update(changes)
        return Group()

    monkeypatch.setattr(torchrun, "start_process", start)
    monkeypatch.setattr(torchrun, "available_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for processes, threads in ((1, "16"), (4, "4"), (32, "1")):
        assert torchrun.run_group(Launch(processes=processes, mode="fsdp"), Path("request.json")) == 0
        assert given["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # by hand, or by `launch.threads`
    torchrun.run_group(Launch(processes=4), Path("request.json"))
    assert "OMP_NUM_THREADS" not in given


def test_what_is_printed_is_read_by_a_shell_and_names_every_machine(tmp_path: Path, tiny_model: Path) -> None:
    stages = {
        "world": {"kind": "demo_world"},
        "chats": {"kind": "conversations", "sources": ["world/chats"]},
        "tuned": {"kind": "sft", "model": str(tiny_model), "data": "chats"},
    }
    launch = {"nodes": 2, "processes": 4, "rendezvous": "10.0.0.1:29500"}
    recipe = build_recipe({"name": "r", "launch": launch, "stages": stages}, "r.yaml")
    text = launch_commands(recipe, Store(tmp_path), "tuned", "my recipe.yaml", ("launch.nodes=2",))
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0
    lines = [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert [f"launch.node_rank={rank}" in lines[rank] for rank in (0, 1)] == [True, True]
    assert lines[0][:5] == ["hanlin", "run", "my recipe.yaml", "--until", "tuned"]
    assert "torch.distributed.run" in lines[2] and lines[2][-1].endswith(".partial/.work/request.json")
    assert "#SBATCH --nodes=2" in text and "launch.node_rank=$SLURM_NODEID" in text
    with pytest.raises(UserError, match="no training stage 'chats'"):
        launch_commands(recipe, Store(tmp_path), "chats", "r.yaml", ())


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:1"), True),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 20000ms for recv operation"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
    ],
)
def test_a_lost_peer_is_told_from_a_mistake(error: Exception, known: bool) -> None:
    assert (torchrun.explain_lost_peer(error) is not None) is known


def test_the_report_draws_training_validation_and_probes(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [
        '{"step": 1, "loss": 4.0, "probe_english_loss_at_start": 1.0}',
        '{"step": 2, "loss": 3.0, "validation_loss": 3.5, "probe_english_loss": 1.5, "probe_english_right": 0.5}',
    ]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    drawn = _curve(file)
    assert drawn is not None
    assert [(line["name"].format(topic=line["topic"]), line["start"], line["end"]) for line in drawn["lines"]] == [
        ("training", 4.0, 3.0),
        ("validation", 3.5, 3.5),
        ("probe: english", 1.0, 1.5),
    ]
    assert drawn["lines"][2]["line"] == "0.0,150.0 560.0,125.0"


def test_another_machine_waits_for_one_that_works_and_not_for_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepared` outlives a kill -9 of machine 0: a group that began with it would wait for nobody."""
    scratch = Store(tmp_path).partial_folder("sft", "0") / ".work"
    scratch.mkdir(parents=True)
    (scratch / torchrun.PREPARED_FILE).touch()
    (scratch / "seconds").write_text("7.1", encoding="utf-8")
    request = {"kind": "sft", "key": "0", "stage": "tuned", "home": str(tmp_path), "inputs": []}
    begun: list[str] = []

    def begin(*_: object) -> int:
        begun.append("group")
        return 0

    monkeypatch.setattr(torchrun, "run_group", begin)
    monkeypatch.setattr("hanlin.pipeline.worker.time.sleep", lambda _: None)
    launch = TWO.model_copy(update={"node_rank": 1, "timeout": 0.2})
    with pytest.raises(UserError, match="machine 0 has not worked"):
        follow_rank0(request, launch, Store(tmp_path))
    assert begun == []
    seconds = iter((b"7.1", b"8.1"))
    monkeypatch.setattr("hanlin.pipeline.worker._read_bytes", lambda _: next(seconds, b"8.1"))
    with pytest.raises(UserError, match="machine 0 has not worked"):
        follow_rank0(request, launch, Store(tmp_path))
    assert begun == ["group"]
