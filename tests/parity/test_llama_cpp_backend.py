"""The connection to llama.cpp's server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
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
