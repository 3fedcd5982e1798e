"""What a stage read from a hub is known afterwards: the name in the recipe, and the commit that lay behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.config.recipe import build_recipe
from hanlin.core.context import SCRATCH_FOLDER
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.hubs.cache import list_cache
from hanlin.pipeline.hubs.inputs import download
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.manifest import read_manifest
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import run
from hanlin.pipeline.worker import COMMITS_FILE
from hub_server import COMMIT, HubServer, Repository, hub_server

TEXT = "".join(f"第{n}篇文章讲的是城东的图书馆，图书馆里有很多书，编号{n}，欢迎来读。\n" for n in range(30))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    with hub_server() as served:
        served.repositories["owner/data"] = Repository({"text.txt": TEXT.encode()}, "dataset", "newest")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
        yield served


def test_the_manifest_keeps_the_branch_that_was_named_and_the_commit_that_was_read(
    server: HubServer, tmp_path: Path
) -> None:
    reference = "ms:owner/data@newest"
    source = {"path": reference, "format": "text_lines"}
    recipe = build_recipe({"name": "r", "stages": {"c": {"kind": "corpus", "sources": [source]}}}, "r.yaml")
    store = Store(tmp_path / "home")
    step = run(recipe, store)[0]
    manifest = read_manifest(folder := store.folder("corpus", step.key))
    assert manifest is not None and manifest.metrics["rows_kept"] == 30
    (entry,) = manifest.inputs
    assert (entry.reference, entry.commit) == (reference, COMMIT)
    (node,) = lineage(folder).parents
    assert (node.name, node.digest) == (reference, COMMIT)
    assert [step.state for step in plan(recipe, store)] == ["done"]
    (cached,) = list_cache(tmp_path / "home")
    assert cached.used_by == (folder.name,) and cached.name.revision == COMMIT


def test_a_stage_goes_on_with_the_commit_that_it_began_with(server: HubServer, tmp_path: Path) -> None:
    entry = {"field": "sources.0.path", "key": "ms:owner/data@moved"}  # a branch that is not there any more
    assert download(entry, commit=COMMIT).commit == COMMIT
    source = {"path": entry["key"], "format": "text_lines"}
    recipe = build_recipe({"name": "r", "stages": {"c": {"kind": "corpus", "sources": [source]}}}, "r.yaml")
    store = Store(tmp_path / "home")
    (step,) = plan(recipe, store)
    scratch = store.open_partial("corpus", step.key) / SCRATCH_FOLDER
    (scratch / COMMITS_FILE).write_text(f'{{"{entry["key"]}": "{COMMIT}"}}', encoding="utf-8")
    run(recipe, store)
    manifest = read_manifest(store.folder("corpus", step.key))
    assert manifest is not None and manifest.inputs[0].commit == COMMIT
