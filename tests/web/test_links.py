"""The runs that made an artifact, by their links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hanlin.pipeline.artifacts import Store
from hanlin.web import links as module
from hanlin.web.links import RunLinks, read_links
from page_worlds import commit
from web_client import make_client


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    commit(store, "corpus", "documents", "1" * 16, {}, run_stage=("old", "text"))
    return store


def test_links_are_found_and_what_changed_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
    links, name = RunLinks(store.runs, store.artifacts), f"corpus-{'1' * 16}"
    assert links.find(name) == [("old", "text")] and links.find("other") == []
    (store.runs / "new").mkdir()
    (store.runs / "new" / "corpus").symlink_to(f"../../artifacts/{name}")
    os.utime(store.runs / "old", (0, 0))
    assert links.find(name) == [("new", "corpus"), ("old", "text")]
    (store.runs / "new" / "corpus").unlink()
    assert links.find(name) == [("old", "text")]


def test_a_link_elsewhere_and_a_folder_that_is_a_link_count_for_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (store.runs / "old" / "out").symlink_to(tmp_path / "outside")
    (store.runs / "linked").symlink_to(store.runs / "old")
    (store.runs / "file").touch()
    assert set(read_links(store).by_artifact()) == {f"corpus-{'1' * 16}"}
    assert RunLinks(tmp_path / "none", tmp_path).by_artifact() == {}


def test_thousands_of_runs_are_paged_and_searched(store: Store) -> None:
    for number in range(2000):
        folder = store.runs / f"run{number:04}"
        folder.mkdir()
        (folder / "text").symlink_to(f"../../artifacts/corpus-{'1' * 16}")
    client = make_client(store.home)
    client.get("/ui/data")
    page = client.get("/ui/data").text
    assert "and 1,998 more runs" in page
    assert "and 1,981 more runs" in client.get(f"/ui/runs/artifact/corpus-{'1' * 16}").text
    runs = client.get("/ui/runs").text
    assert "1 to 50 of 2,001 runs" in runs
    assert "run1234" in client.get("/ui/runs?text=RUN1234").text
    assert "Nothing was found." in client.get("/ui/runs?text=none").text
    assert "2,001 to 2,001 of 2,001 runs" in client.get("/ui/runs?first=99999").text
