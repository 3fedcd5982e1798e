"""`hanlin catalog check` against a local server that answers as the hubs do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.main import get_command

from hanlin.catalog.check import Link, check_links, links_of
from hanlin.catalog.entries import datasets, get_model
from hanlin.cli.main import app
from hanlin.core.errors import UserError

ANSWERS = {
    "/api/models/meta-llama/Llama-3.1-8B": 200,
    "/api/models/meta-llama/Llama-3.1-8B/revision/d04e592bb4f6aa9cfee91e2e20afa771667e1d4b": 200,
    "/api/v1/models/LLM-Research/Meta-Llama-3.1-8B": 200,
    "/gated": 403,
    "/hidden": 401,
    "/gone": 404,
    "/moved": 307,
    "/busy": 429,
    "/page": 200,
    "/page?id=3": 200,
}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked.append(self.path)
        status = ANSWERS.get(self.path, 404)
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "/page")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


asked: list[str] = []


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_answer_of_a_hub_has_its_state(hub: str) -> None:
    paths = ("/page", "/gated", "/hidden", "/gone", "/moved", "/busy")
    results = check_links([Link("x", "homepage", path, hub + path) for path in paths])
    assert [result.state for result in results] == ["ok", "gated", "missing", "missing", "moved", "unreachable"]


def test_an_address_with_a_query_or_a_mark_within_the_page_is_asked_for_too(hub: str) -> None:
    asked.clear()
    results = check_links(
        [Link("x", "homepage", "", hub + path) for path in ("/page?id=3", "/page#files", "/page?id=4")]
    )
    assert [result.state for result in results] == ["ok", "ok", "missing"]
    assert sorted(asked) == ["/page", "/page?id=3", "/page?id=4"]


def test_a_page_of_a_hub_without_an_interface_proves_nothing(hub: str) -> None:
    (result,) = check_links([Link("x", "wisemodel", "a/b", f"{hub}/page")])
    assert result.state == "page" and result.note


def test_an_address_that_several_entries_share_is_asked_for_once(hub: str) -> None:
    asked.clear()
    check_links([Link(name, "homepage", "", f"{hub}/page") for name in "abc"])
    assert asked == ["/page"]


def test_an_entry_has_a_link_for_each_name_pin_and_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://mirror.example/")
    links = {link.field: link.url for link in links_of(get_model("atom-7b-chat"))}
    assert links["hf"] == "https://huggingface.co/api/models/FlagAlpha/Atom-7B-Chat"
    assert links["revision"] == links["hf"] + "/revision/46b1a6ea7e453ed176395285b9205a3b0a4e77a7"
    assert links["ms"] == "https://mirror.example/api/v1/models/FlagAlpha/Atom-7B-Chat"
    forms = {link.field: link.url for link in links_of(get_model("llama-3-chinese-8b"))}
    name = "ChineseAlpacaGroup/llama-3-chinese-8b-lora"
    assert forms["variants.ms-lora"] == f"https://mirror.example/api/v1/models/{name}"
    assert forms["variants.wisemodel-lora"] == f"https://wisemodel.cn/models/{name}"
    ruozhiba = next(entry for entry in datasets() if entry.id == "ruozhiba")
    assert links_of(ruozhiba)[0].url == "https://huggingface.co/api/datasets/LooksJuicy/ruozhiba"


def test_without_a_network_one_sentence_says_so() -> None:
    with pytest.raises(UserError, match="none of 2 addresses could be reached"):
        check_links([Link("x", "hf", "a/b", f"http://127.0.0.1:9/{name}") for name in "ab"])


def run_check(*words: str) -> int:
    """The exit code of the command, run in this process."""
    return int(get_command(app)(["catalog", "check", *words], standalone_mode=False) or 0)


def test_the_command_is_green_for_names_that_are_there_and_red_for_others(
    hub: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, hub)
    assert run_check("Meta-Llama-3.1-8B", "base", "continued", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == 0 and {row["state"] for row in report["links"]} == {"ok"}
    assert run_check("yi-1.5-6b-chat") == 1
    assert "HTTP 404" in capsys.readouterr().out
    with pytest.raises(UserError, match="no-such-model"):
        run_check("no-such-model")


def test_a_mirror_may_be_named_without_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    (link, *_) = links_of(get_model("llama-3.1-8b"))
    assert link.url.startswith("https://mirror.example/api/models/")
