"""The connection to llama.cpp's server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.core.process import python_command, start_process
from hanlin.core.records import Message
from hanlin.parity.backends.base import ChatPrompt
from hanlin.parity.backends.llama_cpp import LlamaCppBackend
from tiny_gguf import Exported

PROMPT = ChatPrompt((Message("user", "你好"),))


def test_a_server_that_is_gone_is_one_sentence(exported: Callable[[str, str], Exported]) -> None:
    backend = LlamaCppBackend(exported("tiny", "chatml").file)
    try:
        (ids,) = backend.render_prompts([PROMPT])
        assert isinstance(ids, list) and ids
        arguments = Path(f"/proc/{backend._process.pid}/cmdline").read_bytes()
        assert backend._client._client.headers["Authorization"].removeprefix("Bearer ").encode() not in arguments
        backend._process.kill()
        backend._process.wait()
        with pytest.raises(UserError, match=r"llama\.cpp's server ended on this file"):
            backend.render_prompts([PROMPT])
    finally:
        backend.close()


@pytest.mark.parametrize("moment", ["while it starts", "while it serves"])
def test_a_server_ends_when_its_parent_was_killed(moment: str, exported: Callable[[str, str], Exported]) -> None:
    """The kernel closes both pipes of a parent that ends."""
    file = exported("tiny", "chatml").file
    command = python_command("-m", "hanlin.parity.backends.llama_cpp_server", str(file))
    with start_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(b"key\n")
            process.stdin.flush()
            if moment == "while it serves":
                assert b"address" in process.stdout.readline()
            process.stdin.close()
            process.stdout.close()
            assert process.wait(300) == 0
        finally:
            process.kill()
