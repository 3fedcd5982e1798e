"""API keys, limits of keys, and the Host check."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from hanlin.core.errors import UserError
from hanlin.inference.loading import LoadedEngine
from hanlin.serve.auth import AccessPolicy, make_access_policy, read_key_file, read_keys
from live_server import run_server
from waiting import wait_until


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "[::1]"]
)
def test_a_local_server_knows_the_machines_own_names(header: str) -> None:
    assert AccessPolicy().allows_host(header)


@pytest.mark.parametrize("header", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.5:8000", ""])
def test_a_local_server_knows_no_other_name(header: str) -> None:
    assert not AccessPolicy().allows_host(header)


def test_a_server_on_the_network_has_any_name() -> None:
    assert make_access_policy("0.0.0.0", ["key"]).allows_host("models.example:8000")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic 密钥", "密钥"])
def test_the_wrong_key_is_refused(header: str | None) -> None:
    assert not AccessPolicy(("other", "k3y")).allows_key(header)


@pytest.mark.parametrize("header", ["Bearer k3y", "bearer k3y"])
def test_the_right_key_is_taken(header: str) -> None:
    assert AccessPolicy(("other", "k3y")).allows_key(header)


def test_no_key_is_needed_if_none_is_set() -> None:
    assert AccessPolicy().allows_key(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "models.example"])
def test_an_address_on_the_network_needs_a_key(host: str) -> None:
    with pytest.raises(UserError, match="there is no API key"):
        make_access_policy(host, [])


@pytest.mark.parametrize("key", ["", " ", "two words", "密钥", "line\n"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="printable ASCII"):
        make_access_policy("127.0.0.1", [key])


# ---------------------------------------------------------------------------------------------------- limits of keys


def test_a_key_has_its_own_limits(untaught: LoadedEngine, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(
        "- {key: small, requests_per_minute: 2}\n- {key: one, max_parallel_requests: 1}\n- {key: free}\n",
        encoding="utf-8",
    )
    policy = make_access_policy("127.0.0.1", ["plain"], read_keys(file))
    may_go_on = threading.Event()
    may_go_on.set()
    with run_server(untaught, policy, pause=may_go_on.wait) as server:

        def ask(key: str, **fields: object) -> httpx.Response:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 2, **fields}
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{server.address}/v1/chat/completions", json=body, headers=headers, timeout=300)

        assert [ask("small").status_code for _ in range(3)] == [200, 200, 429]
        refused = ask("small")
        assert refused.json()["error"]["code"] == "key_limit" and 1 <= int(refused.headers["retry-after"]) <= 60
        assert ask("plain").status_code == ask("free").status_code == 200
        assert ask("other").status_code == 401
        may_go_on.clear()
        first = threading.Thread(target=ask, args=("one",))
        first.start()
        try:
            wait_until(lambda: server.served_models[0].queue.running)
            assert ask("one").status_code == 429
        finally:
            may_go_on.set()
        first.join()
        assert ask("one").status_code == 200


@pytest.mark.parametrize(
    "text", ["key: x", "- x", "- {key: 7}", "- {key: x, max_parallel_requests: 0}", "- {kex: x}", "- {key: x", "3"]
)
def test_an_error_in_a_key_file_does_not_show_the_key(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text.replace("x", "s3cret"), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_keys(file)
    assert "s3cret" not in str(error.value) and "keys.yaml" in str(error.value)


LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else '1'}]\n" for n in range(12))


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "[" * 50_000,
        "? [a]\n: 1",
        "- {key: s3cret, requests_per_minute: " + "9" * 6_000 + "}",
        "- {key: s3cret}\n- !!python/object/apply:os.system [s3cret]",
        "- {key: 2026-99-99}",
        "- {key: s3cret, s3cret: 1, s3cret: 2}",
        '- {key: "s3cret\\ud800"}',
        "x" * 2_000_000,
        "- {key: s3cret\0}",
    ],
    ids=range(10),
)
def test_a_key_file_is_bounded_and_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_keys(file)
    assert "s3cret" not in str(error.value) and "keys.yaml" in str(error.value)


def test_a_device_without_end_is_no_key_file() -> None:
    for read in (read_keys, read_key_file):
        with pytest.raises(UserError):
            read(Path("/dev/zero"))
