"""What goes to a hub is whole, holds no secrets and appears at once; a server of ours stands in for the real one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import requests

from hanlin.config.references import parse_hub_name
from hanlin.core.errors import UserError
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.hubs.upload import UploadFile, _keep_cookies_home, list_upload_files, upload
from hanlin.pipeline.manifest import Manifest
from hostile_server import HEAD, Answer, forever, host, whole


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A sealed artifact."""
    store = Store(tmp_path)
    partial = store.partial_folder("package", "0123")
    partial.mkdir(parents=True)
    (partial / "README.md").write_text("# 小翰\n", encoding="utf-8")
    (partial / "model-Q8_0.gguf").write_bytes(b"GGUF" + bytes(1000))
    empty: dict[str, Any] = {"settings": {}, "inputs": (), "files": (), "metrics": {}, "made_by": {}}
    words: dict[str, Any] = {"digest": "", "started": "", "finished": "", "seconds": 0.0, "seed": 1, "version": 1}
    store.commit(partial, Manifest(kind="package", type="package", key="0123", **empty, **words))
    return store.folder("package", "0123")


def test_every_file_is_listed_with_its_size_and_hash_but_the_manifest(package: Path) -> None:
    items = list_upload_files(package)
    text = (package / "README.md").read_bytes()
    assert items[0] == UploadFile("README.md", len(text), hashlib.sha256(text).hexdigest())
    assert [item.path for item in items] == ["README.md", "model-Q8_0.gguf"]


def test_what_is_not_whole_is_refused(package: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(package, changed)
    (changed / "README.md").write_text("other", encoding="utf-8")
    with pytest.raises(UserError, match="has been changed"):
        list_upload_files(changed)
    (changed / "README.md").unlink()
    with pytest.raises(UserError, match="is missing"):
        list_upload_files(changed)
    for name in ("half.partial", "working/.work"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("x", encoding="utf-8")
        with pytest.raises(UserError, match="not complete"):
            list_upload_files(tmp_path / name.split("/")[0])
    empty = tmp_path / "other"
    empty.mkdir()
    (empty / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="neither a model nor a package"):
        list_upload_files(empty)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "not JSON"),
        ('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}', "1 of 1 weight files are missing"),
    ],
)
def test_a_model_without_a_manifest_is_held_to_its_index(index: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        list_upload_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "A=1"),
        ("keys/server.pem", "not to be told"),
        ("notes.txt", "my token is hf_" + "a" * 34),
        ("config.json", '{"key": "-----BEGIN RSA PRIVATE KEY-----"}'),
    ],
)
def test_secrets_do_not_go_up(name: str, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("x", encoding="utf-8")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="secret") as caught:
        list_upload_files(folder)
    assert text not in str(caught.value)


