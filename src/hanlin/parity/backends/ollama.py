"""Ollama: the ids of the prompt that it would feed its llama.cpp for a chat request.

This module does what Ollama does around the template. Go itself renders the template, by `render.go`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hanlin.chat.template_data import to_template_messages, to_template_tools
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import run_process
from hanlin.core.records import Message
from hanlin.parity.backends.base import BackendUnavailable, ChatPrompt
from hanlin.parity.modelfile import Modelfile, read_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer


class OllamaBackend:
    """A Modelfile as Ollama serves it.

    As in Ollama: SYSTEM comes before turns without a system text, MESSAGEs before them all; turns of one role in a row
    are joined by a blank line; the text is never trimmed; special tokens in it are parsed, whoever wrote them; the
    begin token is added if the tokenizer adds one, even if the template wrote it too. Unlike Ollama, nothing is cut
    from a conversation that is longer than `num_ctx`.
    """

    name = "modelfile"

    def __init__(self, modelfile: Path, tokenizer: Tokenizer, bare: bool = False) -> None:
        """With `bare`, the template alone is asked, without what the Modelfile says before a chat (SYSTEM, MESSAGE).

        Raises UserError for what is no Modelfile, or one whose prompts a TEMPLATE does not decide.
        """
        self._file = read_modelfile(modelfile)
        self._tokenizer = tokenizer
        self._bare = bare
        self._template = _template_of(self._file)

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        """The ids of each prompt, or why the template refuses it.

        Raises Unavailable where Go is not installed, and UserError when Go cannot read the template.
        """
        rows = self._rendered(batch)
        return [row["error"] if row.get("error") else self._ids(row["text"]) for row in rows]

    def texts(self, batch: Sequence[ChatPrompt]) -> list[str]:
        """The text of each prompt before it becomes ids, or why the template refuses it; raises as `prompts`."""
        return [row.get("error") or row["text"] for row in self._rendered(batch)]

    def stop_ids(self) -> frozenset[int]:
        """The ids of the stop texts that are tokens; Ollama ends at those of the GGUF file as well."""
        numbers = [self._tokenizer.token_id(stop) for stop in self._file.stops]
        return frozenset(number for number in numbers if number is not None)

    def close(self) -> None:
        """Nothing is held: Go ends with each batch."""

    def _rendered(self, batch: Sequence[ChatPrompt]) -> list[dict[str, Any]]:
        rows = [
            {
                "messages": self._messages(prompt.messages),
                "tools": to_template_tools(prompt.tools),
                "think": prompt.thinking,
            }
            for prompt in batch
        ]
        reply = _render({"template": self._template, "inputs": rows})
        if reply.get("refused"):
            what = tr("Go refuses its TEMPLATE: {refused}", refused=reply["refused"])
            raise UserError(what, self._file.path)
        rendered: list[dict[str, Any]] = reply["prompts"]
        return rendered

    def _messages(self, turns: Sequence[Message]) -> list[dict[str, Any]]:
        """The turns of a request in the fields of Go, with what the Modelfile puts before them."""
        before = [] if self._bare else [Message(role, text) for role, text in self._file.messages]  # type: ignore[arg-type]
        if self._file.system and not self._bare and turns[0].role != "system":
            before.insert(0, Message("system", self._file.system))
        rows = to_template_messages([*before, *turns])
        names = {"role": "Role", "content": "Content", "tool_calls": "ToolCalls", "name": "ToolName"}
        names |= {"reasoning_content": "Thinking", "tool_call_id": "ToolCallID"}
        return [{names[name]: value for name, value in row.items()} for row in rows]

    def _ids(self, text: str) -> list[int]:
        """Ids as llama.cpp gives them with special tokens read: the text is cut at every one of them, the longest
        first, and what lies between is encoded apart, with SentencePiece's space before each stretch.
        """
        tokenizer = self._tokenizer
        pieces: list[str | int] = [text]
        for token in sorted(tokenizer.added_tokens, key=len, reverse=True):
            if token in text:
                pieces = [part for piece in pieces for part in _cut(piece, token, tokenizer.token_id(token))]
        ids = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else tokenizer.encode(piece)
        return ids


def _template_of(file: Modelfile) -> str:
    decided = [name for name in ("renderer", "parser") if name in file.others]
    if decided:
        name = decided[0].upper()
        what = tr("{name} lets Ollama render by its own code, not by TEMPLATE", name=name)
        raise UserError(what, file.path, tr("take {name} out", name=name))
    if file.template is None:
        what = tr("there is no TEMPLATE: Ollama would guess one")
        raise UserError(what, file.path, tr("write it with `write_modelfile`"))
    return file.template


def _cut(piece: str | int, token: str, number: int | None) -> list[str | int]:
    """A piece of text cut at a token, which becomes its id."""
    if isinstance(piece, int) or number is None:
        return [piece]
    parts: list[str | int] = []
    for part in piece.split(token):
        parts += [part, number] if part else [number]
    return parts[:-1]


# ------------------------------------------------------------------------------------------------------------- Go


def _render(request: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(request, ensure_ascii=False)
    renderer = _renderer()
    try:
        done = run_process([str(renderer)], input=text.encode(), capture_output=True, timeout=600)
    except OSError as error:
        raise BackendUnavailable(tr("{renderer} cannot be run: {error}", renderer=renderer, error=error)) from error
    if done.returncode:
        raise RuntimeError(f"render.go failed: {done.stderr.decode(errors='replace').strip()}")
    reply: dict[str, Any] = json.loads(done.stdout.decode())
    return reply


def _renderer() -> Path:
    """`render.go` built, once for each of its texts; it lies in the user's cache. Raises Unavailable."""
    source = (resources.files("hanlin.parity") / "render.go").read_bytes()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hanlin"
    built = root / f"render-{platform.machine()}-{hashlib.sha256(source).hexdigest()[:16]}"
    if built.is_file():
        return built
    go = shutil.which("go")
    if go is None:
        raise BackendUnavailable(tr("Go is not installed, and only Go renders a Modelfile's template"))
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as work:
        (Path(work) / "render.go").write_bytes(source)
        settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "GOWORK": "off"}
        command = [go, "build", "-trimpath", "-o", "render", "render.go"]
        done = run_process(command, changes=settings, cwd=work, capture_output=True, timeout=600)
        if done.returncode:
            output = done.stderr.decode(errors="replace").strip()
            raise BackendUnavailable(tr("Go cannot build render.go: {output}", output=output))
        os.replace(Path(work) / "render", built)
    return built
