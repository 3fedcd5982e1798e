"""Manifests of others: loops, diamonds, odd types and newer versions are one sentence, and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.pipeline.lineage import lineage, lineage_json, verify
from hanlin.pipeline.manifest import digest_files, read_manifest
from waiting import hang_limit

EMPTY = digest_files([])


def write(artifacts: Path, key: str, *parents: str, **changes: Any) -> Path:
    """An artifact without files, made from others."""
    inputs = [
        {"field": "sources.0.path", "reference": parent, "key": parent, "digest": EMPTY, "artifact": f"c-{parent}"}
        for parent in parents
    ]
    row = {
        "kind": "c", "type": "documents", "version": 1, "key": key, "digest": EMPTY, "settings": {}, "seed": 1,
        "inputs": inputs, "files": [], "metrics": {}, "made_by": {"hanlin": "0.1.0"}, "started": "", "finished": "",
        "seconds": 1.0, "key_settings": {}, **changes,
    }  # fmt: skip
    folder = artifacts / f"c-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(row), encoding="utf-8")
    return folder


@pytest.mark.parametrize("loop", [["a"], ["b", "a"], ["b", "c", "a"]])
def test_artifacts_that_were_made_from_themselves_are_one_sentence(tmp_path: Path, loop: list[str]) -> None:
    for key, parent in zip(["a", *loop], loop, strict=False):
        folder = write(tmp_path, key, parent)
    for read in (lineage, lambda path: list(verify(path))):
        with pytest.raises(UserError, match="made from itself"):
            read(tmp_path / "c-a")
    assert folder.is_dir()


@pytest.mark.parametrize("inside", ["", "questions", "questions/validation.jsonl", "text.jsonl"])
def test_what_lies_in_an_artifact_has_its_lineage(tmp_path: Path, inside: str) -> None:
    """A stage may read a folder of an artifact, or a file in that."""
    folder = write(tmp_path, "a")
    (folder / "questions").mkdir()
    for file in ("text.jsonl", "questions/validation.jsonl"):
        (folder / file).write_text("", encoding="utf-8")
    assert lineage(folder / inside).name == "c-a"


def test_what_lies_in_no_artifact_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(UserError, match="not an artifact"):
        lineage(tmp_path / "text")


def test_a_chain_without_end_is_one_sentence(tmp_path: Path) -> None:
    for number in range(400):
        write(tmp_path, f"k{number}", f"k{number + 1}")
    with pytest.raises(UserError, match="more than 200"):
        lineage(tmp_path / "c-k0")


def test_a_store_below_a_file_has_no_manifest(tmp_path: Path) -> None:
    """So that what is told is where the store cannot be made."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert read_manifest(tmp_path / "file" / "artifacts" / "c-1") is None


@hang_limit()
def test_diamonds_are_read_and_shown_once(tmp_path: Path) -> None:
    """Forty levels of two artifacts, each made from both of the level above: 2 ** 40 ways."""
    levels = 40
    for level in range(levels):
        above = [f"{side}{level + 1}" for side in "ab"] if level < levels - 1 else []
        for side in "ab":
            write(tmp_path, f"{side}{level}", *above)
    root = lineage(tmp_path / "c-a0")
    assert len(list(root.walk())) == 2 * levels - 1
    assert len(json.dumps(lineage_json(root))) < 100_000
    assert len(list(verify(tmp_path / "c-a0"))) == 2 * levels - 1
    shown = CliRunner().invoke(app, ["lineage", str(tmp_path / "c-a0")]).output
    assert len(shown.splitlines()) < 4 * levels


@pytest.mark.parametrize(
    "changes",
    [
        {"made_by": {"hanlin": "99.0"}, "format": 2},
        {"made_by": {"hanlin": "99.0.0"}, "settings": []},
        {"files": [{"path": "a", "bytes": 1, "sha256": "0", "mode": 7}]},
        {"inputs": [{"field": "", "reference": "", "key": "", "digest": "", "signature": "x"}]},
    ],
)
def test_a_manifest_of_another_version_is_named_as_such(tmp_path: Path, changes: dict[str, Any]) -> None:
    version = "a newer Hanlin" if "made_by" in changes else "another version of Hanlin"
    with pytest.raises(UserError, match=f"made by {version}") as caught:
        read_manifest(write(tmp_path, "a", **changes))
    assert "update" in str(caught.value.hint)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("kind", "files", "inputs", "settings", "seconds") for value in (None, [1], True)),
        {"files": {}},
        {"files": [1]},
        {"files": [{"path": 1, "bytes": 1, "sha256": ""}]},
        {"files": [{"path": "a", "bytes": "1", "sha256": ""}]},
        {"files": [{"path": "../../x", "bytes": 1, "sha256": ""}]},
        {"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": ""}]},
        {"inputs": [{"field": ""}]},
        {"inputs": [{"field": "", "reference": "", "key": "", "digest": "", "artifact": "../../x"}]},
        {"inputs": [{"field": "", "reference": "", "key": "", "digest": "", "files": [[]]}]},
        {"key": "../x"},
        {"seed": 1.5},
        {"metrics": [1]},
        {"made_by": 3},
    ],
    ids=str,
)
def test_odd_types_are_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write(tmp_path, "a")
    row = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    text = json.dumps({**row, **changes})
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="the manifest cannot be read") as caught:
        read_manifest(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[" * 100_000, b'{"a": ' * 100_000, b"[]", b"null", b"9" * 5000, b'{"kind": 1e999}', b"{}"]
)
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match="the manifest cannot be read"):
        read_manifest(tmp_path)


def test_a_folder_in_the_place_of_a_manifest_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError, match="the manifest cannot be read"):
        read_manifest(tmp_path)
