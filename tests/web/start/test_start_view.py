"""The first view: what is in the folder, and the demo's next step by one click."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import RunSource, record_run
from hanlin.serve.admission import Limits
from hanlin.serve.loaded_model import EngineConfig, ModelLoader
from hanlin.serve.registry import ModelRegistry
from hanlin.web.start import demo
from page_worlds import commit
from waiting import wait_until
from web_client import make_client


@pytest.fixture()
def loader() -> Iterator[ModelLoader]:
    made = ModelLoader(ModelRegistry(()), EngineConfig("transformers", {"separate_process": False}), Limits())
    yield made
    made.close()


def commit_demo_model(folder: Path, model: Path) -> Path:
    artifact = commit(Store(folder), "merge", "model", "0" * 16, {}, run_stage=("quickstart", "merged"))
    shutil.copytree(model, artifact, dirs_exist_ok=True)
    return artifact


def test_an_empty_folder_opens_with_the_demo_and_stays_empty(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    assert client.get("/ui/").headers["location"] == "/ui/start"
    page = client.get("/ui/start").text
    assert "Run the demo" in page and "6 to 10 minutes" in page
    for text in ("There is no run yet.", "There is no model yet.", "There is no dataset yet."):
        assert text in page
    assert list(tmp_path.iterdir()) == []


def test_runs_models_and_datasets_of_the_folder_are_listed(tmp_path: Path, tiny_model: Path) -> None:
    store = Store(tmp_path)
    commit(store, "corpus", "documents", "1" * 16, {}, run_stage=("mine", "text"), metrics={"rows_kept": 12345})
    shutil.copytree(tiny_model, tmp_path / "models" / "<b>small")
    with record_run("mine", store, RunSource()):
        assert "running" in make_client(tmp_path).get("/ui/start").text
    page = make_client(tmp_path).get("/ui/start").text
    assert 'href="/ui/runs/view/mine"' in page and "✓" in page
    assert 'data-path="models/&lt;b&gt;small"' in page
    assert "mine / text" in page and "12,345 rows" in page


def test_the_demo_is_started_as_any_run_by_the_token_of_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a run starts is tested with a small recipe in `test_runs`; the demo takes minutes, so it is only named."""
    started: list[tuple[Path, RunSource, Path]] = []

    def note(store: Store, source: RunSource, folder: Path) -> str:
        started.append((store.home, source, folder))
        return "quickstart"

    monkeypatch.setattr(demo, "start_run", note)
    refused = make_client(tmp_path, with_start_token=False).post("/ui/start/demo")
    assert (refused.status_code, refused.json()["error"]["code"], started) == (403, "start_token", [])
    assert make_client(tmp_path).post("/ui/start/demo").json() == {"go": "/ui/runs/view/quickstart"}
    ((home, source, folder),) = started
    assert home == folder == tmp_path and Path(source.recipe).name == "quickstart.yaml"
    assert Path(source.recipe).is_file()


def test_a_demo_that_runs_is_watched_and_one_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    client = make_client(tmp_path)
    with pytest.raises(KeyboardInterrupt), record_run("quickstart", Store(tmp_path), RunSource()):
        assert "Watch it" in client.get("/ui/start").text
        assert client.post("/ui/start/demo").json() == {"go": "/ui/runs/view/quickstart"}
        raise KeyboardInterrupt
    assert "Go on with the demo" in client.get("/ui/start").text


def test_the_demos_model_is_loaded_by_one_click_under_its_name(
    tmp_path: Path, loader: ModelLoader, tiny_model: Path
) -> None:
    commit_demo_model(tmp_path, tiny_model)
    client = make_client(tmp_path, loader=loader)
    assert "Load the model and chat" in client.get("/ui/start").text
    for _ in range(2):
        assert client.post("/ui/start/demo").json() == {"go": "/ui/chat?model=quickstart"}
    wait_until(lambda: loader.states[0].state == "ready")
    assert "Chat with it" in client.get("/ui/start").text
    assert len(loader.loaded) == 1
    assert client.get("/ui/chat/models").json()["found"] == []
    assert client.get("/ui/").headers["location"] == "/ui/chat"


def test_a_model_of_the_folder_is_loaded_and_nothing_outside_of_it(
    tmp_path: Path, loader: ModelLoader, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "folder" / "tiny model")
    shutil.copytree(tiny_model, tmp_path / "outside")
    without = make_client(tmp_path / "folder", with_start_token=False, loader=loader)
    assert without.post("/ui/start/model", json={"path": "tiny model"}).status_code == 403
    client = make_client(tmp_path / "folder", loader=loader)
    for path in ("../outside", str(tmp_path / "outside"), "nothing", "", "\0"):
        answer = client.post("/ui/start/model", json={"path": path})
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (400, True)
    assert client.post("/ui/start/model", json={"path": "tiny model"}).json() == {"go": "/ui/chat?model=tiny%20model"}


def test_a_server_that_loads_nothing_says_so(tmp_path: Path, tiny_model: Path) -> None:
    commit_demo_model(tmp_path, tiny_model)
    answer = make_client(tmp_path).post("/ui/start/demo")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "this server loads no further models")


def test_the_demos_model_gets_another_name_if_its_own_is_taken(
    tmp_path: Path, loader: ModelLoader, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "quickstart")
    commit_demo_model(tmp_path, tiny_model)
    client = make_client(tmp_path, loader=loader)
    client.post("/ui/start/model", json={"path": "quickstart"})
    assert client.post("/ui/start/demo").json() == {"go": "/ui/chat?model=quickstart%3Amerged"}


@pytest.mark.parametrize("what", ["file", "link", "broken record"])
def test_what_is_no_run_of_the_demo_is_not_taken_for_one(tmp_path: Path, what: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    if what == "file":
        (runs / "quickstart").touch()
    elif what == "link":
        (runs / "quickstart").symlink_to(tmp_path)
    else:
        (runs / "quickstart").mkdir()
        (runs / "quickstart" / "run.json").write_text("{", encoding="utf-8")
    page = make_client(tmp_path).get("/ui/start")
    assert page.status_code == 200
    assert ("Go on" if what == "broken record" else "Run the demo") in page.text
