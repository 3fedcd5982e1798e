"""What was hashed is what was used: edited artifacts are told, sources that change while they are read are noticed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hanlin.pipeline.manifest as manifest_module
import hanlin.pipeline.worker as worker
from hanlin.cli.main import app
from hanlin.config.recipe import Recipe, build_recipe
from hanlin.core.errors import UserError
from hanlin.core.files import FileState
from hanlin.data.ingest.splits import FileProbe
from hanlin.data.io.layout import Layout
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.integrity import find_edits
from hanlin.pipeline.lineage import lineage, verify
from hanlin.pipeline.manifest import Manifest
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import build_request, run


def recipe_of(folder: Path, *names: str) -> Recipe:
    """A corpus of a file, and one of each corpus before it."""
    stages: dict[str, Any] = {"a": {"kind": "corpus", "sources": [{"path": f"{folder}/text.txt", "format": "text"}]}}
    stages |= {
        name: {"kind": "corpus", "sources": [{"path": "a"}], "max_chars": 9000 + i} for i, name in enumerate(names)
    }
    return build_recipe({"name": "r", "stages": stages}, "r.yaml")


def make(recipe: Recipe, store: Store) -> Manifest:
    """Run the stages of a recipe in this process, and return the manifest of the last."""
    made = None
    for name in recipe.stages:
        step = next(step for step in plan(recipe, store) if step.stage.name == name)
        made = worker.run_stage(build_request(recipe, step, store))
        store.link(recipe.name, name, store.folder(step.stage.kind.name, step.key))
    assert made is not None
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "text.txt").write_text("城东的图书馆里有很多书，欢迎大家来读。春天院子里开满了花。\n", encoding="utf-8")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def artifact_of(store: Store) -> Path:
    return (store.runs / "r" / "a").resolve()


def rewrite(file: Path) -> None:
    """Change one byte and set back size and time, as a program can."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def replace_by_another(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(reversed(file.read_bytes())))
    os.replace(other, file)


EDITS: list[Callable[[Path], None]] = [rewrite, append, replace_by_another, Path.unlink]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_artifact_is_told_and_never_an_input(data: Path, store: Store, edit: Callable[[Path], None]) -> None:
    make(recipe_of(data), store)
    edit(artifact_of(store) / "documents.jsonl")
    for fresh in (store, Store(store.home)):
        a, b = plan(recipe_of(data, "b"), fresh)
        assert (a.state, b.state) == ("edited", "run")
        assert "documents.jsonl" in a.why
        with pytest.raises(UserError, match=r"documents\.jsonl"):
            run(recipe_of(data, "b"), fresh)
    assert [path.name for path in store.artifacts.glob("corpus-*")] == [artifact_of(store).name]


@pytest.mark.parametrize("name", ["documents-2.jsonl", "deep/x.txt"])
def test_a_file_that_was_added_to_an_artifact_is_told(data: Path, store: Store, name: str) -> None:
    make(recipe_of(data), store)
    (artifact_of(store) / name).parent.mkdir(exist_ok=True)
    (artifact_of(store) / name).write_text("{}", encoding="utf-8")
    assert name in plan(recipe_of(data), store)[0].why


def test_what_file_managers_leave_is_no_change(data: Path, store: Store) -> None:
    make(recipe_of(data), store)
    for name in (".DS_Store", "Thumbs.db"):
        (artifact_of(store) / name).write_bytes(b"\0")
    assert plan(recipe_of(data), store)[0].state == "done"


@pytest.mark.parametrize("field", ["digest", "files"])
def test_an_edited_manifest_is_told(data: Path, store: Store, field: str) -> None:
    make(recipe_of(data), store)
    file = artifact_of(store) / "manifest.json"
    row = json.loads(file.read_text(encoding="utf-8"))
    row["digest"] = "0" * 64 if field == "digest" else row["digest"]
    row["files"] = row["files"][1:] if field == "files" else row["files"]
    file.write_text(json.dumps(row), encoding="utf-8")
    assert plan(recipe_of(data), store)[0].state == "edited"


