"""llama.cpp on a GGUF file: the template and the tokenizer in the file, by llama.cpp's own code.

The server runs in a process of its own, `llama_cpp_server`.
"""

from __future__ import annotations

import http.client
import json
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import python_command, start_process
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.parity.backends.base import ChatPrompt, openai_body

_START_SECONDS = 600


class LlamaCppBackend:
    """What llama.cpp's server makes of a chat: `/apply-template`, then the tokens as `/v1/chat/completions` takes them
    (special tokens read, a begin token set where the file asks for one).
    """

    def __init__(self, file: Path) -> None:
        """Raises UserError when llama.cpp cannot load the file."""
        model = LlamaCppModel(file, vocabulary_only=True)
        try:
            self._stops = model.end_ids
        finally:
            model.close()
        self.name = f"llama.cpp {file.name}"
        self._key = secrets.token_urlsafe(16)
        self._process = start_process(
            python_command("-m", "hanlin.parity.backends.llama_cpp_server", str(file), self._key),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdout is not None
        self._connection: http.client.HTTPConnection | None = None
        address = urlsplit(self._process.stdout.readline().strip())
        if not address.port:
            self.close()
            raise UserError(tr("llama.cpp's server does not start on this file"), file)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_START_SECONDS)

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        return [self._prompt(prompt) for prompt in batch]

    def _prompt(self, prompt: ChatPrompt) -> list[int] | str:
        rendered = self._post("/apply-template", openai_body(prompt))
        if isinstance(rendered, str):
            return rendered
        body = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
        found = self._post("/tokenize", body)
        return found if isinstance(found, str) else list(found["tokens"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | str:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        assert self._connection is not None
        answer = post(self._connection, path, json.dumps(body).encode("ascii"), headers)
        text = answer.read().decode("utf-8")
        if answer.status == 200:
            return dict(json.loads(text))
        return f"{answer.status}: {text[:300]}"

    def stop_ids(self) -> frozenset[int] | None:
        return self._stops

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._process.kill()
        self._process.communicate()


def post(
    connection: http.client.HTTPConnection, path: str, data: bytes, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """Send a request on an open connection, once more on a new one if the server had closed it: servers close one that
    nothing came through for seconds. Only for requests that change nothing.

    Raises:
        ConnectionError: The server does not answer on a new connection either.
    """
    try:
        connection.request("POST", path, data, dict(headers))
        return connection.getresponse()
    except ConnectionError:  # seen when the body is sent, or only when the answer is read
        connection.close()
        connection.request("POST", path, data, dict(headers))
        return connection.getresponse()
