"""Keys, states and manifests: what reruns, what does not, and why. Run on real light stages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.kinds import ARTIFACT_TYPES
from hanlin.config.recipe import Recipe, build_recipe
from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.inputs import _TYPE_NAMES
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.manifest import Manifest, read_manifest, refresh_manifest
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import run


def recipe_of(folder: Path, names: dict[str, str] | None = None, **changes: Any) -> Recipe:
    """A corpus of one file and conversations of another; `names` renames stages, `changes` set corpus settings."""
    corpus = {"kind": "corpus", "sources": [{"path": f"{folder}/text.txt", "format": "text_lines"}], **changes}
    chats = {"kind": "conversations", "sources": [f"{folder}/chats.json"]}
    names = names or {}
    return build_recipe({"name": "r", "stages": {names.get("c", "c"): corpus, names.get("t", "t"): chats}}, "r.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    lines = [f"第{n}篇文章讲的是城东的图书馆，图书馆里有很多书，编号{n}，欢迎来读。" for n in range(30)]
    (data / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chats = [{"instruction": f"第{n}问：你叫什么？", "input": "", "output": "我叫小翰。"} for n in range(5)]
    (data / "chats.json").write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
    return data


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def states(recipe: Recipe, store: Store) -> dict[str, str]:
    return {step.stage.name: step.state for step in plan(recipe, store)}


def test_what_was_made_is_done_and_is_not_made_again(folder: Path, store: Store) -> None:
    assert states(recipe_of(folder), store) == {"c": "run", "t": "run"}
    events: list[str] = []
    run(recipe_of(folder), store, lambda event, step: events.append(event))
    assert events == ["start", "made", "start", "made"]
    events.clear()
    run(recipe_of(folder), store, lambda event, step: events.append(event))
    assert events == ["skip", "skip"]


def test_renaming_a_stage_reruns_nothing(folder: Path, store: Store) -> None:
    run(recipe_of(folder), store)
    assert states(recipe_of(folder, {"c": "texts", "t": "talks"}), store) == {"texts": "done", "talks": "done"}


def test_changing_a_setting_reruns_exactly_that_stage_and_says_why(folder: Path, store: Store) -> None:
    run(recipe_of(folder), store)
    steps = {step.stage.name: step for step in plan(recipe_of(folder, validation_fraction=0.5), store)}
    assert steps["c"].state == "run" and steps["t"].state == "done"
    assert "validation_fraction" in steps["c"].why and "0.5" in steps["c"].why


def test_changing_an_input_file_reruns_exactly_what_reads_it(folder: Path, store: Store) -> None:
    run(recipe_of(folder), store)
    with (folder / "text.txt").open("a", encoding="utf-8") as file:
        file.write("又添了一篇新的文章，说的是河边的渡口和清晨的薄雾，行人很少。\n")
    assert states(recipe_of(folder), store) == {"c": "run", "t": "done"}


def test_moving_an_input_file_reruns_nothing(folder: Path, store: Store, tmp_path: Path) -> None:
    run(recipe_of(folder), store)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert states(recipe_of(moved), store) == {"c": "done", "t": "done"}


def test_a_changed_packaged_template_changes_the_key(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    from hanlin.pipeline import plan as plan_module

    data = {"stages": {"t": {"kind": "train_tokenizer", "text": ["./README.md"], "template": "llama3"}}}
    before = plan(build_recipe(data, "r"), store)[0].key
    monkeypatch.setattr(plan_module, "_resource_hash", lambda resource, name: "another text")
    assert plan(build_recipe(data, "r"), store)[0].key != before


def test_a_missing_input_file_is_refused_by_the_plan(folder: Path, store: Store) -> None:
    (folder / "chats.json").unlink()
    with pytest.raises(UserError, match="does not exist"):
        plan(recipe_of(folder), store)


def test_every_artifact_type_has_a_name() -> None:
    assert set(_TYPE_NAMES) == set(ARTIFACT_TYPES)


def test_a_refused_input_leaves_nothing_that_looks_whole(folder: Path, store: Store) -> None:
    (folder / "chats.json").write_text('[{"instruction": "问"', encoding="utf-8")
    with pytest.raises(UserError):
        run(recipe_of(folder), store)
    whole = [item.name for item in store.artifacts.glob("[a-z]*-*") if not item.name.endswith(".partial")]
    assert [name.split("-")[0] for name in whole] == ["corpus"]


def test_two_runs_at_once_make_each_artifact_once(folder: Path, store: Store) -> None:
    made: list[str] = []

    def one() -> None:
        run(recipe_of(folder), store, lambda event, step: made.append(event))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    artifacts = sorted(item.name for item in store.artifacts.glob("[a-z]*-*"))
    assert len(artifacts) == 2 and not any(".partial" in name or ".was-" in name for name in artifacts)


def test_an_artifact_made_from_other_bytes_is_stale_and_set_aside(store: Store) -> None:
    data = {
        "name": "r",
        "stages": {
            "w": {"kind": "demo_world"},
            "c": {"kind": "conversations", "sources": ["w/chats"]},
        },
    }
    recipe = build_recipe(data, "r.yaml")
    run(recipe, store)
    folder = next(store.artifacts.glob("demo_world-*"))
    for file in (folder / "chats").iterdir():
        file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    refresh_manifest(folder)  # as if it had been made so
    steps = {step.stage.name: step for step in plan(recipe, store)}
    assert steps["c"].state == "stale" and "w/chats changed" in steps["c"].why
    run(recipe, store)
    assert len(list(store.artifacts.glob("conversations-*.was-*"))) == 1


def test_a_scratch_folder_that_was_being_deleted_when_the_run_was_killed_is_never_found_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = store.partial_folder("package", "0123")
    (partial / SCRATCH_FOLDER / "rows").mkdir(parents=True)
    for name in ("whole.json", "ids.npy"):
        (partial / SCRATCH_FOLDER / "rows" / name).write_text("1", encoding="utf-8")
    (partial / "made.txt").write_text("made", encoding="utf-8")
    empty: dict[str, Any] = {"settings": {}, "inputs": (), "files": (), "metrics": {}, "made_by": {}}
    words: dict[str, Any] = {"digest": "", "started": "", "finished": "", "seconds": 0.0, "seed": 1, "version": 1}
    manifest = Manifest(kind="package", type="package", key="0123", **empty, **words)

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if (folder / "rows").exists():
            (folder / "rows" / "ids.npy").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        store.commit(partial, manifest)
    assert not (partial / SCRATCH_FOLDER).exists()
    (file,) = store.commit(partial, manifest).files
    assert file.path == "made.txt"
    assert [place.name for place in store.artifacts.glob("[!.]*")] == [store.folder("package", "0123").name]


def test_the_manifest_tells_settings_inputs_files_and_versions(folder: Path, store: Store) -> None:
    step = run(recipe_of(folder), store)[0]
    manifest = read_manifest(store.folder("corpus", step.key))
    assert manifest is not None
    assert manifest.inputs[0].files[0].path == "text.txt" and manifest.made_by["hanlin"]
    assert {"documents.jsonl", "ledger.json"} <= {entry.path for entry in manifest.files}


def test_lineage_goes_back_to_each_source_file_with_hash_and_licence(folder: Path, store: Store) -> None:
    data = {
        "name": "r",
        "stages": {
            "c": {
                "kind": "corpus",
                "sources": [{"path": f"{folder}/text.txt", "format": "text_lines", "license": "CC0-1.0"}],
            }
        },
    }
    run(build_recipe(data, "r.yaml"), store)
    root = lineage(store.runs / "r" / "c")
    (leaf,) = root.parents
    assert (leaf.name, leaf.type, leaf.license) == ("text.txt", "file", "CC0-1.0") and len(leaf.digest) == 64


def test_a_full_disk_is_said_in_one_sentence(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import hanlin.pipeline.worker as worker

    def full(*_: object) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device", "x/documents.jsonl")

    monkeypatch.setattr(worker, "_run_work", full)
    reply = worker._handle_request({**_request(folder, store)})
    assert reply["user_error"][0] == "the disk is full" and "documents.jsonl" in reply["user_error"][1]
    assert not [item for item in store.artifacts.glob("corpus-*") if not item.name.endswith(".partial")]


def test_a_stage_that_is_refused_before_it_made_anything_leaves_no_folder(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hanlin.pipeline.worker as worker

    request = _request(folder, store)

    def fail(error: BaseException, name: str) -> list[Path]:
        """What is left after the work has written a file and failed."""

        def work(request: Any, partial: Path, *_: object) -> dict[str, Any]:
            (partial / name).write_text("1", encoding="utf-8")
            raise error

        monkeypatch.setattr(worker, "_run_work", work)
        worker._handle_request(request)
        return list(store.artifacts.glob("*.partial"))

    for error in (UserError("no"), KeyboardInterrupt(), ValueError()):
        assert not fail(error, f"{SCRATCH_FOLDER}/{worker.PROGRESS_FILE}")
    for name in ("documents.jsonl", f"{SCRATCH_FOLDER}/checkpoint"):  # what a rerun goes on from
        (partial,) = fail(UserError("no"), name)
        shutil.rmtree(partial)


def test_a_kind_that_never_goes_on_leaves_nothing_and_begins_in_an_empty_folder(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of a merge that failed would fill the disk, and be taken for a part of the next one."""
    import hanlin.pipeline.worker as worker

    request = {**_request(folder, store), "kind": "merge", "inputs": [], "settings": {"adapter": ["a"]}}
    partial = store.partial_folder("merge", request["key"])
    (partial / SCRATCH_FOLDER).mkdir(parents=True)
    (partial / "model-00002-of-00002.safetensors").write_text("of a run that was killed", encoding="utf-8")
    left: list[str] = []

    def work(request: Any, partial: Path, *_: object) -> dict[str, Any]:
        left.extend(path.name for path in partial.iterdir() if path.name != SCRATCH_FOLDER)
        (partial / "model.safetensors").write_text("1", encoding="utf-8")
        raise errors.pop()

    errors: list[BaseException] = [UserError("no"), KeyboardInterrupt(), RuntimeError("other logits")]
    monkeypatch.setattr(worker, "_run_work", work)
    while errors:
        worker._handle_request(request)
        assert not left and not partial.exists()


