"""Data stages: every row is accounted for, a killed run ends with the same bytes, bad input gives one sentence."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.config.settings.data import Conversations, Corpus, Preferences
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.data.ingest import process_split, shards
from stage_runs import Made, run_stage, stopped_at_write

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
WORDS = "春夏秋冬花鸟鱼虫山水云雨风雪东西南北诗书礼乐琴棋笔墨"


def passage(seed: int, length: int = 80) -> str:
    random_ = random.Random(seed)
    return "".join(random_.choice(WORDS) for _ in range(length)) + "。"


ROWS = [{"text": passage(n)} for n in range(60)]
MIXED = [*ROWS, {"text": ""}, {"text": "短"}, ROWS[3], {"text": passage(4)[:-2] + "了。"}, {"n": 1}, ROWS[3]]
CHATS = [{"instruction": f"第{n}问？", "output": passage(n, 9)} for n in range(30)]
SPEAKING = StageContext(progress=Progress("conversations"))
PAIRS = [{"prompt": f"第{n}问？", "chosen": passage(n, 9), "rejected": "No."} for n in range(9)]


def check_ledger(made: Made) -> None:
    """Check the invariant of a ledger: rows in = rows kept + rows dropped by named reason, in all and in each file."""
    kept, dropped = len(made.kept) + len(made.validation), made.dropped
    for account in (made.ledger, *made.ledger["files"]):
        assert account["rows_in"] == account["rows_kept"] + account["rows_dropped"]
        assert account["rows_dropped"] == sum(account["dropped"].values())
    assert made.ledger["rows_kept"] == kept and made.ledger["rows_dropped"] == len(dropped)
    assert made.ledger["rows_validation"] == len(made.validation)
    assert Counter(row["reason"] for row in dropped) == made.ledger["dropped"]
    assert {name: made.ledger[name] for name in ("rows_in", "rows_kept")} == {
        name: made.metrics[name] for name in ("rows_in", "rows_kept")
    }


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (Corpus, MIXED),
        (Conversations, [*CHATS, {"instruction": "问", "output": ""}, {"x": 1}, CHATS[0]]),
        (
            Preferences,
            [*PAIRS, {"prompt": "问", "chosen": "甲", "rejected": "甲"}, PAIRS[0], {"prompt": "", "chosen": "x"}],
        ),
    ],
)
def test_rows_in_equal_rows_kept_plus_dropped(put: Put, run: Run, kind: Any, rows: list[Any]) -> None:
    made = run(kind, put("a.jsonl", rows))
    assert made.ledger["rows_in"] == len(rows)
    check_ledger(made)


@given(
    texts=st.lists(st.one_of(st.text(max_size=30), st.sampled_from([row["text"] for row in ROWS])), max_size=30),
    share=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_lost_whatever_it_is(
    texts: list[str], share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, ROWS[0]["text"]]), encoding="utf-8")
    made = run_stage(Corpus, [path], folder / "out", validation_fraction=share, max_dropped=1.0)
    assert made.ledger["rows_in"] == len(texts) + 1
    check_ledger(made)


def test_no_dropped_row_without_a_reason(put: Put, run: Run) -> None:
    for row in run(Corpus, put("a.jsonl", MIXED)).dropped:
        assert row["reason"] and row["location"].startswith("a.jsonl:") and "row" in row


def test_a_dropped_row_is_readable_as_it_was(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", MIXED))
    (short,) = [row for row in made.dropped if row["reason"] == "too_short"]
    assert short["row"] == {"text": "短"} and short["location"] == "a.jsonl:62"


def test_a_duplicate_names_the_record_that_it_duplicates(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", MIXED), validation_fraction=0)
    copies = [row for row in made.dropped if "duplicate_of" in row]
    assert [(row["reason"], row["duplicate_of"]) for row in copies] == [
        ("duplicate", "a.jsonl#4"),
        ("near_duplicate", "a.jsonl#5"),
        ("duplicate", "a.jsonl#4"),
    ]
    ids = {row["id"] for row in made.kept}
    assert all(row["duplicate_of"] in ids for row in copies)


def test_duplicates_are_found_across_files(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", ROWS[:5]), put("b.jsonl", [ROWS[2], *ROWS[5:8]]), validation_fraction=0)
    assert [(row["location"], row["duplicate_of"]) for row in made.dropped] == [("b.jsonl:1", "a.jsonl#3")]


def test_a_record_has_its_location_and_license(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", ROWS[:2]), source={"license": "CC0"}, validation_fraction=0)
    assert made.kept[1] == {
        "id": "a.jsonl#2",
        "text": ROWS[1]["text"],
        "source": "a.jsonl:2",
        "meta": {"license": "CC0"},
    }
    assert made.ledger["files"][0]["license"] == "CC0"


# --- validation split ---------------------------------------------------------------------------------------------


def test_validation_documents_are_never_in_the_training_split(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", [*MIXED, *ROWS]), validation_fraction=0.2)
    assert made.validation and not {row["text"] for row in made.validation} & set(made.texts)


def test_the_validation_split_depends_on_content_not_on_order(put: Put, run: Run) -> None:
    one = run(Corpus, put("a.jsonl", ROWS), validation_fraction=0.2)
    other = run(Corpus, put("b.jsonl", ROWS[::-1]), validation_fraction=0.2)
    assert {row["text"] for row in one.validation} == {row["text"] for row in other.validation}


def test_a_validation_document_stays_one_when_data_is_added(put: Put, run: Run) -> None:
    some = run(Corpus, put("a.jsonl", ROWS[:30]), validation_fraction=0.2)
    more = run(Corpus, put("b.jsonl", ROWS), validation_fraction=0.2)
    assert {row["text"] for row in some.validation} <= {row["text"] for row in more.validation}


def test_the_seed_chooses_the_validation_split(put: Put, run: Run) -> None:
    path = put("a.jsonl", ROWS)
    sides = [
        {r["text"] for r in run(Corpus, path, validation_fraction=0.2, job=StageContext(seed=s)).validation}
        for s in (1, 2)
    ]
    assert sides[0] != sides[1]


def test_conversations_with_the_same_question_are_in_one_split(put: Put, run: Run) -> None:
    rows = [{"instruction": f"第{n % 10}问？", "output": passage(n, 9)} for n in range(60)]
    made = run(Conversations, put("a.jsonl", rows), validation_fraction=0.3)
    sides = [{row["messages"][0]["text"] for row in side} for side in (made.kept, made.validation)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_of_two_records_one_is_in_the_validation_split(put: Put, run: Run) -> None:
    for share in (0.0001, 0.5):
        made = run(Corpus, put("a.jsonl", ROWS[:2]), validation_fraction=share)
        assert (len(made.kept), len(made.validation)) == (1, 1)


def test_without_a_fraction_there_is_no_validation_file(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.jsonl", ROWS), validation_fraction=0)
    assert sorted(made.files()) == ["documents.jsonl", "dropped.jsonl", "ledger.json"]


# --- killed and run again -----------------------------------------------------------------------------------------


def sources(put: Put) -> list[Path]:
    return [
        put("a.jsonl", MIXED),
        put("b.jsonl", [{"text": passage(n)} for n in range(100, 140)]),
        put("c.txt", passage(7, 300)),
    ]


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 9, 15, 30, 41, 42])
def test_a_run_stopped_at_any_write_resumes_to_the_same_bytes(
    put: Put, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    monkeypatch.setattr(process_split, "SHARD_ROWS", 12)
    paths = sources(put)
    whole = run(Corpus, *paths, validation_fraction=0.1).files()
    with stopped_at_write(monkeypatch, moment):
        run_stage(Corpus, paths, tmp_path / "again", validation_fraction=0.1)
    again = run_stage(Corpus, paths, tmp_path / "again", validation_fraction=0.1)
    assert {name: data for name, data in again.files().items() if not name.endswith(".writing")} == whole


def test_finished_shards_are_not_processed_again(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_split, "SHARD_ROWS", 12)
    paths = sources(put)
    run_stage(Corpus, paths, tmp_path / "out")
    monkeypatch.setattr(process_split._SplitProcessor, "_process_row", None)
    run_stage(Corpus, paths, tmp_path / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
from hanlin.core import files
from hanlin.data.ingest import process_split, shards
from hanlin.data.stages import corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.config.settings.data import Corpus
process_split.SHARD_ROWS = 12
paths, out = [Path(name) for name in sys.argv[2:]], Path(sys.argv[1])
whole, count = files.write_bytes, 0
def dying(path, data, shared):
    global count
    count += 1
    if count == 10:
        path.with_name(path.name + ".writing").write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, data, shared=shared)
process_split.write_bytes = dying
settings = Corpus(sources=["./x"] * len(paths), validation_fraction=0.1)
corpus.run(settings, Inputs({f"sources.{n}.path": (path,) for n, path in enumerate(paths)}), out, StageContext())
"""


