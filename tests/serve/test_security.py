"""Who is let in."""

from __future__ import annotations

import pytest

from hanlin.errors import UserError
from hanlin.serve.security import Guard, guard_for


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "[::1]"]
)
def test_a_local_server_knows_the_machines_own_names(header: str) -> None:
    assert Guard().knows_host(header)


@pytest.mark.parametrize("header", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.5:8000", ""])
def test_a_local_server_knows_no_other_name(header: str) -> None:
    assert not Guard().knows_host(header)


def test_a_server_on_the_network_has_any_name() -> None:
    assert guard_for("0.0.0.0", ["key"]).knows_host("models.example:8000")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic 密钥", "密钥"])
def test_the_wrong_key_is_refused(header: str | None) -> None:
    assert not Guard(("other", "k3y")).admits(header)


@pytest.mark.parametrize("header", ["Bearer k3y", "bearer k3y"])
def test_the_right_key_is_taken(header: str) -> None:
    assert Guard(("other", "k3y")).admits(header)


def test_no_key_is_needed_where_none_is_set() -> None:
    assert Guard().admits(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "models.example"])
def test_an_address_on_the_network_needs_a_key(host: str) -> None:
    with pytest.raises(UserError, match="there is no API key"):
        guard_for(host, [])


@pytest.mark.parametrize("key", ["", " ", "two words", "密钥", "line\n"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="printable ASCII"):
        guard_for("127.0.0.1", [key])
