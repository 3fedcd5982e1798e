"""Input splits, one process, many, a killed run and a cluster end with the same bytes."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.errors import UserError
from hanlin.data.ingest import process_split, splits
from hanlin.data.io.input_file import ByteRange, InputFile
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
WORDS = "春夏秋冬花鸟鱼虫山水云雨风雪东西南北诗书礼乐琴棋笔墨"


def passage(seed: int, length: int = 60) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice(WORDS) for _ in range(length)) + "。"


def lines(count: int, first: int = 0) -> str:
    """JSON Lines with blank lines, Windows line ends, rows to drop, exact and near copies among them."""
    found = []
    for number in range(first, first + count):
        text = passage(number)
        row = {"text": "短" if number % 11 == 5 else text[:-2] + "了。" if number % 13 == 6 else text, "n": number}
        found.append(json.dumps(row, ensure_ascii=False) + ("\r\n" if number % 5 == 2 else "\n"))
        found += ["\n"] * (number % 7 == 3) + [json.dumps({"text": passage(number - 4)}) + "\n"] * (number % 9 == 4)
    return "".join(found)


def sources(put: Put) -> list[Path]:
    packed = put("c.jsonl.gz", gzip.compress(lines(20, 100).encode("utf-8"), mtime=0))
    long_lines = "".join(passage(seed, 160) + "\n" for seed in range(300, 312))
    return [put("a.jsonl", "\ufeff" + lines(60)), put("b.txt", long_lines), packed, put("d.txt", passage(9, 90))]


@pytest.mark.parametrize("stop", [1, 2, 9, 10, 11, 30])
def test_the_byte_ranges_of_a_file_have_each_line_once(put: Put, stop: int) -> None:
    path = put("a.txt", b"one\n\ntwo\r\na longer line\nx\nno end")
    with InputFile(path) as whole:
        expected = list(whole.lines(100))
    found: list[tuple[bytes, int, int]] = []
    size = path.stat().st_size
    for start in range(0, size, stop):
        with InputFile(path, ByteRange(start, start + stop if start + stop < size else None)) as tape:
            assert tape.count_lines_before() == len(found)
            found += list(tape.lines(100))
    assert found == expected


@pytest.mark.parametrize("size", [200, 5_000])
def test_a_divided_file_keeps_its_ids_locations_and_bytes(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    paths = sources(put)
    whole = run(Corpus, *paths, validation_fraction=0.1).files()
    monkeypatch.setattr(splits, "SPLIT_BYTES", size)
    monkeypatch.setattr(process_split, "SHARD_ROWS", 7)
    assert run(Corpus, *paths, validation_fraction=0.1).files() == whole


def test_several_records_of_one_row_are_numbered_in_order(put: Put, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"instruction": f"第{n}问？", "instances": [{"input": i, "output": passage(n, 9)} for i in "甲乙"]}
        for n in range(30)
    ]
    path = put("a.jsonl", rows)
    made = run(Conversations, path, validation_fraction=0)
    assert made.ledger["rows_in"] == 60 and made.kept[-1]["source"] == "a.jsonl:30"
    whole = run(Conversations, path).files()
    monkeypatch.setattr(splits, "SPLIT_BYTES", 200)
    assert run(Conversations, path).files() == whole


def test_a_broken_line_of_a_divided_file_is_named_by_its_line(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = lines(40) + '{"text": "x\n' + lines(10, 50)
    path = put("a.jsonl", text)
    monkeypatch.setattr(splits, "SPLIT_BYTES", 500)
    with pytest.raises(UserError) as refusal:
        run(Corpus, path)
    broken_line = text[: text.index('"x')].count("\n") + 1
    assert refusal.value.where == f"{path}:{broken_line}"
    broken = text.encode("utf-8").replace(b'"x', b'"\xff')
    with pytest.raises(UserError) as refusal:
        run(Corpus, put("b.jsonl", broken))
    assert str(broken.index(b"\xff")) in refusal.value.what


def test_a_file_that_changed_after_it_was_probed_is_refused(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put("a.jsonl", lines(9))
    probe = splits.probe_file

    def probe_and_touch(*arguments: Any) -> splits.FileProbe:
        probed = probe(*arguments)
        os.utime(path, (1, 1))
        return probed

    monkeypatch.setattr("hanlin.data.ingest.ingest.probe_file", probe_and_touch)
    with pytest.raises(UserError, match="changed"):
        run(Corpus, path)


# --- many processes -------------------------------------------------------------------------------------------------


RUN = """
import sys
from pathlib import Path
from hanlin.data.dedup import cluster
from hanlin.data.ingest import deduplicate, executor, splits
from hanlin.data.stages import corpus
from hanlin.core.errors import UserError
from hanlin.core.context import Inputs, StageContext
from hanlin.config.settings.data import Corpus
executor.SMALL_INPUT_BYTES, splits.SPLIT_BYTES, deduplicate._FEW_BATCHES, cluster._BATCH_TEXTS = 1_000, 1_500, 0, 3
out, ray, paths = Path(sys.argv[1]), sys.argv[2], [Path(name) for name in sys.argv[3:]]
out.mkdir(exist_ok=True)
settings = Corpus(sources=["./x"] * len(paths), validation_fraction=0.1)
inputs = Inputs({f"sources.{n}.path": (path,) for n, path in enumerate(paths)})
try:
    corpus.run(settings, inputs, out, StageContext(cores=2, ray=ray))
