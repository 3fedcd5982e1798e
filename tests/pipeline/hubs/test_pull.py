"""A repository of either hub is fetched whole, pinned and verified, whatever the connection and the server do."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.references import parse_hub_name
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.pipeline.hubs import modelscope, session
from hanlin.pipeline.hubs.inputs import download
from hanlin.pipeline.hubs.pull import HUBS, Pulled, PullRequest, pull
from hub_server import COMMIT, HubServer, Refusal, Repository, hub_server
from waiting import count_bytes, wait_until

TOKEN = "hf_" + "s3cret" * 6
WEIGHTS = bytes(range(256)) * 40
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b'{"version": "1.0"}' + b" " * 2000,
    "README.md": "# 模型\n".encode(),
    "empty.txt": b"",
    "pytorch_model.bin": b"pickle" * 400,
    "original/consolidated.00.pth": b"pickle" * 500,
    "onnx/model.onnx": b"onnx" * 400,
    ".gitattributes": b"*.bin filter=lfs",
}
NEEDED = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "empty.txt"}
DATA = {"data/train.jsonl": b'{"text": "a"}\n', "data/test.jsonl": b"{}\n", "load.py": b"import os", "README.md": b"x"}


@pytest.fixture(params=["hf", "ms"])
def hub(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server of both hubs with a model and a data set, which is what the environment names; the caches are empty."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    monkeypatch.setattr(session, "FIRST_PAUSE", 0.001)
    with hub_server() as served:
        branch = "main" if hub == "hf" else "master"
        served.repositories["owner/model"] = Repository(dict(MODEL), "model", branch)
        served.repositories["owner/data"] = Repository(dict(DATA), "dataset", branch)
        served.token = TOKEN
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
        yield served


class Log(list[str]):
    """The sentences of a command."""

    def __call__(self, sentence: str) -> None:
        self.append(sentence)


def fetch(name: str, log: Log | None = None, **options: Any) -> Pulled:
    dry_run = options.pop("dry_run", False)
    request = PullRequest(parse_hub_name(name), **options)
    return pull(request, Log() if log is None else log, Progress(quiet=True), dry_run=dry_run)


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(name: str, **options: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        fetch(name, **options)
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


def test_a_model_is_fetched_at_the_commit_of_its_branch_without_what_is_not_needed(server: HubServer, hub: str) -> None:
    pulled = fetch(f"{hub}:owner/model")
    assert str(pulled.name) == f"{hub}:owner/model@{COMMIT}" and pulled.kind == "model"
    assert files_in(pulled.folder) == {name: MODEL[name] for name in NEEDED}
    assert pulled.bytes == pulled.fetched_bytes == sum(len(MODEL[name]) for name in NEEDED)
    assert {file.path for file, _ in pulled.selection.left_out} == MODEL.keys() - NEEDED


def test_a_data_set_is_found_without_being_called_one_and_brings_no_code(server: HubServer, hub: str) -> None:
    pulled = fetch(f"{hub}:owner/data")
    assert pulled.kind == "dataset" and files_in(pulled.folder).keys() == DATA.keys() - {"load.py"}


def test_everything_or_files_by_name_come_when_asked_for(server: HubServer, hub: str) -> None:
    assert files_in(fetch(f"{hub}:owner/model", patterns=("original/*",)).folder) == {
        "original/consolidated.00.pth": MODEL["original/consolidated.00.pth"]
    }
    assert files_in(fetch(f"{hub}:owner/model", everything=True).folder) == MODEL
    assert "it holds config.json" in str(refused(f"{hub}:owner/model", patterns=("*.gguf",)))


def test_a_dry_run_lists_and_fetches_nothing(server: HubServer, hub: str) -> None:
    pulled = fetch(f"{hub}:owner/model", dry_run=True)
    assert {file.path for file in pulled.selection.files} == NEEDED
    assert not pulled.folder.exists() and server.file_requests() == []


def test_what_broke_off_goes_on_with_the_next_byte(server: HubServer, hub: str) -> None:
    server.cut_after = [3000, 2000, 1]
    pulled = fetch(f"{hub}:owner/model", patterns=("model.safetensors",))
    assert (pulled.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [one.range for one in server.file_requests()] == ["", "bytes=3000-", "bytes=5000-", "bytes=5001-"]


def test_a_pull_that_ended_is_taken_up_by_the_next_command(
    server: HubServer, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TRIES", 1)
    server.cut_after = [4000]
    assert "what was fetched is kept" in str(refused(f"{hub}:owner/model", patterns=("model.safetensors",)))
    pulled = fetch(f"{hub}:owner/model", patterns=("model.safetensors",))
    assert server.file_requests()[-1].range == "bytes=4000-" and pulled.fetched_bytes == len(WEIGHTS) - 4000
    assert files_in(pulled.folder) == {"model.safetensors": WEIGHTS}


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
def test_a_pull_that_was_killed_is_taken_up_by_the_next_command(server: HubServer, hub: str) -> None:
    large = os.urandom(1 << 20)
    server.repositories["owner/model"].files = {"model.safetensors": large}
    server.stall_after = 700_000
    command = [sys.executable, "-m", "hanlin", "pull", f"{hub}:owner/model"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    cache = Path(os.environ["HF_HUB_CACHE" if hub == "hf" else "MODELSCOPE_CACHE"])
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: count_bytes(cache, "*.incomplete") > 600_000)
        process.kill()
    kept = count_bytes(cache, "*.incomplete")
    assert files_in(fetch(f"{hub}:owner/model").folder) == {"model.safetensors": large}
    assert server.file_requests()[-1].range == f"bytes={kept}-"


def test_a_server_that_knows_no_ranges_sends_all_again(server: HubServer, hub: str) -> None:
    server.cut_after, server.ignore_ranges = [3000], True
    pulled = fetch(f"{hub}:owner/model", patterns=("model.safetensors",))
    assert files_in(pulled.folder) == {"model.safetensors": WEIGHTS}


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_bytes_with_another_hash_are_asked_for_twice_and_never_kept(server: HubServer, hub: str, file: str) -> None:
    server.damaged = {file}
    assert f"{file} does not have the hash" in str(refused(f"{hub}:owner/model", patterns=(file,)))
    assert len(server.file_requests()) == 2
    cache = Path(os.environ["HF_HUB_CACHE" if hub == "hf" else "MODELSCOPE_CACHE"])
    assert [path for path in cache.rglob("*") if path.is_file() and ".hanlin" not in path.parts] == []
    server.damaged = set()
    assert files_in(fetch(f"{hub}:owner/model", patterns=(file,)).folder) == {file: MODEL[file]}


def test_half_a_file_of_other_bytes_is_not_taken_for_a_beginning(server: HubServer, hub: str) -> None:
    first = fetch(f"{hub}:owner/model", patterns=("config.json",))
    (large,) = (file for file, _ in first.selection.left_out if file.path == "model.safetensors")
    module = HUBS[hub]
    folder = first.folder.parent.parent
    partial = module.partial_path(folder, COMMIT, large)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"other bytes")
    log = Log()
    pulled = fetch(f"{hub}:owner/model", log, patterns=("model.safetensors",))
    assert (pulled.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert log == ["model.safetensors came with another hash than the hub lists; once more"]


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(server: HubServer, hub: str) -> None:
    fetch(f"{hub}:owner/model")
    assert server.file_requests() and all(TOKEN not in one.secrets for one in server.file_requests())
    assert all(TOKEN in one.secrets for one in server.seen if one.host == "hub")


def test_the_token_is_in_no_file_log_or_error(
    server: HubServer, hub: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.cut_after = [100]
    log = Log()
    fetch(f"{hub}:owner/model", log)
    said = {"error": f"token {TOKEN} is not welcome", "Message": f"token {TOKEN} is not welcome"}
    server.refuse("data", Refusal(500, body=said))
    session_tries, session.TRIES = session.TRIES, 1
    try:
        assert "***" in str(refused(f"{hub}:owner/data", kind="dataset"))
    finally:
        session.TRIES = session_tries
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(TOKEN.encode() in data for data in written)
    assert TOKEN not in "".join([*log, *capfd.readouterr(), caplog.text])


def test_an_address_that_only_a_recipe_names_gets_no_token(
    server: HubServer, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name)
    download({"field": "model", "key": f"{hub}:owner/model@{COMMIT}"}, endpoints={hub: server.url})
    assert server.seen and all(TOKEN not in one.secrets for one in server.seen)


def test_a_source_is_fetched_as_data_and_a_model_as_a_model(server: HubServer, hub: str) -> None:
    data, _ = download({"field": "sources.0.path", "key": f"{hub}:owner/data@{COMMIT}"})
    model, commit = download({"field": "model", "key": f"{hub}:owner/model@{COMMIT}"})
    assert (data / "data" / "train.jsonl").is_file() and (model / "config.json").is_file()
    assert commit == COMMIT


def test_who_is_told_to_wait_waits_as_long(server: HubServer, hub: str) -> None:
    server.refuse("config.json", Refusal(429, {"Retry-After": "0"}), Refusal(503), Refusal(429, {"Retry-After": "0"}))
    assert files_in(fetch(f"{hub}:owner/model", patterns=("config.json",)).folder).keys() == {"config.json"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=9;t=55'}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "²"}, None),
        ({}, None),
    ],
)
def test_a_wait_is_read_as_seconds_a_date_or_a_rate_limit(headers: dict[str, str], seconds: float | None) -> None:
    assert session._wait_of(headers) == seconds


def test_a_wait_too_long_to_sit_through_is_told(server: HubServer, hub: str) -> None:
    server.refuse("model", *[Refusal(429, {"Retry-After": "86400"})] * 2)
    assert "too many requests; it asks to wait 86400 s" in str(refused(f"{hub}:owner/model", kind="model"))


def test_a_gated_model_names_the_page_to_visit(server: HubServer, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.gated, server.token = True, "another"
    error = refused(f"{hub}:owner/model")
    page = "https://huggingface.co/owner/model" if hub == "hf" else "https://modelscope.cn/models/owner/model"
    assert "only those who accepted the terms" in error.what
    assert f"accept them on {page} with the account of your token" in str(error.hint)
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, "")
    assert f"accept them on {page}, then set" in str(refused(f"{hub}:owner/model").hint)
    assert "/datasets/owner/data" in str(refused(f"{hub}:owner/data").hint)


def test_a_name_that_the_hub_does_not_know_may_be_private(server: HubServer, hub: str) -> None:
    assert "no such model or data set, or it is private" in str(refused(f"{hub}:owner/other"))
    assert "no such model or data set" in str(refused(f"{hub}:owner/data", kind="model"))


def test_a_revision_that_is_not_there_is_refused(server: HubServer, hub: str) -> None:
    for kind in ("model", ""):  # asked for as a data set too, if it is not said which it is
        assert "it has no revision other" in str(refused(f"{hub}:owner/model@other", kind=kind))


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_without_a_reason_is_one_sentence(server: HubServer, status: int) -> None:
    server.refuse("model", Refusal(status))
    assert f"refuses access (HTTP {status})" in str(refused("hf:owner/model", kind="model"))


def test_a_refusal_has_a_code_that_programs_tell_apart(server: HubServer, hub: str) -> None:
    assert refused(f"{hub}:owner/other").code == "not_found"
    assert refused(f"{hub}:owner/model@other", kind="model").code == "not_found"
    assert refused(f"{hub}:owner/model", patterns=("*.gguf",)).code == "not_found"
    assert refused(f"{hub}:owner/model", endpoint="http://127.0.0.1:9").code == "unreachable"
    server.refuse("model", *[Refusal(429, {"Retry-After": "86400"})] * 2)
    assert refused(f"{hub}:owner/model", kind="model").code == "rate_limited"
    server.refuse("model", Refusal(401))
    assert refused(f"{hub}:owner/model", kind="model").code == "gated"
    server.gated, server.token = True, "another"
    assert refused(f"{hub}:owner/model").code == "gated"


def test_a_hub_that_cannot_be_reached_names_what_to_set(hub: str, server: HubServer) -> None:
    error = refused(f"{hub}:owner/model", endpoint="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in error.what
    assert ("HF_ENDPOINT" if hub == "hf" else "MODELSCOPE_ENDPOINT") in str(error.hint)


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
def test_longer_pauses_are_told(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_LONGEST_SILENT_PAUSE", 0.002)
    server.refuse("model", *[Refusal(503)] * 3)
    log = Log()
    fetch("hf:owner/model", log, kind="model", dry_run=True)
    assert log == ["HTTP 503: once more in 0.002 s", "HTTP 503: once more in 0.004 s"]


def test_what_was_fetched_is_there_without_a_network(
    server: HubServer, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(f"{hub}:owner/model")
    server.seen.clear()
    assert fetch(f"{hub}:owner/model@{COMMIT}").fetched_bytes == 0 and server.seen == []
    log = Log()
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(f"{hub}:owner/model", log).name.revision == COMMIT and "cannot be reached" in log[0]
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, server.url)
    server.refuse("model", *[Refusal(503)] * session.TRIES * 2)
    assert fetch(f"{hub}:owner/model").name.revision == COMMIT
    server.seen.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(f"{hub}:owner/model", log).name.revision == COMMIT and "offline" in log[1]
    assert "was not fetched before" in str(refused(f"{hub}:owner/model", everything=True))
    assert server.seen == []


def test_a_file_that_was_changed_in_the_cache_is_fetched_again(server: HubServer, hub: str) -> None:
    folder = fetch(f"{hub}:owner/model").folder
    (folder / "model.safetensors").write_bytes(b"x" * len(WEIGHTS))
    log = Log()
    assert fetch(f"{hub}:owner/model", log).fetched_bytes == len(WEIGHTS)
    assert files_in(folder)["model.safetensors"] == WEIGHTS and "is not what the hub lists" in log[0]


def test_two_commands_at_once_fetch_every_file_once(server: HubServer, hub: str) -> None:
    results: list[Pulled] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(f"{hub}:owner/model"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {pulled.folder for pulled in results} == {results[0].folder} and len(results) == 3
    assert len(server.file_requests()) == len(NEEDED) - 1  # the empty file is not asked for


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "con.txt", ".git/config", "a//b"])
def test_a_listed_name_that_leads_elsewhere_is_refused(server: HubServer, hub: str, path: str) -> None:
    server.repositories["owner/model"].files[path] = b"x"
    assert "whose name is no path" in str(refused(f"{hub}:owner/model"))


@pytest.mark.parametrize("hub", ["ms"], indirect=True)
def test_an_error_that_modelscope_sends_as_an_answer_is_told(server: HubServer) -> None:
    server.refuse("commits", Refusal(200, body={"Code": 10010101, "Message": f"no {TOKEN}", "Success": False}))
    assert "HTTP 400 no ***" in str(refused("ms:owner/model", kind="model"))


@pytest.mark.parametrize("hub", ["ms"], indirect=True)
def test_a_listing_that_modelscope_cuts_off_is_walked_folder_by_folder(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"part{number % 7}/deep{number % 3}/{number}.txt": b"%d" % number for number in range(3100)}
    server.repositories["owner/model"] = Repository(files, "model", "master")
    assert len(fetch("ms:owner/model", dry_run=True).selection.files) == 3100


def test_a_mirror_that_gives_the_first_page_for_every_one_is_told() -> None:
    page = [{"Type": "blob", "Path": f"{number}.txt", "Size": 1} for number in range(200)]
    asked: list[int] = []

    class Session:
        def fetch_json(self, path: str, **query: Any) -> tuple[Any, str]:
            asked.append(query["PageNumber"])
            return {"Success": True, "Data": {"Files": page}}, ""

    with pytest.raises(session.HubBreakError, match="no list of files"):
        modelscope.list_files(Session(), "o/d", "dataset", "1" * 40)  # type: ignore[arg-type]
    assert asked == [1, 2]


def test_a_repository_of_many_gguf_files_asks_which(server: HubServer, hub: str) -> None:
    names = ["m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    server.repositories["owner/model"].files = dict.fromkeys(names, b"GGUF" * 400)
    error = refused(f"{hub}:owner/model")
    assert "2 GGUF models: m-Q4_K_M.gguf, m-Q8_0.gguf" in error.what and "--files" in str(error.hint)
    assert files_in(fetch(f"{hub}:owner/model", patterns=("*Q8_0*",)).folder).keys() == set(names[1:])


def test_a_model_of_pickles_alone_is_fetched(server: HubServer, hub: str) -> None:
    server.repositories["owner/model"].files = {"config.json": b"{}", "pytorch_model.bin": b"x" * 2000}
    assert files_in(fetch(f"{hub}:owner/model").folder).keys() == {"config.json", "pytorch_model.bin"}


def test_the_library_of_the_hub_finds_what_was_fetched(server: HubServer, hub: str, tmp_path: Path) -> None:
    pulled = fetch(f"{hub}:owner/model")
    if hub == "hf":
        from huggingface_hub import snapshot_download

        found = snapshot_download("owner/model", cache_dir=tmp_path / "hf", local_files_only=True)
    else:
        api = pytest.importorskip("modelscope_hub.api").HubApi()
        found = api.download_repo(
            "owner/model", "model", revision=COMMIT, cache_dir=tmp_path / "ms", local_files_only=True
        )
    assert Path(found) == pulled.folder


def test_the_record_holds_hashes_and_states_alone(server: HubServer, hub: str) -> None:
    folder = fetch(f"{hub}:owner/model").folder.parent.parent
    row = json.loads((folder / ".hanlin" / f"{COMMIT}.json").read_text(encoding="utf-8"))
    assert row.keys() == {"files", "verified"} and row["verified"].keys() == NEEDED
