"""From where the server is reached: pages of other origins, names of the machine, a base path, a Unix socket, keys."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import httpx2
import pytest
from starlette.testclient import TestClient

from hanlin.core.errors import UserError
from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.auth import AccessPolicy, make_access_policy, parse_host, parse_origin
from hanlin.serve.middleware import parse_base_path
from hanlin.serve.registry import ServedModel
from hanlin.serve.server import bind_unix_socket
from live_server import run_server

PAGE = "http://localhost:3000"
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 2}


def make_policy(
    hosts: tuple[str, ...] = (), origins: tuple[str, ...] = (), keys: tuple[str, ...] = (), address: str = "127.0.0.1"
) -> AccessPolicy:
    return make_access_policy(address, keys, allowed_hosts=hosts, allowed_origins=origins)


def make_client(opened: LoadedEngine, policy: AccessPolicy, base_path: str = "") -> TestClient:
    app = create_app([ServedModel("tiny", opened, Limits())], policy, base_path=base_path)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def preflight(client: TestClient, origin: str = PAGE, path: str = CHAT, **headers: str) -> httpx2.Response:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return client.options(path, headers={"origin": origin, **asked, **headers})


# --------------------------------------------------------------------------------------------------------- origins


@pytest.fixture()
def page_client(untaught: LoadedEngine) -> Iterator[TestClient]:
    yield make_client(untaught, make_policy(origins=(PAGE, "chrome-extension://*")))


PROTOCOL_HEADERS = {
    CHAT: "authorization,content-type,openai-organization,x-stainless-lang,x-stainless-retry-count",
    "/v1/responses": "authorization,content-type,openai-beta,x-stainless-arch",
    "/v1/messages": "anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key",
    "/v1/messages/count_tokens": "anthropic-version,content-type,x-api-key",
    "/api/chat": "content-type,x-requested-with",
    "/generate": "content-type",
}


@pytest.mark.parametrize("path", PROTOCOL_HEADERS)
def test_a_preflight_grants_the_headers_of_each_protocols_clients(page_client: TestClient, path: str) -> None:
    answer = preflight(page_client, path=path, **{"access-control-request-headers": PROTOCOL_HEADERS[path]})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == PROTOCOL_HEADERS[path]
    assert "access-control-allow-private-network" not in answer.headers  # it was not asked for


@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/v1/models", "/generate"])
@pytest.mark.parametrize("origin", [PAGE, "chrome-extension://abcdef"])
def test_a_preflight_of_a_named_origin_is_granted(page_client: TestClient, path: str, origin: str) -> None:
    answer = preflight(page_client, origin, path, **{"access-control-request-private-network": "true"})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in answer.headers and "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:3001", "https://localhost:3000", "null", PAGE + ".evil.example"]
)
def test_a_page_of_another_origin_can_neither_ask_nor_read(page_client: TestClient, origin: str) -> None:
    refused = preflight(page_client, origin)
    assert refused.status_code == 403 and "--allow-origin" in refused.json()["error"]["message"]
    read = page_client.get("/v1/models", headers={"origin": origin})
    for answer in (refused, read):
        assert "access-control-allow-origin" not in answer.headers and answer.headers["vary"] == "Origin"


def test_answers_streams_and_errors_can_be_read_by_a_named_origin(untaught: LoadedEngine) -> None:
    policy = make_policy(origins=(PAGE,), keys=("k3y",))
    with run_server(untaught, policy) as server:
        for body, key, status in ((BODY, "k3y", 200), ({**BODY, "stream": True}, "k3y", 200), (BODY, "no", 401)):
            headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
            answer = httpx.post(server.address + CHAT, json=body, headers=headers, timeout=300)
            assert answer.status_code == status and answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-expose-headers"] == "Retry-After"


def test_an_internal_error_can_be_read_by_a_named_origin(
    untaught: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(untaught, make_policy(origins=(PAGE,)))
    monkeypatch.setattr("hanlin.serve.app.build_openapi", lambda base_path: 1 / 0)
    answer = client.get("/openapi.json", headers={"origin": PAGE})
    assert answer.status_code == 500 and answer.headers["access-control-allow-origin"] == PAGE


def test_without_named_origins_there_are_no_headers_for_pages(untaught: LoadedEngine) -> None:
    client = make_client(untaught, make_policy())
    for answer in (preflight(client), client.get("/v1/models", headers={"origin": PAGE})):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_origin_needs_a_key_and_is_never_given_credentials(untaught: LoadedEngine) -> None:
    with pytest.raises(UserError, match="no API key"):
        make_policy(origins=("*",))
    client = make_client(untaught, make_policy(origins=("*",), keys=("k3y",)))
    answer = preflight(client, "https://any.example")
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


def test_a_preflight_to_a_foreign_host_is_refused(page_client: TestClient) -> None:
    assert preflight(page_client, host="evil.example").status_code == 403


@pytest.mark.parametrize(
    ("typed", "origin"),
    [
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTPS://Chat.Example:443", "https://chat.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://聊天.中国", "http://xn--rss932g.xn--fiqs8s"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("file://", "file://"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(typed: str, origin: str) -> None:
    assert parse_origin(typed) == origin


@pytest.mark.parametrize(
    "typed", ["", "null", "localhost:3000", "http://a/chat", "http://*.lan", "https://*", "http://"]
)
def test_what_is_no_origin_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="not the origin"):
        parse_origin(typed)


# ----------------------------------------------------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    ("host", "header"),
    [
        ("models.lan", "models.lan:8000"),
        ("models.lan", "MODELS.LAN."),
        ("*.local", "mac-mini.local:11434"),
        ("ollama", "ollama:11434"),
        ("10.0.0.5", "10.0.0.5:8000"),
        ("[fd00::5]", "[fd00::5]:8000"),
        ("[FD00:0:0::5]", "[fd00:0:0:0:0:0:0:5]"),
        ("fd00:0::5", "[FD00::5]:8000"),
        ("*.LAN", "nas.lan:8000"),
        ("*.模型.中国", "甲.模型.中国".encode("idna").decode()),
    ],
)
def test_a_named_host_is_answered_to(host: str, header: str) -> None:
    assert not make_policy().allows_host(header)
    assert make_policy((host,)).allows_host(header) and make_policy((host,)).allows_host("localhost")


@pytest.mark.parametrize(
    "header",
    [
        *("evil.example", "local", "evil.local.example", "mac.local.evil.example:80", "", ":8000", "[::1", "[fd00::5]"),
        *("models.lan:80:80", "evil.example:80@models.lan", "models.lan evil.example", "xmodels.lan"),
    ],
)
def test_a_named_host_opens_no_other_name(header: str) -> None:
    assert not make_policy(("*.local", "models.lan")).allows_host(header)


@pytest.mark.parametrize(
    "header",
    [
        *("host.docker.internal:11434", "gateway.docker.internal", "chat.localhost:8000", "LOCALHOST:1"),
        *("[::1]:8000", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:8000", "127.0.0.2"),
    ],
)
def test_names_that_no_public_dns_holds_need_no_option(header: str) -> None:
    assert make_policy().allows_host(header)


def test_named_hosts_limit_a_server_on_the_network_too() -> None:
    policy = make_policy(("models.lan",), keys=("k3y",), address="0.0.0.0")
    assert policy.allows_host("models.lan") and policy.allows_host("192.168.1.7:8000")
    assert not policy.allows_host("evil.example")


@pytest.mark.parametrize("typed", ["", "http://models.lan", "models.lan:8000", "*lan", "a..b", "*.*"])
def test_what_is_no_host_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="not the name of a host"):
        parse_host(typed)


def test_every_host_needs_a_key() -> None:
    with pytest.raises(UserError, match="no API key"):
        make_policy(("*",))
    assert make_policy(("*",), keys=("k3y",)).allows_host("any.example")


def test_a_refused_host_is_told_the_option(untaught: LoadedEngine) -> None:
    client = make_client(untaught, make_policy())
    answer = client.get("/v1/models", headers={"host": "models.lan"})
    assert answer.status_code == 403 and "models.lan" in answer.text and "--allow-host" in answer.text
    assert client.get("/v1/models", headers={"host": "host.docker.internal:11434"}).status_code == 200


# ------------------------------------------------------------------------------------------------------- base path


def test_routes_are_served_below_a_base_path_and_without_it(untaught: LoadedEngine) -> None:
    client = make_client(untaught, make_policy(origins=(PAGE,)), "/hanlin")
    for path in ("/hanlin/v1/models", "/v1/models", "/hanlin/health", "/hanlin/api/tags"):
        assert client.get(path).status_code == 200
    assert client.post("/hanlin" + CHAT, json=BODY).status_code == 200
    assert preflight(client, path="/hanlin" + CHAT).status_code == 204
    assert client.get("/hanlin/openapi.json").json()["servers"] == [{"url": "/hanlin"}]
    assert client.get("/hanlinx/v1/models").status_code == client.get("/hanlin/hanlin/v1/models").status_code == 404
    wrong = client.post("/hanlin/api/chat", json={"model": "none", "messages": []})
    assert wrong.status_code == 404 and isinstance(wrong.json()["error"], str)  # in the form of Ollama's API


def test_a_redirect_stays_below_the_base_path(untaught: LoadedEngine) -> None:
    client = make_client(untaught, make_policy(), "/hanlin")
    answer = client.get("/hanlin/health/?a=1", follow_redirects=False)
    assert answer.status_code == 307 and answer.headers["location"] == "/hanlin/health?a=1"


@pytest.mark.parametrize(("typed", "path"), [("", ""), ("/", ""), ("/a", "/a"), ("a/b/", "/a/b"), ("/翰林", "/翰林")])
def test_a_base_path_begins_with_a_slash_and_ends_with_none(typed: str, path: str) -> None:
    assert parse_base_path(typed) == path


@pytest.mark.parametrize("typed", ["http://a/b", "/a?b", "/a b", "/../a", "/%41"])
def test_what_is_no_base_path_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="not a path"):
        parse_base_path(typed)


# ----------------------------------------------------------------------------------------------------- Unix socket


def test_a_unix_socket_is_for_its_owner_alone_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "hanlin.sock"
    with bind_unix_socket(path), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.connect(str(path))
    assert not path.exists()


def test_a_socket_that_its_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "hanlin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    with bind_unix_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_is_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path, file = tmp_path / "hanlin.sock", tmp_path / "notes"
    file.write_text("mine")
    with bind_unix_socket(path):
        with pytest.raises(UserError, match="another server"), bind_unix_socket(path):
            pass
        assert path.exists()
    with pytest.raises(UserError, match="not a socket"), bind_unix_socket(file):
        pass
    assert file.read_text() == "mine"


def test_a_socket_where_none_can_be_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "s", tmp_path / ("s" * 100), Path("/proc/s")):
        with pytest.raises(UserError), bind_unix_socket(path):
            pass
    assert os.umask(0o022) == 0o022  # the mask of other files is as it was


# ------------------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer k3y"}, 200),
        ({"x-api-key": "k3y"}, 200),
        ({"x-api-key": "k3y", "authorization": "Bearer none"}, 200),
        ({"x-api-key": "none"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "k3y"}, 401),
        ({}, 401),
    ],
)
def test_a_key_is_sent_as_bearer_or_as_x_api_key(untaught: LoadedEngine, headers: dict[str, str], status: int) -> None:
    assert make_client(untaught, make_policy(keys=("k3y",))).get("/v1/models", headers=headers).status_code == status
