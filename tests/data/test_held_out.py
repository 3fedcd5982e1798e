"""The scripts that judge rules on labeled public text: drawing the rows, and counting right and wrong decisions."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
GOOD = "春天来了，小河边的柳树抽出了新芽，孩子们在草地上放风筝。"
SYMBOLS = "★★★★★★★★★★☆☆☆☆☆☆☆☆●●●●●●●●好"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("draw_held_out"), importlib.import_module("rule_precision")


def write_repository(folder: Path, files: dict[str, str]) -> str:
    """Write a Git repository and return its commit."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "data"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    return subprocess.check_output(["git", "-C", str(folder), "rev-parse", "HEAD"], text=True).strip()


def test_rows_are_drawn_at_the_commit_and_the_rules_counted_against_the_labels(
    tmp_path: Path, scripts: tuple[Any, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, precision = scripts
    chats = [{"instruction": f"第{number}题？", "output": f"答{number}。" * 3} for number in range(10)]
    repos = tmp_path / "repos"
    commit = write_repository(
        repos / "owner+chats",
        {"a.jsonl": "\n".join(json.dumps(row) for row in chats), "b.txt": f"{GOOD}\n\n{SYMBOLS}\n"},
    )
    (repos / "owner+chats" / "a.jsonl").write_text("changed after the commit")
    sources = tmp_path / "sources.toml"
    rest = f'repo = "owner/chats"\ncommit = "{commit}"\nseed = 1\n'
    sources.write_text(
        f'[chats]\n{rest}path = "*.jsonl"\nform = "chats"\nsample = 4\n'
        f'[lines]\n{rest}path = "b.txt"\nform = "lines"\nsample = 0\n'
        f'[absent]\nrepo = "a/b"\ncommit = "{commit}"\npath = "x"\nform = "lines"\nsample = 0\nseed = 1\n'
    )
    material = tmp_path / "material.jsonl"
    monkeypatch.setattr(sys, "argv", ["draw", "--repos", str(repos), "--sources", str(sources), "--out", str(material)])
    draw.main()
    assert "6 rows" in capsys.readouterr().out
    rows = [json.loads(line) for line in material.read_text(encoding="utf-8").splitlines()]
    assert [row["source"] for row in rows] == ["chats"] * 4 + ["lines"] * 2
    assert rows[0]["sha256"] == draw.hash_text(rows[0]["messages"][1]["text"])
    assert draw.draw(repos, draw.read_sources(sources)) == (rows, ["absent"])
    all_chats = {draw.hash_text(chat["output"]) for chat in chats}
    named = all_chats - {row["sha256"] for row in rows}
    (tmp_path / "named.tsv").write_text("sha256\n" + "\n".join(named))
    labeled = draw.read_labeled(tmp_path)
    assert {row["sha256"] for row in draw.draw(repos, draw.read_sources(sources), labeled)[0]} >= all_chats

    labels = tmp_path / "labels.tsv"
    verdicts = [("symbols", "keep", GOOD), ("symbols", "drop", SYMBOLS), ("symbols", "drop", "not drawn")]
    labels.write_text(
        "rule\tverdict\tsha256\tsource\n"
        + "".join(f"{rule}\t{verdict}\t{draw.hash_text(text)}\tlines\n" for rule, verdict, text in verdicts)
        + f"refusals\tdrop\t{rows[0]['sha256']}\tchats\n"
    )
    monkeypatch.setattr(sys, "argv", ["precision", "--material", str(material), "--labels", str(labels)])
    precision.main()
    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[-1]) == [
        {"rule": "refusals", "form": "chats", "keeps": 1, "missed": 1},
        {"rule": "symbols", "form": "?", "not_in_material": 1},
        {"rule": "symbols", "form": "documents", "drops": 1, "right": 1, "keeps": 1},
    ]
    assert "labels of rows that the material lacks: 1" in out


def test_strings_in_lists_are_drawn_and_split(tmp_path: Path, scripts: tuple[Any, Any]) -> None:
    draw, _ = scripts
    rows = [{"a": "第1段：春天。第2段：夏天。", "b": [["秋天。", "春天。"], 5], "c": "冬天。"}, {"a": "第1段："}]
    commit = write_repository(tmp_path / "owner+pages", {"a.jsonl": "\n".join(json.dumps(row) for row in rows)})
    source = {"repo": "owner/pages", "commit": commit, "path": "*", "form": "strings", "sample": 0, "seed": 1}
    source |= {"strings": ["a", "b", "absent"], "split": r"第\d段："}
    drawn, _ = draw.draw(tmp_path, {"pages": source})
    assert [row["text"] for row in drawn] == ["春天。", "夏天。", "秋天。"]


def test_texts_of_a_package_are_drawn_from_a_pickle_that_names_no_class(
    tmp_path: Path, scripts: tuple[Any, Any]
) -> None:
    draw, _ = scripts
    folder = tmp_path / "pypi+texts" / "texts"
    folder.mkdir(parents=True)
    (folder / "a.pkl").write_bytes(pickle.dumps((["title"], ["春天。", " "], [1])))
    source = {"repo": "pypi/texts", "commit": "1.0", "path": "texts/*.pkl", "form": "pickled", "column": 1}
    source |= {"sample": 0, "seed": 1}
    drawn, _ = draw.draw(tmp_path, {"texts": source})
    assert [row["text"] for row in drawn] == ["春天。"]
    (folder / "a.pkl").write_bytes(pickle.dumps(([], [Path("a")])))
    with pytest.raises(SystemExit, match=r"a pickle names pathlib"):
        draw.draw(tmp_path, {"texts": source})


def test_strings_need_fields(tmp_path: Path, scripts: tuple[Any, Any]) -> None:
    file = tmp_path / "sources.toml"
    file.write_text('[a]\nrepo = "a/b"\ncommit = "0"\npath = "x"\nform = "strings"\nsample = 0\nseed = 1\n')
    with pytest.raises(SystemExit, match=r"missing \['strings'\]"):
        scripts[0].read_sources(file)


def test_two_verdicts_on_one_row_are_refused(tmp_path: Path, scripts: tuple[Any, Any]) -> None:
    file = tmp_path / "labels.tsv"
    row = f"symbols\t{{}}\t{'0' * 16}\tlines\n"
    file.write_text("rule\tverdict\tsha256\tsource\n" + row.format("keep") + row.format("drop"))
    with pytest.raises(SystemExit, match="another verdict"):
        scripts[1].read_labels([file])


def test_every_label_of_the_project_is_read_and_names_a_source(scripts: tuple[Any, Any]) -> None:
    draw, precision = scripts
    sources = draw.read_sources(draw.SOURCES)
    labels = precision.read_labels(sorted(precision.LABELS.glob("*.tsv")))
    assert {label.source for label in labels} <= set(sources)


def test_a_file_is_a_document_in_its_encoding_and_binary_files_are_none(
    tmp_path: Path, scripts: tuple[Any, Any]
) -> None:
    draw, _ = scripts
    folder = tmp_path / "repos" / "owner+pages"
    folder.mkdir(parents=True)
    for name, data in {"a.html": GOOD.encode(), "b.html": GOOD[3:].encode("gbk"), "c.html": b"a\0b"}.items():
        (folder / name).write_bytes(data)
    source = {"repo": "owner/pages", "commit": "0" * 40, "path": "*.html", "form": "files", "sample": 0, "seed": 1}
    rows, missing = draw.draw(tmp_path / "repos", {"pages": source})
    assert [row["text"] for row in rows] == [GOOD, GOOD[3:]]
    assert not missing
