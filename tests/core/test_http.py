"""Clients of other servers, against servers that mean harm: where the key goes, and what an answer may cost."""

from __future__ import annotations

import gzip
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.core.http.address import is_loopback, parse_address
from hanlin.core.http.client import MAX_LINE, RedirectError, ServerClient, ServerError, Unreachable
from hostile_server import HEAD, Answer, forever, host, whole
from waiting import hang_limit

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_key_follows_a_redirect(status: str, method: str) -> None:
    with host(whole(b"{}")) as other, host(whole(b"", f"Location: {other.url}/v1/models", status=status)) as first:
        with pytest.raises(RedirectError, match="sends to another address") as told:
            ServerClient(first.url, KEY).fetch(method, "/v1/models", {} if method == "POST" else None)
        assert other.url in str(told.value)
        assert other.received == [] and KEY.encode() in first.received[0]


@pytest.mark.parametrize(
    "variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HANLIN_PROXY"]
)
def test_no_proxy_sees_what_goes_to_this_machine(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with host(whole(b"{}")) as proxy, host(whole(b'{"a": 1}')) as server:
        monkeypatch.setenv(variable, proxy.url)
        assert ServerClient(server.url, KEY).fetch("GET", "/x").json() == {"a": 1}
        assert ServerClient(f"http://localhost:{server.port}", KEY).fetch("GET", "/x").json() == {"a": 1}
        assert proxy.received == []


def test_only_the_proxy_that_was_asked_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with host(whole(b"{}")) as common, host(whole(b'{"by": "proxy"}')) as asked:
        monkeypatch.setenv("http_proxy", common.url)
        with pytest.raises(Unreachable):
            ServerClient("http://hanlin.invalid", KEY).fetch("GET", "/")
        monkeypatch.setenv("HANLIN_PROXY", asked.url)
        assert ServerClient("http://hanlin.invalid", KEY).fetch("GET", "/").json() == {"by": "proxy"}
        assert common.received == [] and asked.received[0].startswith(b"GET http://hanlin.invalid/")
    monkeypatch.setenv("HANLIN_PROXY", "socks://x")
    with pytest.raises(UserError, match="not the address of a proxy"):
        ServerClient("http://hanlin.invalid")


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.1", "[::1]", "::1", "0x7f000001"]
)
def test_every_way_to_write_this_machine_is_known(name: str) -> None:
    assert is_loopback(name)
    assert (
        not is_loopback("localhost.example.org") and not is_loopback("10.0.0.1") and not is_loopback("127.example.org")
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (forever(b"x" * 65536, head=HEAD + b"\r\n"), "longer than"),
        (
            forever(b"10000\r\n" + b"x" * 65536 + b"\r\n", head=HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
            "longer than",
        ),
        (forever(b": still here\n", 0.05, HEAD + b"\r\n"), "no answer in"),
        (forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), "no answer in"),
        (forever(b"X", 0.05), "no answer in"),
        (forever(b"X-Header: y\r\n", 0.05, HEAD), "no answer in"),
        (HEAD + b"X-Huge: " + b"x" * 2_000_000 + b"\r\n\r\n", "speak HTTP"),
        (HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\n", "speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speak HTTP"),
        (b"", "speak HTTP"),
        (
            whole(gzip.compress(bytes(1 << 20)), "Content-Encoding: gzip", "Content-Type: text/event-stream"),
            "compressed",
        ),
        (whole(b"<html>", "Content-Type: text/html"), "no stream of events"),
        (HEAD + b"Content-Length: 100\r\n\r\ndata: {}\n", "speak HTTP"),
    ],
    ids=str.split(
        "line_without_end endless_chunk comments_only continue_only slow_status slow_headers huge_header many_headers "
        "other_protocol nothing gzip_bomb other_type cut_off"
    ),
)
def test_a_stream_costs_no_more_than_its_limits_and_its_fault_is_one_sentence(
    answer: Answer | bytes, told: str
) -> None:
    with host(answer) as server:
        client = ServerClient(server.url, KEY, seconds=0.4 if told == "no answer in" else 60)
        with hang_limit(), pytest.raises(ServerError, match=told) as error, client.stream("GET", "/") as reply:
            assert list(reply.events()) is None
        assert "\n" not in str(error.value) and KEY not in str(error.value)


def test_a_whole_answer_is_bounded_in_size_and_time_however_slowly_it_drips() -> None:
    with host(forever(b"x" * 65536, head=HEAD + b"\r\n")) as server, pytest.raises(ServerError, match="longer than"):
        ServerClient(server.url, seconds=60).fetch("GET", "/")
    drip = forever(b"x", 0.05, HEAD + b"Content-Length: 100000\r\n\r\n")
    with host(drip) as server, pytest.raises(ServerError, match="no answer in"):
        ServerClient(server.url, seconds=0.3).fetch("GET", "/")
    with host(whole(b"{" * 100_000)) as server, pytest.raises(ServerError, match="no JSON"):
        ServerClient(server.url).fetch("GET", "/").json()


def test_events_come_as_they_are_sent_and_a_long_line_is_no_fault() -> None:
    text = "字" * (MAX_LINE // 4)
    body = f"data: 1\r\n\r\n: note\nevent: x\ndata:{text}\n\ndata: [DONE]".encode()
    with host(HEAD + b"\r\n" + body) as server, ServerClient(server.url).stream("POST", "/", {}) as reply:
        assert list(reply.events()) == ["1", text, "[DONE]"]


def test_who_reads_is_woken_when_another_thread_breaks_off() -> None:
    wait = forever(b": wait\n", 0.2, HEAD + b"\r\n")
    with host(wait) as server, ServerClient(server.url, seconds=600).stream("GET", "/") as reply:
        threading.Timer(0.2, reply.shutdown).start()
        with hang_limit(), suppress(ServerError):
            assert list(reply.events()) == []


def test_a_certificate_that_nobody_vouches_for_and_plain_http_are_one_sentence(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=127.0.0.1"]
    try:
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with host(whole(b"{}"), context) as server:
        with pytest.raises(Unreachable, match=r"TLS certificate is not trusted: self.signed"):
            ServerClient(server.url, KEY).fetch("GET", "/")
        assert server.received == []
    with host(whole(b"{}")) as server, pytest.raises(Unreachable, match="does not speak TLS"):
        ServerClient(server.url.replace("http:", "https:"), KEY).fetch("GET", "/")


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://x", "http://", "http://h:0", "http://h:99999", "http://h/?q", "file:///etc"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="not the address of a server"):
        parse_address(url)


def test_a_password_in_an_address_is_not_taken_and_not_shown() -> None:
    with pytest.raises(UserError, match="name or password") as told:
        ServerClient("http://me:geheim@example.org/v1")
    assert "geheim" not in str(told.value)