def test_a_repository_is_named_by_hub_and_owner() -> None:
    assert parse_hub_name("hf:a/b-1").name == "a/b-1"
    for text in ("a/b", "hf:b", "hf:a/b/c", "s3:a/b", "hf:../b c"):
        with pytest.raises(UserError, match="names no repository"):
            parse_hub_name(text)


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's API as a commit of small files needs; a commit is all or nothing."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    refuses: ClassVar[bool] = False

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        rows = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        if "/tree/" in self.path:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.files.items()
            ]
            self._answer(entries)
        else:
            self._answer({"id": "o/m", "sha": "0" * 40, "siblings": rows, "private": True})

    def do_POST(self) -> None:
        type(self).asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self._answer({"url": f"http://{self.headers['Host']}/o/m", "name": "o/m", "id": "o/m"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        elif "/commit/" in self.path and self.refuses:
            self._answer({"error": "not-a-token is no token"}, 403)
        elif "/commit/" not in self.path:
            self._answer({})
        else:
            found = dict(self.files)
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    found[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del found[line["value"]["path"]]
            type(self).files = found
            place = f"http://{self.headers['Host']}/o/m/commit/{'1' * 40}"
            self._answer({"commitUrl": place, "commitOid": "1" * 40, "success": True})

    def _answer(self, row: Any, status: int = 200) -> None:
        data = json.dumps(row).encode()
        self.send_response(status)
        if status == 403:
            self.send_header("X-Error-Message", row["error"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    import huggingface_hub.constants as constants
    import huggingface_hub.hf_api as hf_api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(hf_api, "ENDPOINT", place, raising=False)
    monkeypatch.setenv("HF_TOKEN", "not-a-token")
    Hub.files, Hub.asked, Hub.refuses = {"old-F16.gguf": b"GGUF", ".gitattributes": b"x"}, [], False
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_one_commit_shows_all_files_and_drops_weights_of_another_model(package: Path, hub: type[Hub]) -> None:
    place = upload(package, list_upload_files(package), parse_hub_name("hf:o/m"), private=True, log=lambda text: None)
    assert place.endswith("/o/m")
    assert hub.files.keys() == {"README.md", "model-Q8_0.gguf", ".gitattributes"}
    assert hub.files["model-Q8_0.gguf"] == (package / "model-Q8_0.gguf").read_bytes()
    assert sum("/commit/" in path for path in hub.asked) == 1


class ModelScope:
    """As much of ModelScope's library as an upload calls, over files in memory."""

    files: ClassVar[dict[str, bytes]] = {}
    commits: ClassVar[list[str]] = []

    def repo_exists(self, name: str, kind: str) -> bool:
        return True

    def list_repo_files(self, name: str, kind: str) -> list[Any]:
        return [SimpleNamespace(path=path, size=len(data)) for path, data in self.files.items()]

    def upload_folder(self, name: str, kind: str, folder: Path, *, ignore_patterns: list[str], **_: Any) -> None:
        for file in folder.iterdir():
            if file.name not in ignore_patterns:
                self.files[file.name] = file.read_bytes()
        self.commits.append("folder")

    def upload_file(self, name: str, kind: str, file: Path, *, path_in_repo: str, **_: Any) -> None:
        self.files[path_in_repo] = file.read_bytes()
        self.commits.append(path_in_repo)

    def delete_files(self, name: str, kind: str, paths: list[str], **_: Any) -> dict[str, Any]:
        for path in paths:
            del self.files[path]
        self.commits.append("delete")
        return {"deleted_files": paths, "failed_files": []}


def test_an_upload_to_modelscope_drops_weights_of_another_model_too(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loads a model takes `model.safetensors` before an index of shards: the old one would be loaded."""
    monkeypatch.setattr(pytest.importorskip("modelscope_hub.api"), "HubApi", ModelScope)
    ModelScope.files, ModelScope.commits = {"model.safetensors": b"old", "notes.md": b"x"}, []
    upload(package, list_upload_files(package), parse_hub_name("ms:o/m"), private=True, log=lambda text: None)
    assert ModelScope.files.keys() == {"README.md", "model-Q8_0.gguf", "notes.md"}
    assert ModelScope.commits == ["folder", "model-Q8_0.gguf", "delete"]


def test_a_hub_that_does_not_answer_is_said_in_one_sentence(package: Path, hub: type[Hub], monkeypatch: Any) -> None:
    import huggingface_hub.constants as constants

    for module in ("constants", "hf_api"):
        monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", "http://127.0.0.1:9", raising=False)
    assert constants.ENDPOINT.endswith(":9")
    with pytest.raises(UserError, match=r"the hub refused: .*refused"):
        upload(package, list_upload_files(package), parse_hub_name("hf:o/m"), private=True, log=lambda text: None)


def test_a_hub_that_refuses_has_not_been_changed(package: Path, hub: type[Hub]) -> None:
    hub.refuses = True
    before = dict(hub.files)
    with pytest.raises(UserError, match=r"the hub refused: .*\*\*\* is no token"):
        upload(package, list_upload_files(package), parse_hub_name("hf:o/m"), private=True, log=lambda text: None)
    assert hub.files == before


DOWNLOAD = """
from hanlin.core.http import client as http
from hanlin.core.errors import UserError
from hanlin.pipeline.hubs import inputs, session
http._HUB_SECONDS_TO_BEGIN = http._HUB_SECONDS_OF_SILENCE = http._HUB_SECONDS_OF_JSON = 0.3
http._HUB_MAX_JSON = 1 << 20
session.FIRST_PAUSE = 0.0
try:
    inputs.download({"key": "hf:a/b@" + "0" * 40, "field": "model"})
except UserError as error:
    print(str(error))
"""


def download(url: str, folder: Path, **environment: str) -> str:
    """What a download from a hub says; in a process of its own, with its own limits on time."""
    variables = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_not_a_token", "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0"}
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD],
        env={**os.environ, **variables, "HANLIN_LANG": "en", "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "hf_not_a_token" not in done.stdout + done.stderr
    return done.stdout


def test_a_token_of_a_hub_follows_no_redirect_to_another_and_meets_no_proxy_on_this_machine(tmp_path: Path) -> None:
    with host(whole(b"{}")) as other, host(whole(b"{}")) as proxy:
        with host(whole(b"", f"Location: {other.url}/x", status="302 Found")) as first:
            download(first.url, tmp_path, http_proxy=proxy.url, HTTP_PROXY=proxy.url)
        assert any(b"hf_not_a_token" in request for request in first.received)
        assert not any(b"hf_not_a_token" in request for request in other.received)
        assert proxy.received == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_token_of_modelscope_follows_no_redirect_to_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library gives the token to `requests` as a cookie of each request, which went along to every host."""
    monkeypatch.setattr(requests.Session, "rebuild_auth", requests.Session.rebuild_auth)  # to be set back
    for _ in range(2):
        _keep_cookies_home()
    with host(whole(b"{}")) as other:
        location = f"Location: {other.url.replace('127.0.0.1', name)}/x"
        with host(whole(b"", location, status="307 Temporary Redirect")) as first:
            headers, cookies = {"Authorization": "Bearer ms-s3cret"}, {"m_session_id": "ms-s3cret"}
            answer = requests.post(first.url, json={}, timeout=300, headers=headers, cookies=cookies)
    assert answer.text == "{}"
    assert any(b"ms-s3cret" in request for request in first.received)
    assert other.received and not any(b"ms-s3cret" in request for request in other.received)


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        whole(b"<html>"),
        whole(b"[" * 100_000, "Content-Type: application/json"),
        whole(gzip.compress(bytes(1 << 20)), "Content-Encoding: gzip"),
        forever(b"x", 0.05, HEAD),
        forever(b"x" * 65536, head=HEAD + b"\r\n"),
        HEAD + b"X: " + b"x" * 2_000_000 + b"\r\n\r\n",
    ],
    ids=str.split("html deep_json gzip_bomb slow_headers body_without_end huge_header"),
)
def test_a_hub_that_means_harm_is_one_sentence(answer: Answer | bytes, tmp_path: Path) -> None:
    with host(answer) as server:
        told = download(server.url, tmp_path)
    assert told.count("\n") == 1 and "cannot be reached or broke off" in told
