"""Why the bytes do not come through the hubs' own libraries: what those do with a broken connection and wrong bytes.

Should one of these tests fail with a later release, that library has learned it, and ours can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import COMMIT, HubServer, Repository, hub_server

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with hub_server() as served:
        served.repositories["owner/model"] = Repository({"model.safetensors": WEIGHTS}, branch="main")
        yield served


def test_the_library_of_hugging_face_keeps_bytes_with_another_hash(server: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    server.damaged = {"model.safetensors"}
    path = hf_hub_download("owner/model", "model.safetensors", cache_dir=tmp_path, endpoint=server.url, token=False)
    assert Path(path).stat().st_size == len(WEIGHTS) and Path(path).read_bytes() != WEIGHTS


def test_the_library_of_hugging_face_begins_anew_in_the_next_process(server: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    server.cut_after = [4000] * 6
    with pytest.raises(Exception, match="peer closed connection"):
        hf_hub_download("owner/model", "model.safetensors", cache_dir=tmp_path, endpoint=server.url, token=False)
    assert list(tmp_path.rglob("*.incomplete")) == []


def test_the_library_of_modelscope_writes_into_the_folder_of_an_older_release_whatever_the_revision(
    server: HubServer, tmp_path: Path
) -> None:
    api = pytest.importorskip("modelscope_hub.api").HubApi(token="", endpoint=server.url)
    older = tmp_path / "models" / "owner" / "model"
    older.mkdir(parents=True)
    (older / "model.safetensors").write_bytes(b"of another revision")
    api.download_repo("owner/model", "model", revision=COMMIT, cache_dir=tmp_path)
    assert (older / "model.safetensors").read_bytes() == WEIGHTS