except UserError as error:
    print(error)
    sys.exit(2)
"""


def started(out: Path, ray: str, paths: list[Path], **options: Any) -> subprocess.Popen[bytes]:
    """The stage on two processes, or on a cluster, in which no input is too small for that."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN, str(out), ray, *map(str, paths)]
    return subprocess.Popen(command, env=environment, start_new_session=True, **options)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def test_many_processes_make_the_bytes_of_one(put: Put, run: Run, tmp_path: Path) -> None:
    paths = sources(put)
    one = run(Corpus, *paths, validation_fraction=0.1)
    assert one.ledger["dropped"]["near_duplicate"] and one.ledger["dropped"]["duplicate"]
    assert started(tmp_path / "many", "", paths).wait() == 0
    assert files(tmp_path / "many") == one.files()


def test_an_error_in_another_process_names_file_and_line(put: Put, tmp_path: Path) -> None:
    text = lines(90) + '{"text": "x\n' + lines(90, 100)
    path = put("a.jsonl", text)
    with started(tmp_path / "many", "", [path], stdout=subprocess.PIPE) as process:
        told = process.communicate()[0].decode("utf-8")
    broken_line = text[: text.index('"x')].count("\n") + 1
    assert process.returncode == 2 and f"{path}:{broken_line}" in told and told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_many_killed_processes_resume_to_the_same_bytes(put: Put, run: Run, tmp_path: Path, whole_group: bool) -> None:
    paths = sources(put)
    whole = run(Corpus, *paths, validation_fraction=0.1).files()
    out = tmp_path / "killed"
    for finished in (1, 4, 9):
        process = started(out, "", paths)
        while process.poll() is None and len(list((out / ".work" / "shards").glob("*.json"))) < finished:
            time.sleep(0.01)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "documents.jsonl").exists()
    assert started(out, "", paths).wait() == 0
    assert files(out) == whole


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_makes_the_bytes_of_one_process(put: Put, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    paths = sources(put)
    whole = run(Corpus, *paths, validation_fraction=0.1).files()
    script = """
import subprocess, sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
cluster.add_node(**node)
code = subprocess.call([word.replace("ADDRESS", cluster.address) for word in sys.argv[1:]])
cluster.shutdown()
sys.exit(code)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    run_it = [sys.executable, "-c", RUN, str(tmp_path / "ray"), "ADDRESS", *map(str, paths)]
    subprocess.run([sys.executable, "-c", script, *run_it], env=environment, check=True)
    assert files(tmp_path / "ray") == whole


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused_in_a_sentence(put: Put, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with started(tmp_path / "out", "127.0.0.1:1", sources(put), stdout=subprocess.PIPE) as process:
        told = process.communicate()[0].decode("utf-8")
    assert process.returncode == 2 and "no Ray cluster answers" in told