def test_files_are_hashed_once_and_again_only_in_another_state(
    data: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    original = manifest_module.hash_file

    def counted(path: Path, *arguments: Any) -> Any:
        hashed.append(path.name)
        return original(path, *arguments)

    for module in ("artifacts", "integrity", "inputs"):
        monkeypatch.setattr(f"hanlin.pipeline.{module}.hash_file", counted)
    make(recipe_of(data), store)
    files = sorted(path.name for path in artifact_of(store).iterdir() if path.name != "manifest.json")
    assert sorted(hashed) == sorted([*files, "text.txt"])
    hashed.clear()
    assert plan(recipe_of(data), Store(store.home))[0].state == "done"
    assert hashed == []
    (artifact_of(store) / "documents.jsonl").touch()
    assert plan(recipe_of(data), Store(store.home))[0].state == "done"
    assert hashed == ["documents.jsonl"]
    hashed.clear()
    assert plan(recipe_of(data), Store(store.home, verify=True))[0].state == "done"
    assert sorted(hashed) == sorted([*files, "text.txt"])
    hashed.clear()
    copied = Store(shutil.copytree(store.home, tmp_path / "copy", symlinks=True))
    assert plan(recipe_of(data), copied)[0].state == "done"
    assert sorted(hashed) == files


def test_an_edited_artifact_from_elsewhere_is_refused(data: Path, store: Store, tmp_path: Path) -> None:
    make(recipe_of(data), store)
    copy = shutil.copytree(artifact_of(store), tmp_path / "copy")
    stages = {"b": {"kind": "corpus", "sources": [str(copy)]}}
    recipe = build_recipe({"name": "r", "stages": stages}, "r.yaml")
    assert plan(recipe, store)[0].state == "run"
    rewrite(copy / "documents.jsonl")
    with pytest.raises(UserError, match=r"documents\.jsonl"):
        plan(recipe, store)
    (copy / "manifest.json").unlink()
    assert plan(recipe, store)[0].state == "run"


@pytest.mark.parametrize("edit", EDITS)
def test_a_source_that_changes_before_it_is_read_is_noticed(
    data: Path, store: Store, edit: Callable[[Path], None]
) -> None:
    recipe = recipe_of(data)
    request = build_request(recipe, plan(recipe, store)[0], store)
    edit(data / "text.txt")
    with pytest.raises(UserError, match="changed while it was read"):
        worker.run_stage(request)
    assert list(store.artifacts.glob("corpus-*")) == []


def test_a_source_that_is_swapped_while_it_is_read_and_restore_is_noticed(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(data)
    request = build_request(recipe, plan(recipe, store)[0], store)
    original, kept = worker._run_work, data / "kept"

    def swapped(*arguments: Any) -> Any:
        os.rename(data / "text.txt", kept)
        (data / "text.txt").write_bytes(kept.read_bytes().replace("书".encode(), "诗".encode()))
        try:
            return original(*arguments)
        finally:
            os.replace(kept, data / "text.txt")

    monkeypatch.setattr(worker, "_run_work", swapped)
    with pytest.raises(UserError, match="changed while it was read"):
        worker.run_stage(request)
    assert not any(store.folder("corpus", request["key"]).parent.glob("corpus-*/manifest.json"))


def swap_by_name(file: Path) -> Callable[[], None]:
    """Put another file of the same size and time in the place of one; returns what puts the first back."""
    kept = file.with_name("kept")
    os.rename(file, kept)
    file.write_bytes(kept.read_bytes().replace("书".encode(), "诗".encode()))
    os.utime(file, ns=(kept.stat().st_mtime_ns, kept.stat().st_mtime_ns))
    return lambda: os.replace(kept, file)


def swap_by_link(file: Path) -> Callable[[], None]:
    """The same with a link that leads to the one, then to the other."""
    target = os.readlink(file)
    file.unlink()
    file.symlink_to("../other.txt")

    def restore() -> None:
        file.unlink()
        file.symlink_to(target)

    return restore


def write_and_undo(file: Path) -> Callable[[], None]:
    data = file.read_bytes()
    file.write_bytes(data.replace("书".encode(), "诗".encode()))

    def undo() -> None:
        file.write_bytes(data)

    return undo


@pytest.mark.parametrize("swap", [swap_by_name, swap_by_link, write_and_undo])
def test_what_was_another_file_while_a_stage_ran_is_noticed_although_its_bytes_are_the_same_again(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], Callable[[], None]]
) -> None:
    """Of any kind: the work here, as that of models, does not look at the state of what it opens."""
    file = data / "text.txt"
    if swap is swap_by_link:
        (data.parent / "linked.txt").write_bytes(file.read_bytes())
        (data.parent / "other.txt").write_bytes(file.read_bytes().replace("书".encode(), "诗".encode()))
        file.unlink()
        file.symlink_to("../linked.txt")
    stages = {"a": {"kind": "corpus", "sources": [{"path": str(data), "format": "text"}]}}
    recipe = build_recipe({"name": "r", "stages": stages}, "r.yaml")
    request = build_request(recipe, plan(recipe, store)[0], store)

    def read_another(request: Any, partial: Path) -> dict[str, Any]:
        restore = swap(file)
        (partial / "documents.jsonl").write_bytes(file.read_bytes())
        restore()
        return {}

    monkeypatch.setattr(worker, "_run_work", read_another)
    with pytest.raises(UserError, match="changed while it was read"):
        worker.run_stage(request)
    assert [path.suffix for path in store.artifacts.glob("corpus-*")] == [".changed-input"]


