"""Runs on the page: states, progress, stop and resume, comparison, lineage; nothing outside of the folder is shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError
from hanlin.core.process import process_start_time, python_command
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import RunRecord, RunSource, read_run_record, record_run
from hanlin.web.runs import control
from hanlin.web.runs.compare import differing_metrics, differing_settings
from hanlin.web.runs.layout import NODE_WIDTH, lay_out
from hanlin.web.runs.stages import RunCache, StageView, list_runs, view_run
from page_worlds import commit, make_small_run, metrics_text
from web_client import make_client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished run of two data stages, and a training run beside it without a record."""
    home = tmp_path_factory.mktemp("home")
    store = make_small_run(home)
    lora = {"learning_rate": 1e-4, "lora": {"rank": 8}}
    for run, rate in (("first", 1e-4), ("second", 3e-4)):
        commit(
            store,
            "sft",
            "model",
            f"{run:0<16}",
            {"metrics.jsonl": metrics_text(40, spike=9), "quality.html": "<h1>quality</h1>"},
            run_stage=(run, "tuned"),
            settings={**lora, "learning_rate": rate},
            metrics={"loss": {"last": rate * 1000}, "seconds": rate},
        )
    return store


@pytest.fixture(scope="module")
def client(world: Store) -> TestClient:
    return make_client(world.home)


def test_a_run_shows_every_stage_of_its_recipe_with_its_state(world: Store, client: TestClient) -> None:
    run = view_run(world, "small")
    assert [(stage.name, stage.state) for stage in run.stages] == [("chats", "done"), ("text", "done")]
    assert run.state == "done" and run.record is not None and run.record.outcome == "done"
    page = client.get("/ui/runs/view/small").text
    assert "rows kept" in page and "/ui/data/view/conversations-" in page and "<svg" in page


def test_a_changed_source_makes_a_stage_to_be_run_again(tmp_path: Path) -> None:
    store = make_small_run(tmp_path)
    (tmp_path / "text.jsonl").write_text('{"text": "新的一篇文字，说的是别的事。"}\n', encoding="utf-8")
    states = {stage.name: stage.state for stage in view_run(store, "small").stages}
    assert states == {"chats": "done", "text": "run"}
    assert view_run(store, "small").state == "unfinished"


def test_a_run_without_a_recipe_shows_what_is_in_the_store(world: Store) -> None:
    (stage,) = view_run(world, "first").stages
    assert (stage.name, stage.kind, stage.state, stage.trains) == ("tuned", "sft", "done", True)


