"""llama.cpp on a GGUF file: the template and the tokenizer in the file, by llama.cpp's own code.

The server runs in a process of its own, `llama_cpp_server`.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json_object
from hanlin.core.http.client import ServerClient, ServerError
from hanlin.core.i18n import tr
from hanlin.core.process import python_command, start_process
from hanlin.parity.backends.base import ChatPrompt, openai_body

_SECONDS_TO_ANSWER = 600


class LlamaCppBackend:
    """What llama.cpp's server makes of a chat: `/apply-template`, then the tokens as `/v1/chat/completions` takes them
    (special tokens read, a begin token set where the file asks for one).
    """

    def __init__(self, file: Path) -> None:
        """Raises UserError when llama.cpp cannot load the file."""
        self.name = f"llama.cpp {file.name}"
        key = secrets.token_urlsafe(16)
        self._process = start_process(
            python_command("-m", "hanlin.parity.backends.llama_cpp_server", str(file)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        try:
            address, self._stops = self._start(key)
            self._client = ServerClient(address, key, seconds=_SECONDS_TO_ANSWER)
        except (OSError, TypeError, ValueError, UserError) as error:
            self.close()
            if isinstance(error, UserError) and error.where:  # what the process says of the file
                raise
            raise UserError(tr("llama.cpp's server does not start on this file"), file) from error
        except BaseException:
            self.close()
            raise
        self._file = file

    def _start(self, key: str) -> tuple[str, frozenset[int]]:
        """Hand over the key, which a command line would show to everybody.

        Returns:
            The server's address, and every id at which llama.cpp ends an answer by itself.

        Raises:
            UserError: llama.cpp cannot load the file.
            ValueError: The process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(key + "\n")
        self._process.stdin.flush()
        reply = parse_json_object(self._process.stdout.readline().encode())
        if "refused" in reply:
            raise UserError(*reply["refused"])
        return reply["address"], frozenset(reply["end_ids"])

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
        try:
            reply = self._client.fetch("POST", path, body)
            if reply.status == 200:
                return dict(reply.json())
            return f"{reply.status}: {reply.text()[:300]}"
        except ServerError as error:
            what = tr("llama.cpp's server ended on this file: {reason}", reason=error)
            raise UserError(what, self._file, tr("its chat template or tokenizer may crash llama.cpp")) from error

    def stop_ids(self) -> frozenset[int] | None:
        return self._stops

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
