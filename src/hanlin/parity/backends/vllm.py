"""A running vLLM: the ids that its own `/tokenize` gives to the turns of a chat. vLLM is not started here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.http.address import parse_address
from hanlin.core.http.client import ServerClient, ServerError, Unreachable, error_message
from hanlin.core.i18n import tr
from hanlin.parity.backends.base import ChatPrompt, openai_body

SECONDS = 30.0
"""How long one answer may take; a rendering takes milliseconds."""

AT_ONCE = 4
"""Requests under way at a time: few, for the server may be at work for others."""

REASONING = "reasoning"
"""The field of an answer's reasoning. `/v1/chat/completions` takes `reasoning_content` too and renames it, `/tokenize`
of vLLM 0.32 drops it; the template is given both names.
"""


class VllmBackend:
    """vLLM at `url`. Its `/tokenize` renders by the same code as `/v1/chat/completions`."""

    name = "vllm"

    def __init__(self, url: str, api_key: str = "", model: str = "", *, chat_template: str = "") -> None:
        """Ask which models are served. `model` is the name of one of them; without it, the first. `chat_template` is
        Jinja that stands in for the served folder's own (vLLM must run with `--trust-request-chat-template`).

        Raises UserError when nobody listens at `url`, when it is no vLLM, when the key is refused, or when `model` is
        not served.
        """
        self.url = _strip_api_path(url)
        self._chat_template = chat_template
        self._client = ServerClient(self.url, api_key, seconds=SECONDS)
        served = self._served()
        if model and model not in served:
            what = tr("vLLM does not serve {model!r}", model=model)
            raise UserError(what, self.url, did_you_mean(model, served))
        self.model = model or served[0]

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        """Ids of each prompt, or what vLLM said of turns that its chat template does not take. Raises UserError when
        vLLM cannot be asked or answers no ids.
        """
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(self._answer, batch))

    def stop_ids(self) -> None:
        """It does not say at which ids it ends an answer: it takes them from `generation_config.json`."""

    def close(self) -> None:
        """Nothing is held between two requests."""

    def _answer(self, prompt: ChatPrompt) -> list[int] | str:
        try:
            return self._ids(prompt)
        except _TurnsRefused as error:
            return error.what

    def _ids(self, prompt: ChatPrompt) -> list[int]:
        body = {
            **openai_body(prompt, REASONING),
            "model": self.model,
            "add_generation_prompt": True,
            "add_special_tokens": False,  # the template writes them
        }
        if self._chat_template:
            body["chat_template"] = self._chat_template
        answer = self._ask("/tokenize", body)
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(type(token_id) is int for token_id in ids):
            raise self._not_vllm("/tokenize")
        return ids

    def _served(self) -> list[str]:
        answer = self._ask("/v1/models")
        rows = answer.get("data") if isinstance(answer, dict) else None
        ids = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        names = [name for name in ids if isinstance(name, str)]
        if not names:
            raise self._not_vllm("/v1/models")
        return names

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        where = self.url + path
        try:
            reply = self._client.fetch("GET" if body is None else "POST", path, body)
        except Unreachable as error:
            what = tr("vLLM cannot be reached: {reason}", reason=error)
            hint = tr("start it with `vllm serve MODEL --host 127.0.0.1`")
            raise UserError(what, self.url, hint) from error
        except ServerError as error:
            what = tr("vLLM breaks off: {reason}", reason=error)
            raise UserError(what, where, tr("look at what vLLM prints")) from error
        if reply.status != 200:
            raise self._refused(path, reply.status, error_message(reply))
        try:
            return reply.json()
        except ServerError as error:
            raise self._not_vllm(path) from error

    def _refused(self, path: str, status: int, reason: str) -> UserError:
        where = self.url + path
        if status in (401, 403):
            what = tr("vLLM refuses the key ({status})", status=status)
            hint = tr("give the key that it was started with (--api-key)")
            return UserError(what, where, hint)
        if status in (404, 405) and "does not exist" not in reason:
            return self._not_vllm(path)
        what = tr("vLLM answers {status}: {reason}", status=status, reason=reason)
        return _TurnsRefused(what, where) if status == 400 else UserError(what, where)

    def _not_vllm(self, path: str) -> UserError:
        what = tr("the server here is not vLLM: it has no {path}", path=path)
        hint = tr("give the address that `vllm serve` prints")
        return UserError(what, self.url, hint)


class _TurnsRefused(UserError):
    """What vLLM says when the chat template raises."""


def _strip_api_path(url: str) -> str:
    """The address without a path that clients of the API give with it."""
    address, path = parse_address(url)
    return address + path.removesuffix("/v1")