def test_an_unfinished_artifact_belongs_to_the_run_of_its_log_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "runs" / "r").mkdir(parents=True)
    scratch = store.open_partial("sft", "0" * 16) / SCRATCH_FOLDER
    request = {"stage": "tuned", "kind": "sft", "key": "0" * 16, "settings": {"epochs": 2}, "inputs": []}
    request["log"] = str(tmp_path / "runs" / "r" / "training-logs" / "tuned-00000000")
    (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
    (scratch / "progress.json").write_text('{"done": 5, "total": 10, "left": 3, "unit": "steps"}', encoding="utf-8")
    run = view_run(store, "r")
    assert [(stage.name, stage.state, stage.progress["done"]) for stage in run.stages if stage.progress] == [
        ("tuned", "interrupted", 5)
    ]
    with store.lock("sft", "0" * 16):
        assert view_run(store, "r").state == "running"


def test_a_graph_puts_each_stage_below_all_that_it_reads() -> None:
    stages = [
        StageView("a", "corpus", "1", "done"),
        StageView("b", "sft", "2", "run", inputs=("a",)),
        StageView("c", "merge", "3", "run", inputs=("a", "b")),
        StageView("d", "gguf", "4", "run", inputs=("b",)),
    ]
    picture = lay_out(stages)
    at = {node.stage.name: node for node in picture.nodes}
    for stage in stages:
        assert all(at[name].y < at[stage.name].y for name in stage.inputs)
    assert len({(node.x, node.y) for node in picture.nodes}) == len(stages) and len(picture.edges) == 4
    assert all(0 <= node.x <= picture.width - NODE_WIDTH for node in picture.nodes)


def test_curves_are_reduced_and_a_part_can_be_asked_for(client: TestClient) -> None:
    drawn = client.get("/ui/runs/view/first/curves/tuned").json()
    loss = drawn["pictures"][0]["curves"][0]
    assert loss["values"][loss["steps"].index(9)] == 9.0 and drawn["step"] == 40
    assert drawn["forgetting"][0]["topic"] == "english" and drawn["forgetting"][0]["worse"]
    assert {"name": "step", "value": "40"} in drawn["figures"]
    few = client.get("/ui/runs/view/first/curves/tuned?first=10&last=20&points=10").json()
    assert len(few["pictures"][0]["curves"][0]["steps"]) <= 10


def test_compared_runs_show_settings_and_results_that_differ(world: Store, client: TestClient) -> None:
    runs = [view_run(world, name) for name in ("first", "second")]
    assert [(row.name, row.values) for row in differing_settings(runs)] == [("learning_rate", ("0.0001", "0.0003"))]
    assert [row.name for row in differing_metrics(runs)] == ["loss.last"]
    page = client.get("/ui/runs/compare?run=first&run=second").text
    assert "learning_rate" in page and "lora.rank" not in page
    curves = client.get("/ui/runs/compare/curves?run=first&run=second&stage=tuned").json()["pictures"][0]["curves"]
    assert [curve["name"] for curve in curves] == ["first", "second"]
    assert client.get("/ui/runs/compare?run=first").status_code == 400


def test_of_more_runs_than_can_be_told_apart_none_is_left_out_unsaid(world: Store, client: TestClient) -> None:
    for number in range(9):
        (world.runs / f"many{number}").mkdir(exist_ok=True)
    many = "&".join(f"run=many{number}" for number in range(9))
    for path in (f"/ui/runs/compare?{many}", f"/ui/runs/compare/curves?stage=tuned&{many}"):
        answer = client.get(path)
        assert (answer.status_code, "at most 8 runs" in answer.text) == (400, True), path
    assert client.get("/ui/runs/compare?" + "run=first&run=second&" * 5).status_code == 200
    for number in range(9):
        (world.runs / f"many{number}").rmdir()


def test_of_many_runs_only_the_views_that_were_asked_for_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanlin.web.runs.stages.MAX_VIEWS", 3, raising=False)
    cache = RunCache(Store(tmp_path), seconds=100)
    for number in range(9):
        (tmp_path / "runs" / f"r{number}").mkdir(parents=True)
        kept = cache.view(f"r{number}")
    assert cache.view("r8") is kept and [name for name, _ in cache._views] == ["r6", "r7", "r8"]


def test_an_artifact_shows_its_lineage_and_its_report_in_a_sandbox(world: Store, client: TestClient) -> None:
    name = f"sft-{'first':0<16}"
    page = client.get(f"/ui/runs/artifact/{name}").text
    assert "learning_rate" in page and "quality.html" in page and "/ui/runs/view/first#stage-tuned" in page
    report = client.get(f"/ui/runs/artifact/{name}/report/quality.html")
    assert report.text == "<h1>quality</h1>" and report.headers["content-security-policy"].startswith("sandbox")
    data = client.get(f"/ui/runs/artifact/{next(p.name for p in world.artifacts.glob('conversations-*'))}").text
    assert "chats.jsonl" in data


@pytest.mark.parametrize(
    "path",
    [
        "/ui/runs/view/..%2F..%2Fetc",
        "/ui/runs/view/%2Fetc",
        "/ui/runs/view/.hidden",
        "/ui/runs/view/outside",
        "/ui/runs/view/nothing",
        "/ui/runs/view/small/curves/nothing",
        "/ui/runs/artifact/%2E%2E",
        "/ui/runs/artifact/link-0",
        "/ui/runs/artifact/sft-first00000000000.partial",
        "/ui/runs/artifact/sft-first00000000000/report/..%2F..%2Fsecret.html",
        "/ui/runs/artifact/sft-first00000000000/report/%2Fetc%2Fpasswd",
        "/ui/runs/artifact/sft-first00000000000/report/link.html",
        "/ui/runs/artifact/sft-first00000000000/report/metrics.jsonl",
        "/ui/runs/view/small/report",
    ],
)
def test_nothing_outside_of_the_folder_can_be_named(path: str, world: Store, client: TestClient) -> None:
    outside = world.home.parent / "outside"
    outside.mkdir(exist_ok=True)
    (world.home / "secret.html").write_text("what is hidden", encoding="utf-8")
    for link, target in (
        (world.runs / "outside", outside),
        (world.artifacts / "link-0", outside),
        (world.artifacts / f"sft-{'first':0<16}" / "link.html", world.home / "secret.html"),
    ):
        if not link.is_symlink():
            link.symlink_to(target)
    answer = client.get(path)
    assert answer.status_code in (400, 404) and "what is hidden" not in answer.text


def test_runs_of_links_are_not_listed(world: Store) -> None:
    assert set(list_runs(world)) == {"small", "first", "second"}


# --- stop and resume --------------------------------------------------------------------------------------------------

WAIT = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def record_of(pid: int, source: RunSource | None = None) -> RunRecord:
    started = process_start_time(pid)
    assert started is not None
    return RunRecord(source or RunSource(), os.uname().nodename, pid, started, "2026-01-01 00:00:00")


def test_a_run_that_was_started_in_the_background_is_interrupted_with_the_token(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with subprocess.Popen(python_command("-c", WAIT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None and child.stdout.readline()
        record = record_of(child.pid)
        write_record(store, "r", record)
        refused = make_client(tmp_path, with_start_token=False).post("/ui/runs/view/r/stop")
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "start_token"
        assert record.is_alive()
        assert make_client(tmp_path).post("/ui/runs/view/r/stop").status_code == 200
        assert child.wait() == -signal.SIGTERM
    answer = make_client(tmp_path).post("/ui/runs/view/r/stop")
    assert answer.status_code == 400 and "ended already" in answer.text


def write_record(store: Store, name: str, record: RunRecord) -> None:
    from dataclasses import asdict

    folder = store.run_folder(name)
    (folder / "run.json").write_text(json.dumps(asdict(record)), encoding="utf-8")


def test_a_process_that_has_the_number_of_an_ended_run_is_not_interrupted(tmp_path: Path) -> None:
    record = replace(record_of(os.getpid()), process_started=1.0)
    assert not record.is_alive()
    with pytest.raises(UserError, match="ended already"):
        record.interrupt()
    with pytest.raises(UserError, match="on the machine elsewhere"):
        replace(record_of(os.getpid()), host="elsewhere").interrupt()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"pid": 1}', '{"source": {}, "host": "x", "pid": 0, "process_started": 1, "started": ""}'],
)
def test_a_damaged_record_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    assert read_run_record(tmp_path) is None


def test_a_record_says_how_the_run_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def outcome(error: BaseException | None) -> tuple[str, str]:
        try:
            with record_run("r", store):
                during = read_run_record(store.runs / "r")
                assert during is not None and during.outcome == "running" and during.is_alive()
                if error is not None:
                    raise error
        except BaseException as raised:
            assert raised is error
        record = read_run_record(store.runs / "r")
        assert record is not None
        return record.outcome, record.error

    assert outcome(None) == ("done", "")
    assert outcome(KeyboardInterrupt()) == ("interrupted", "")
    assert outcome(UserError("no file", "a.jsonl")) == ("failed", "a.jsonl: no file")


def test_resuming_starts_the_recorded_command_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_small_run(tmp_path)
    started: list[tuple[list[str], Path]] = []

    def start(command: list[str], log: Path, folder: Path) -> int:
        started.append((list(command), folder))
        return os.getpid()  # whose record there is

    monkeypatch.setattr(control, "start_detached", start)
    client = make_client(tmp_path)
    assert make_client(tmp_path, with_start_token=False).post("/ui/runs/view/small/resume").status_code == 403
    assert client.post("/ui/runs/view/small/resume").status_code == 200
    ((command, folder),) = started
    assert command[command.index("run") :] == [
        "run",
        str(tmp_path / "small.yaml"),
        "--set",
        f"root={tmp_path}",
        "--home",
        str(store.home),
    ]
    assert folder == tmp_path


def test_a_run_of_the_page_is_no_child_of_it_and_its_output_is_shown(tmp_path: Path) -> None:
    from hanlin.core.process import start_detached
    from waiting import wait_until

    log = tmp_path / "page.log"
    code = "import os; print('parent', os.getppid(), flush=True)"
    pid = start_detached([sys.executable, "-c", code], log, folder=tmp_path)
    assert pid != os.getpid()
    wait_until(lambda: "parent" in control.read_log(tmp_path))
    assert control.read_log(tmp_path).split() != ["parent", str(os.getpid())]


def test_a_run_that_ends_before_it_begins_is_told_with_what_it_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_small_run(tmp_path)

    def start(command: list[str], log: Path, folder: Path) -> int:
        log.write_text("first\nno space left\n", encoding="utf-8")
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
        return child.pid

    monkeypatch.setattr(control, "start_detached", start)
    with pytest.raises(UserError, match="ended at once: no space left"):
        control.start_run(store, RunSource(str(tmp_path / "small.yaml"), (f"root={tmp_path}",)), tmp_path)


def test_a_page_without_runs_says_how_to_start_one(tmp_path: Path) -> None:
    assert "hanlin run" in make_client(tmp_path).get("/ui/runs").text