@pytest.mark.parametrize("edit", [rewrite, append])
def test_work_on_a_source_that_changes_meanwhile_is_no_artifact_and_is_not_resumed(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Path], None]
) -> None:
    recipe = recipe_of(data)
    request = build_request(recipe, plan(recipe, store)[0], store)
    original = worker._run_work

    def changed(*arguments: Any) -> Any:
        metrics = original(*arguments)
        edit(data / "text.txt")
        return metrics

    monkeypatch.setattr(worker, "_run_work", changed)
    with pytest.raises(UserError, match="changed while it was read"):
        worker.run_stage(request)
    assert [path.suffix for path in store.artifacts.glob("corpus-*")] == [".changed-input"]


def test_a_file_that_is_added_to_a_source_folder_meanwhile_is_noticed(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"a": {"kind": "corpus", "sources": [{"path": str(data), "format": "text"}]}}
    recipe = build_recipe({"name": "r", "stages": stages}, "r.yaml")
    request = build_request(recipe, plan(recipe, store)[0], store)
    (data / "more.txt").write_text("又添了一篇新的文章，说的是河边的渡口。", encoding="utf-8")
    with pytest.raises(UserError, match="added while its folder was read"):
        worker.run_stage(request)


def test_a_source_that_is_only_touched_meanwhile_changes_nothing(
    data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(data)
    request = build_request(recipe, plan(recipe, store)[0], store)
    original = worker._run_work

    def touched(*arguments: Any) -> Any:
        metrics = original(*arguments)
        (data / "text.txt").chmod(0o600)
        return metrics

    monkeypatch.setattr(worker, "_run_work", touched)
    assert worker.run_stage(request).digest


def test_verify_hashes_an_artifact_and_what_it_was_made_from(data: Path, store: Store) -> None:
    make(recipe_of(data, "b"), store)
    for path in (store.runs / "r" / "b", store.runs / "r", store.home):
        results = list(verify(path))
        assert [result.changes for result in results] == [(), ()]
        assert results[0].folder == artifact_of(store)
    assert len(list(verify(store.runs / "r" / "a"))) == 1
    rewrite(artifact_of(store) / "ledger.json")
    first, second = verify(store.runs / "r" / "b")
    assert [change.path for change in first.changes] == ["ledger.json"]
    assert second.changes == ()


def test_the_command_verify_ends_with_2_if_a_file_was_changed(data: Path, store: Store, tmp_path: Path) -> None:
    make(recipe_of(data), store)
    path = str(store.runs / "r")
    done = CliRunner().invoke(app, ["verify", path])
    assert done.exit_code == 0
    assert "unchanged" in done.output
    rewrite(artifact_of(store) / "documents.jsonl")
    done = CliRunner().invoke(app, ["verify", path, "--json"])
    assert isinstance(done.exception, UserError)
    assert json.loads(done.stdout)[0]["changes"] == ["documents.jsonl: it was changed after it was made"]
    with pytest.raises(UserError, match="no artifact"):
        list(verify(tmp_path / "data"))
    shutil.rmtree(artifact_of(store))
    with pytest.raises(UserError, match="is gone"):
        list(verify(store.runs / "r"))


def test_lineage_names_the_bytes_that_were_read_not_those_of_now(data: Path, store: Store) -> None:
    make(recipe_of(data, "b"), store)
    before = lineage(store.runs / "r" / "b").parents[0]
    kept = store.archive_as(artifact_of(store), f"was-{before.digest[:8]}")
    shutil.copytree(kept, kept.with_name(before.name))
    (kept.with_name(before.name) / "documents.jsonl").write_text("{}", encoding="utf-8")
    manifest_module.refresh_manifest(kept.with_name(before.name))
    assert lineage(store.runs / "r" / "b").parents[0].digest == before.digest
    shutil.rmtree(kept)
    assert lineage(store.runs / "r" / "b").parents[0].type == "missing"


@pytest.mark.parametrize(
    "place", [".locks/{name}.lock", "{name}.partial", "{name}.partial/.work", "{name}.partial/x/y"]
)
def test_nothing_is_written_through_a_link_in_the_store(data: Path, store: Store, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept", encoding="utf-8")
    recipe = recipe_of(data)
    step = plan(recipe, store)[0]
    link = store.artifacts / place.format(name=f"corpus-{step.key}")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "file" if place.endswith(("lock", "y")) else outside)
    with pytest.raises(UserError, match="a link is here"):
        worker.run_stage(build_request(recipe, step, store))
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text(encoding="utf-8") == "kept"


def test_nothing_is_written_through_a_link_in_runs(data: Path, store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store.runs.mkdir(parents=True)
    (store.runs / "r").symlink_to(outside)
    with pytest.raises(UserError, match="a link is here"):
        run(recipe_of(data), store)
    assert list(outside.iterdir()) == []


def test_a_link_at_the_place_of_a_half_written_file_is_replaced(tmp_path: Path) -> None:
    from hanlin.core.files import write_text

    victim = tmp_path / "victim"
    victim.write_text("kept", encoding="utf-8")
    (tmp_path / "a.json.writing").symlink_to(victim)
    write_text(tmp_path / "a.json", "new")
    assert victim.read_text(encoding="utf-8") == "kept"
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("place", ["a.jsonl.writing", "made.partial"])
def test_a_named_output_is_not_written_through_a_link_beside_it(
    data: Path, store: Store, tmp_path: Path, place: str
) -> None:
    from hanlin.cli.commands.single_stage import _copy_artifact
    from hanlin.core.files import copy_atomic

    make(recipe_of(data), store)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept", encoding="utf-8")
    (tmp_path / place).symlink_to(outside / "file" if place.endswith("writing") else outside)
    if place.endswith("writing"):
        copy_atomic(data / "text.txt", tmp_path / "a.jsonl")
    else:
        _copy_artifact(artifact_of(store), tmp_path / "made")
    assert (outside / "file").read_text(encoding="utf-8") == "kept"
    assert [path.name for path in outside.iterdir()] == ["file"]


def test_a_planted_lock_or_log_leads_nowhere(data: Path, store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept", encoding="utf-8")
    recipe = recipe_of(data)
    step = plan(recipe, store)[0]
    store.open_partial("corpus", step.key)
    (store.artifacts / ".locks").mkdir()
    (store.artifacts / ".locks" / f"corpus-{step.key}.lock").symlink_to(victim)
    assert plan(recipe, store)[0].state == "resume"
    log = store.log_folder("r", "a", step.key)
    log.mkdir(parents=True)
    (log / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(UserError, match="a link is here"):
        build_request(recipe, step, store)
    assert victim.read_text(encoding="utf-8") == "kept"


def test_an_archived_artifact_that_was_edited_is_kept_beside_the_other(data: Path, store: Store) -> None:
    make(recipe_of(data), store)
    folder = artifact_of(store)
    first = store.archive(Path(shutil.copytree(folder, folder.with_name("corpus-0123"))))
    again = Path(shutil.copytree(folder, folder.with_name("corpus-0123")))
    assert store.archive(again) == first
    edited = Path(shutil.copytree(folder, folder.with_name("corpus-0123")))
    append(edited / "documents.jsonl")
    assert store.archive(edited).name == f"{first.name}-2"


@pytest.mark.parametrize("place", ["r", "r/a"])
def test_what_has_the_place_of_a_runs_folder_or_link_is_kept_and_told(data: Path, store: Store, place: str) -> None:
    path = store.runs / place
    path.parent.mkdir(parents=True)
    if place == "r":
        path.write_text("kept", encoding="utf-8")
    else:
        path.mkdir()
        (path / "kept").touch()
    with pytest.raises(UserError, match=r"is here|this is a file"):
        make(recipe_of(data), store)
    assert path.exists()
    assert [entry.name for entry in store.runs.rglob("*")] in (["r"], ["r", "a", "kept"])


def test_states_are_not_written_through_a_link(data: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    store.artifacts.mkdir(parents=True)
    (store.artifacts / ".states").symlink_to(tmp_path / "outside")
    make(recipe_of(data), store)
    assert plan(recipe_of(data), Store(store.home))[0].state == "done"
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_store_itself_may_be_behind_links(data: Path, store: Store, tmp_path: Path) -> None:
    store.home.mkdir()
    for name in ("artifacts", "runs"):
        (tmp_path / "disk" / name).mkdir(parents=True)
        (store.home / name).symlink_to(tmp_path / "disk" / name)
    make(recipe_of(data), store)
    assert plan(recipe_of(data), store)[0].state == "done"
    assert next(iter(verify(store.home))).changes == ()


@pytest.mark.parametrize("text", ["hf:../..@main", "hf:./x@main", "hf:a/..@main", "hf:a/b@..", "hf:a/b@../x"])
def test_the_name_of_a_hub_repository_is_no_path(store: Store, text: str) -> None:
    recipe = {"stages": {"a": {"kind": "corpus", "sources": [text]}}}
    with pytest.raises(UserError):
        plan(build_recipe(recipe, "r.yaml"), store)


def test_a_model_that_is_opened_is_told_if_it_was_edited(data: Path, store: Store, tmp_path: Path) -> None:
    make(recipe_of(data), store)
    folder = artifact_of(store)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (folder / "documents.jsonl").touch()
    assert find_edits(store.runs / "r" / "a") == find_edits(copy) == find_edits(data) == ()
    rewrite(folder / "documents.jsonl")
    for path in (folder, folder / "ledger.json", store.runs / "r" / "a"):
        assert [change.path for change in find_edits(path)] == ["documents.jsonl"]
    append(copy / "documents.jsonl")
    (copy / "ledger.json").unlink()
    assert {change.path for change in find_edits(copy)} == {"documents.jsonl", "ledger.json"}


@pytest.mark.parametrize(
    ("changes", "host", "same"),
    [
        ({}, "", True),
        ({"inode": 7}, "", True),
        ({"ctime_ns": 7}, "", False),
        ({"mtime_ns": 7}, "", False),
        ({"inode": 7, "ctime_ns": 7}, "another", True),
        ({"size": 7}, "another", False),
    ],
)
def test_a_probe_knows_its_file_on_file_systems_that_number_files_anew(
    changes: dict[str, int], host: str, same: bool
) -> None:
    state = FileState(size=1, mtime_ns=2, inode=3, ctime_ns=4)
    probe = FileProbe(Layout("jsonl", "utf-8"), "", True, state)
    probe = replace(probe, host=host) if host else probe
    assert probe.is_unchanged(state._replace(**changes)) is same
