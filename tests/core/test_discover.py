"""The files of a folder do not hold what a command makes in it."""

from __future__ import annotations

from pathlib import Path

from hanlin.core.discover import list_files


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")


def test_a_store_of_artifacts_and_its_runs_are_left_out_wherever_they_lie(tmp_path: Path) -> None:
    mine = ("a.jsonl", "mmlu/dev/law.csv", "runs/mine.txt", "work/notes.txt")
    put(tmp_path, *mine, "work/artifacts/.locks/x.lock", "work/artifacts/evaluate-1/results.json", "work/runs/log.txt")
    assert [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)] == sorted(mine)
    put(tmp_path, "artifacts/.locks/y.lock", "artifacts/corpus-1/documents.jsonl")
    assert [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)] == [
        "a.jsonl", "mmlu/dev/law.csv", "work/notes.txt"
    ]  # fmt: skip


def test_a_folder_that_is_only_called_artifacts_is_data(tmp_path: Path) -> None:
    put(tmp_path, "artifacts/museum.jsonl", "runs/marathon.jsonl")
    assert len(list_files(tmp_path)) == 2
    put(tmp_path, "artifacts/.locks/x.lock")
    assert [path.name for path in list_files(tmp_path / "artifacts")] == ["x.lock", "museum.jsonl"]
