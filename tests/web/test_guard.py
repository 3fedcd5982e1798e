"""The gate in front of the page: who gets in, what a foreign page can do, which files can be named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from hanlin.core.errors import UserError
from hanlin.serve.auth import AccessPolicy
from hanlin.web.access import PAGE_TOKEN_HEADER, is_same_origin
from hanlin.web.frame import Frame
from hanlin.web.guard import SECURITY_HEADERS
from hanlin.web.texts import choose_language, find_messages, translate_scripts
from web_client import ADDRESS, make_app, make_client

PAGES = ("/ui/chat", "/ui/login", "/ui/nothing")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """No test changes anything by it."""
    return make_client(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("path", [*PAGES, "/ui", "/ui/static/frame/page.js", "/ui/static/%2e%2e/app.py"])
def test_every_answer_below_ui_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers.get(name) for name in SECURITY_HEADERS} == dict(SECURITY_HEADERS)


def test_the_policy_of_content_allows_no_inline_script_and_no_other_server() -> None:
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert {"default-src 'self'", "object-src 'none'", "base-uri 'none'"} <= set(policy.split("; "))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_nothing_on_other_servers_and_holds_no_inline_code(client: TestClient, path: str) -> None:
    page = client.get(path, headers={"accept": "text/html"}).text
    assert not re.findall(r"(?:src|href|action)=\"(?!/|#)", page)
    assert not re.findall(r"<script(?![^>]*(?:\bsrc=|application/json))", page)
    assert not re.findall(r"\s(?:on\w+|style)=", page)


@pytest.mark.parametrize("path", ["/ui/chat", "/ui/static/frame/page.js", "/ui/login"])
def test_a_name_that_was_pointed_at_this_machine_gets_nothing(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"host": "attacker.example"}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {PAGE_TOKEN_HEADER: ""},
        {PAGE_TOKEN_HEADER: "x" * 32},
        {"origin": "http://attacker.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": f"{ADDRESS}.attacker.example"},
        {"origin": "file://"},
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_page_can_change_nothing(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/ui/login", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost"),
        ("models.lan", "https://models.lan"),
        ("models.lan:443", "https://models.lan"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_the_own_origin_is_known_behind_a_proxy_too(host: str, origin: str) -> None:
    assert is_same_origin(Headers({"host": host, "origin": origin}))


def test_with_keys_nothing_is_read_without_one(tmp_path: Path) -> None:
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("secret",)))
    assert client.get("/ui/chat").status_code == 401
    sent = client.get("/ui/chat", headers={"accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/ui/login")
    assert client.get("/ui/login").status_code == 200
    assert client.get("/ui/static/frame/page.css").status_code == 200
    assert client.get("/ui/chat", headers={"authorization": "Bearer secret"}).status_code == 200


def test_a_session_of_a_key_opens_the_pages_and_its_cookie_holds_no_key(tmp_path: Path) -> None:
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("secret",)))
    assert client.post("/ui/login", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/ui/chat", headers={"cookie": "hanlin_session=secret"}).status_code == 401
    opened = client.post("/ui/login", headers={"authorization": "Bearer secret"})
    assert opened.status_code == 204
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "secret" not in cookie
    assert client.get("/ui/chat").status_code == 200


def test_a_session_is_ended_and_its_cookie_opens_nothing_more(tmp_path: Path) -> None:
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("secret",)))
    client.post("/ui/login", headers={"authorization": "Bearer secret"})
    session = dict(client.cookies)
    assert "Log out" in client.get("/ui/chat", headers={"accept": "text/html"}).text
    assert client.post("/ui/logout").status_code == 204
    assert "hanlin_session" not in client.cookies
    client.cookies.update(session)
    assert client.get("/ui/chat").status_code == 401
    assert "Log out" not in client.get("/ui/login").text


def test_two_servers_of_one_machine_keep_their_sessions_apart(tmp_path: Path) -> None:
    """Browsers keep one jar for all ports of a host."""
    jar: dict[str, str] = {}
    clients = []
    for port in (8080, 8081):
        app, frame = make_app(tmp_path, policy=AccessPolicy(api_keys=("secret",)), address=f"http://127.0.0.1:{port}")
        headers = {"x-hanlin-page": frame.page_token, "authorization": "Bearer secret"}
        client = TestClient(app, base_url=f"http://127.0.0.1:{port}", follow_redirects=False)
        assert client.post("/ui/login", headers=headers).status_code == 204
        jar |= dict(client.cookies)
        clients.append(client)
    for client in clients:
        client.cookies.update(jar)
        assert client.get("/ui/chat").status_code == 200


@pytest.mark.parametrize("foreign", ['prefs={"a": 1}', "x=a b c", "名=值", "a[b]=1", "alone", "made=Mon, 1 (GMT+8)"])
def test_cookies_of_other_servers_of_the_machine_end_no_session(foreign: str, tmp_path: Path) -> None:
    """Browsers send the cookies of all ports together, in the order in which they were set."""
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("secret",)))
    client.post("/ui/login", headers={"authorization": "Bearer secret"})
    own = f"hanlin_session={client.cookies['hanlin_session']}; hanlin_language=zh"
    client.cookies.clear()
    sent = {"cookie": f"{foreign}; {own}".encode()}
    page = client.get("/ui/chat", headers=sent)  # type: ignore[arg-type]
    assert (page.status_code, 'lang="zh-CN"' in page.text) == (200, True)
    assert client.get("/v1/models", headers=sent).status_code == 200  # type: ignore[arg-type]


def test_the_pages_own_requests_to_an_api_carry_the_key_of_the_session_and_no_others_do(tmp_path: Path) -> None:
    client = make_client(tmp_path, policy=AccessPolicy(api_keys=("secret",)))
    token = client.headers.pop("x-hanlin-page")
    assert client.get("/v1/models", headers={"x-hanlin-page": token}).status_code == 401
    client.post("/ui/login", headers={"authorization": "Bearer secret", "x-hanlin-page": token})
    assert client.get("/v1/models", headers={"x-hanlin-page": token}).status_code == 200
    for headers in (
        {},
        {"x-hanlin-page": "guessed"},
        {"x-hanlin-page": token, "origin": "https://evil.example"},
        {"x-hanlin-page": token, "sec-fetch-site": "cross-site"},
        {"x-hanlin-page": token, "authorization": "Bearer wrong"},
    ):
        assert client.get("/v1/models", headers=headers).status_code in (401, 403), headers


def test_an_api_refuses_the_page_in_its_readers_language_and_programs_in_the_servers(client: TestClient) -> None:
    body = {"model": "none", "messages": [{"role": "user", "content": "x"}]}
    headers = {"accept-language": "zh-CN"}
    told = client.post("/v1/chat/completions", json=body, headers=headers).json()["error"]["message"]
    assert any(character >= "\u4e00" for character in told)
    del client.headers["x-hanlin-page"]
    told = client.post("/v1/chat/completions", json=body, headers=headers).json()["error"]["message"]
    assert told.isascii()


def test_a_browser_without_a_path_comes_to_the_page_and_a_program_to_the_api(client: TestClient) -> None:
    answer = client.get("/", headers={"accept": "text/html,application/xhtml+xml"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
    assert client.get("/", headers={"accept": "*/*"}).text == "Ollama is running"


def test_what_starts_work_needs_the_token_of_the_terminal(tmp_path: Path) -> None:
    from fastapi import Depends

    app, frame = make_app(tmp_path)
    started: list[str] = []
    app.post("/ui/start", dependencies=[Depends(frame.require_start_token)])(lambda: started.append("started"))
    client = TestClient(app, base_url=ADDRESS, headers={PAGE_TOKEN_HEADER: frame.page_token})
    for token in (None, "", "x" * len(frame.start_token), frame.page_token, "口令"):
        headers = {} if token is None else {"x-hanlin-start": token.encode()}
        answer = client.post("/ui/start", headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "start_token")
    assert started == []
    assert client.post("/ui/start", headers={"x-hanlin-start": frame.start_token}).status_code == 200
    assert started == ["started"]
    assert frame.start_token not in client.get("/ui/chat").text


NAMES_OUTSIDE = [
    "..",
    "../secret",
    "inside/../../secret",
    "/etc/passwd",
    "link",
    "link/passwd",
    "~/secret/../../../etc",
    "a\0b",
    "loop",
    "./../../../../etc/passwd",
    "x" * 5000,
]


@pytest.mark.parametrize("name", NAMES_OUTSIDE, ids=range(len(NAMES_OUTSIDE)))
def test_no_file_outside_of_the_folder_can_be_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (folder / "link").symlink_to("/etc")
    (folder / "loop").symlink_to(folder / "loop")
    frame = Frame(folder)
    try:
        path = frame.resolve(name)
    except UserError as error:
        assert "secret" not in error.what
    else:
        assert path.is_relative_to(folder.resolve())
        assert name.startswith("~") or not path.exists()


def test_a_file_inside_may_be_named_by_any_path_to_it(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "a.json"
    file.parent.mkdir()
    file.write_text("{}", encoding="utf-8")
    frame = Frame(tmp_path)
    assert {frame.resolve(name) for name in ("runs/a.json", "runs/../runs/a.json", str(file))} == {file.resolve()}


@pytest.mark.parametrize(
    "path",
    [
        "/ui/static/../app.py",
        "/ui/static/%2e%2e/app.py",
        "/ui/static/..%2fapp.py",
        "/ui/static//etc/passwd",
        "/ui/static/",
    ],
)
def test_static_files_are_those_of_one_folder(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 405)


def test_the_apis_of_the_server_answer_as_they_do_without_the_page(client: TestClient) -> None:
    assert client.get("/v1/models").json()["data"] == []
    asked = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
    answer = client.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "no model is loaded yet")
    assert "content-security-policy" not in answer.headers


@pytest.mark.parametrize(
    ("cookie", "header", "language"),
    [
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-US,en;q=0.9,zh;q=0.8", "en"),
        (None, "fr,zh-Hant;q=0.3", "zh"),
        (None, "de, en;q=0, zh;q=0", "en"),
        (None, "en;q=0.2, zh;q=0.7", "zh"),
        (None, None, "en"),
        (None, ";;;,=,q=1" * 500, "en"),
        ("en", "zh", "en"),
        ("zh", "en", "zh"),
        ("klingon", "zh", "zh"),
    ],
)
def test_the_browser_and_then_the_switch_choose_the_language(
    cookie: str | None, header: str | None, language: str
) -> None:
    assert choose_language(cookie, header, "en") == language


def test_two_readers_are_answered_each_in_their_language(client: TestClient) -> None:
    chinese = client.get("/ui/chat", headers={"accept-language": "zh-CN"}).text
    assert '<html lang="zh-CN">' in chinese and "对话" in chinese
    english = client.get("/ui/chat", headers={"accept-language": "en"}).text
    assert '<html lang="en">' in english and "对话" not in english
    refusal = client.post("/ui/login", headers={"accept-language": "zh", PAGE_TOKEN_HEADER: ""})
    assert "令牌" in refusal.json()["error"]["message"]


def test_a_script_gets_the_translations_of_its_messages(client: TestClient) -> None:
    messages = find_messages("frame/page.js")
    assert "Cancel" in messages and len(messages) > 5
    translated = translate_scripts(("frame/page.js",), "zh")
    assert translated.keys() == set(messages) and all(translated.values())
    page = client.get("/ui/chat", headers={"accept-language": "zh"}).text
    data = json.loads(re.findall(r'id="page-data">(.+?)</script>', page)[0])
    assert data["messages"]["Cancel"] == "取消"


def test_a_theme_that_was_chosen_is_in_the_page_and_any_other_value_is_not(client: TestClient) -> None:
    assert 'data-theme="dark"' in client.get("/ui/chat", headers={"cookie": "hanlin_theme=dark"}).text
    assert "data-theme" not in client.get("/ui/chat", headers={"cookie": 'hanlin_theme="><script>'}).text