def test_nothing_goes_on_from_what_was_begun_with_other_inputs(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key stays when an input is made again, of other bytes: a checkpoint of the old ones is of no use."""
    import hanlin.pipeline.worker as worker

    request = _request(folder, store)
    has_checkpoint: list[bool] = []

    def work(request: Any, partial: Path, *_: object) -> dict[str, Any]:
        file = partial / SCRATCH_FOLDER / "checkpoint"
        has_checkpoint.append(file.exists())
        file.write_text("1", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_run_work", work)
    for digest in ("first", "first", "second"):
        request["inputs"][0]["entry"]["digest"] = digest
        worker._handle_request(request)
    assert has_checkpoint == [False, True, False]
    (aside,) = store.artifacts.glob("*.partial.changed-input")
    assert (aside / SCRATCH_FOLDER / "checkpoint").is_file() and aside.name in capsys.readouterr().err


def _request(folder: Path, store: Store) -> dict[str, Any]:
    from hanlin.pipeline.run import build_request

    recipe = recipe_of(folder)
    return build_request(recipe, plan(recipe, store)[0], store)


def test_a_stage_is_a_command_of_its_own(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    command = [sys.executable, "-m", "hanlin", "conversations", "--sources", str(folder / "chats.json")]
    done = subprocess.run(
        [*command, "--out", str(out), "--home", str(tmp_path / "home"), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["rows_kept"] == 5 and (out / "conversations.jsonl").is_file()


def test_a_template_file_is_read_from_the_root_and_its_text_affects_the_key(folder: Path, store: Store) -> None:
    file = folder / "own.jinja"

    def key(template: str, text: str) -> str:
        file.write_text(text, encoding="utf-8")
        stages = {"k": {"kind": "train_tokenizer", "text": f"{folder}/text.txt", "template": template}}
        recipe = build_recipe({"name": "r", "root": str(folder), "stages": stages}, "r.yaml")
        return plan(recipe, store)[0].key

    assert key("own.jinja", "a") == key("./own.jinja", "a") == key(str(file), "a")
    assert len({key("own.jinja", "a"), key("own.jinja", "b"), key("llama3", "b")}) == 3
    with pytest.raises(UserError, match=r"neither\.jinja does not exist"):
        key("neither.jinja", "a")


def test_a_tokenizer_is_trained_with_a_template_of_ones_own(folder: Path, store: Store) -> None:
    turn = "<|turn|>{{ m.role }}: {% generation %}{{ m.content }}<|done|>{% endgeneration %}"
    source = f"{{{{- bos_token -}}}}{{% for m in messages %}}{turn}{{% endfor %}}"
    (folder / "own.jinja").write_text(source, encoding="utf-8")
    settings = {"text": ["text.txt", "chats.json"], "entries": 400, "template": "own.jinja"}
    recipe = build_recipe(
        {"name": "r", "root": str(folder), "stages": {"k": {"kind": "train_tokenizer", **settings}}}, "r.yaml"
    )
    (step,) = run(recipe, store)
    made = store.folder("train_tokenizer", step.key)
    assert (made / "chat_template.jinja").read_text(encoding="utf-8") == source
    assert "<|turn|>" in (made / "tokenizer.json").read_text(encoding="utf-8")


def test_a_path_in_a_recipe_may_stand_without_a_dot_if_it_is_there(folder: Path, store: Store) -> None:
    def stages(path: str) -> Recipe:
        stage = {"kind": "corpus", "sources": [{"path": path, "format": "text_lines"}]}
        return build_recipe({"name": "r", "root": str(folder.parent), "stages": {"c": stage}}, "r.yaml")

    keys = {plan(stages(path), store)[0].key for path in ("data/text.txt", "./data/text.txt", "data/*.txt")}
    assert len(keys) == 1
    with pytest.raises(UserError, match="neither a stage nor a path"):
        stages("date/text.txt")