def test_a_killed_run_resumes_to_the_same_bytes(
    put: Put, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sources(put)
    out = tmp_path / "killed"
    out.mkdir()
    command = [sys.executable, "-c", KILLED, str(out), *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "documents.jsonl").exists() and list((out / ".work" / "shards").glob("*.json"))
    monkeypatch.setattr(process_split, "SHARD_ROWS", 12)
    resumed = run_stage(Corpus, paths, out, validation_fraction=0.1).files()
    assert resumed == run(Corpus, *paths, validation_fraction=0.1).files()


def test_the_size_of_shards_changes_nothing(put: Put, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sources(put)
    whole = run(Corpus, *paths, validation_fraction=0.1).files()
    monkeypatch.setattr(shards, "SHARD_BYTES", 500)
    assert run(Corpus, *paths, validation_fraction=0.1).files() == whole


def test_a_limit_reads_the_first_rows_of_the_source_only(put: Put, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_split, "SHARD_ROWS", 3)
    folder = put("two/a.jsonl", ROWS[:10]).parent
    put("two/b.jsonl", ROWS[10:20])
    made = run(Corpus, folder, source={"limit": 14}, validation_fraction=0)
    assert made.texts == [row["text"] for row in ROWS[:14]]


# --- bad input ------------------------------------------------------------------------------------------------------


def refused(run: Run, *paths: Path, kind: Any = Corpus, **settings: Any) -> UserError:
    with pytest.raises(UserError) as refusal:
        run(kind, *paths, **settings)
    assert "\n" not in str(refusal.value)
    return refusal.value


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("data", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused(put: Put, run: Run, name: str, data: str) -> None:
    path = put(name, data)
    error = refused(run, path)
    assert "no record" in error.what and error.where == str(path)


def test_an_empty_json_list_is_refused(put: Put, run: Run) -> None:
    assert "no record" in refused(run, put("a.json", "[]")).what


def test_an_empty_file_among_others_is_in_the_ledger(put: Put, run: Run) -> None:
    put("folder/a.txt", "")
    made = run(Corpus, put("folder/b.jsonl", ROWS[:5]).parent)
    assert [account["rows_in"] for account in made.ledger["files"]] == [0, 5]


def test_broken_json_stops_at_its_line_or_is_dropped(put: Put, run: Run) -> None:
    path = put("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS[:5]) + '{"text": "x\n')
    error = refused(run, path)
    assert error.where == f"{path}:6" and "JSON" in error.what
    made = run(Corpus, path, on_error="drop", validation_fraction=0)
    assert made.ledger["dropped"] == {"broken_json": 1} and made.dropped[0]["row"] == '{"text": "x'


def test_an_undecodable_byte_stops_the_run_or_its_line_is_dropped(put: Put, run: Run) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[:5]).encode()
    path = put("a.jsonl", lines + b'{"text": "\xff"}\n')
    error = refused(run, path)
    assert error.where == f"{path}:6" and str(len(lines) + 10) in error.what
    made = run(Corpus, path, on_error="drop")
    assert made.ledger["dropped"] == {"undecodable": 1} and "\\xff" in made.dropped[0]["row"]


def test_an_undecodable_byte_in_plain_text_is_named(put: Put, run: Run) -> None:
    text = passage(1, 400).encode()
    error = refused(run, put("a.txt", text + b"\xff" + text))
    assert f"byte {len(text)}" in error.what


def test_an_encoding_can_be_named(put: Put, run: Run) -> None:
    path = put("a.txt", "café, c'est très bon, à bientôt les amis".encode("latin-1"))
    assert "encoding" in str(refused(run, path).hint)
    assert run(Corpus, path, source={"encoding": "latin-1"}).texts == ["café, c'est très bon, à bientôt les amis"]
    assert "no encoding 'latin-9000'" in refused(run, path, source={"encoding": "latin-9000"}).what


def test_records_without_an_answer_stop_the_run_when_they_are_too_many(put: Put, run: Run) -> None:
    rows = [*CHATS[:4], *[{"instruction": "问", "output": ""}] * 6]
    path = put("a.jsonl", rows)
    error = refused(run, path, kind=Conversations)
    assert "6 / 10" in error.what and "no answer" in error.what and error.where == f"{path}:5"
    assert "dropped.jsonl" in str(error.hint)
    made = run(Conversations, path, max_dropped=0.6)
    assert made.ledger["dropped"] == {"no_answer": 6}


def test_when_nothing_is_left_the_run_stops_whatever_the_limit(put: Put, run: Run) -> None:
    error = refused(run, put("a.jsonl", [{"text": "短"}]), max_dropped=1.0)
    assert "too short" in error.what and "nothing is left" in error.what
    assert "max_dropped" not in str(error.hint)  # which is 1 already


def test_duplicates_do_not_count_against_the_limit(put: Put, run: Run) -> None:
    made = run(Conversations, put("a.jsonl", [CHATS[0]] * 50 + [CHATS[1]]), max_dropped=0.1, validation_fraction=0)
    assert made.ledger["dropped"] == {"duplicate": 49}


def test_data_of_another_stage_gets_a_hint_to_that_stage(put: Put, run: Run) -> None:
    assert "`conversations`" in str(refused(run, put("a.jsonl", CHATS)).hint)
    assert "`preferences`" in str(refused(run, put("b.jsonl", PAIRS), kind=Conversations).hint)
    assert "`corpus`" in str(refused(run, put("c.jsonl", ROWS), kind=Conversations).hint)


def test_a_missing_file_is_refused(run: Run, tmp_path: Path) -> None:
    assert "no such file" in refused(run, tmp_path / "none.txt").what


def test_errors_are_in_the_language_of_the_user(put: Put, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANLIN_LANG", "zh")
    assert "没有任何记录" in refused(run, put("a.txt", "")).what
    assert "没有剩下任何数据" in refused(run, put("b.jsonl", [{"text": "短"}])).what


def test_the_language_of_the_user_changes_no_byte(put: Put, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("a.jsonl", MIXED)
    english = run(Corpus, path).files()
    monkeypatch.setenv("HANLIN_LANG", "zh")
    assert run(Corpus, path).files() == english


def test_a_field_that_no_row_has_is_named_and_one_file_that_has_it_is_enough(
    put: Put, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = put("a.jsonl", [{"ask": "几点？", "reply": "九点。"}]), put("b.jsonl", CHATS)
    fields = {"prompt": "ask", "response": "reply", "system": "persona"}
    run(Conversations, first, validation_fraction=0, job=SPEAKING, source={"fields": fields})
    assert "persona" in capsys.readouterr().err
    run(
        Conversations,
        first.parent,
        validation_fraction=0,
        job=SPEAKING,
        source={"fields": {"prompt": "ask", "response": "reply"}},
    )
    assert "fields" not in capsys.readouterr().err
    run(Conversations, second, validation_fraction=0, job=SPEAKING, source={"fields": {"system": "titel"}})
    assert "titel" in capsys.readouterr().err


def test_a_field_of_turns_is_looked_for_in_the_turns(put: Put, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"talk": [{"who": "user", "said": "几点？"}, {"who": "assistant", "said": "九点。"}]}]
    fields = {"messages": "talk", "role": "who", "content": "said"}
    run(Conversations, put("a.jsonl", rows), validation_fraction=0, job=SPEAKING, source={"fields": fields})
    assert "fields" not in capsys.readouterr().err


def test_a_file_that_is_read_twice_alike_is_refused_if_nothing_drops_duplicates(put: Put, run: Run) -> None:
    path = put("a.jsonl", [{"text": "桥下的河流过整座城，河上有船。"}])
    assert run(Corpus, path, path).ledger["dropped"] == {"duplicate": 1}
    with pytest.raises(UserError, match="this file is read twice"):
        run(Corpus, path, path, dedup="none")
