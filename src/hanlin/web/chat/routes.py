"""Routes of the chat: its page, conversations, messages, presets, models, training data.

Answers come from `/v1/chat/completions` of the same server; the page stores them here.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError
from hanlin.web.bodies import read_body
from hanlin.web.chat.bodies import (
    ConversationChange,
    MessageChange,
    ModelChoice,
    NewMessages,
    Preset,
)
from hanlin.web.chat.models import describe_models, load_model
from hanlin.web.chat.store import ChatStore
from hanlin.web.chat.training_data import Export, describe_left_out, export_conversations, export_preferences
from hanlin.web.chat.transcript import write_markdown
from hanlin.web.frame import Frame

SCRIPTS = tuple(f"chat/{name}.js" for name in ("chat", "turn", "sidebar", "settings", "answer", "markdown"))
FILE_NAME = "chats.sqlite"
MAX_LISTED = 500
"""Conversations of the list; a search finds the others."""
EXPORTS: dict[str, Callable[..., Export]] = {
    "conversations": export_conversations,
    "preferences": export_preferences,
}
"""What is written of conversations, by the name of its file."""


class ChatFiles:
    """The files of the chat in the page's own folder: the store, opened when it is first used, and training data."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._store: ChatStore | None = None
        self._lock = threading.RLock()

    @property
    def store(self) -> ChatStore:
        with self._lock:
            if self._store is None:
                self._store = ChatStore(self._frame.own_folder / FILE_NAME)
            return self._store

    def write_training_data(self, owner: str) -> dict[str, Any]:
        """Write all conversations and preference pairs of an owner; each file has a name of the owner's own."""
        return {name: self._write(name, EXPORTS[name], owner) for name in EXPORTS}

    def write_preferences(self, owner: str) -> dict[str, Any]:
        """Write the preference pairs of an owner again, after a thumb or a better answer."""
        return self._write("preferences", export_preferences, owner)

    def _write(self, name: str, make_export: Callable[..., Export], owner: str) -> dict[str, Any]:
        with self._lock:  # the last one that writes has read the last change
            export = make_export(self.read_all(owner, name))
            path = self._frame.own_folder / (f"{name}-{owner[:8]}.jsonl" if owner else f"{name}.jsonl")
            export.write(path)
        shown = path.relative_to(self._frame.folder).as_posix()
        return {"file": shown, "rows": len(export.rows), "left_out": describe_left_out(export.left_out)}

    def read_all(self, owner: str, name: str) -> list[dict[str, Any]]:
        """The conversations of an owner that an export of `EXPORTS` is made from, the oldest first."""
        if name == "preferences":
            ids = self.store.list_rated(owner)
        else:
            ids = [row["id"] for row in reversed(self.store.list_conversations(owner))]
        return [self.store.read_conversation(owner, conversation) for conversation in ids]


def find_owner(request: Request) -> str:
    """Whose conversations a request is about: a digest of its key, so that no key is in a file; '' without keys."""
    key = getattr(request.state, "owner", "")
    return hashlib.sha256(key.encode()).hexdigest()[:32] if key else ""


def make_router(frame: Frame) -> APIRouter:
    """The page of the chat, and its data as JSON."""
    router = APIRouter(prefix="/ui/chat")
    files = ChatFiles(frame)

    @router.get("")
    def show_chat(request: Request) -> Response:
        return frame.render(request, "chat/chat.html", view="chat", scripts=SCRIPTS)

    @router.get("/models")
    def list_models() -> dict[str, Any]:
        return describe_models(frame)

    @router.post("/models", dependencies=[Depends(frame.require_start_token)])
    async def start_loading(request: Request) -> dict[str, Any]:
        body = await read_body(request, ModelChoice)
        await run_sync(load_model, frame, body.path)
        return await run_sync(describe_models, frame)

    _add_conversation_routes(router, files)
    _add_message_routes(router, files)

    @router.get("/presets")
    def list_presets(request: Request) -> dict[str, Any]:
        return files.store.list_presets(find_owner(request))

    @router.put("/presets", status_code=204)
    async def save_preset(request: Request) -> None:
        body = await read_body(request, Preset)
        await run_sync(files.store.save_preset, find_owner(request), body.name, body.sampling)

    @router.delete("/presets/{name:path}", status_code=204)
    def delete_preset(request: Request, name: str) -> None:
        files.store.save_preset(find_owner(request), name, None)

    @router.post("/training_data")
    def write_training_data(request: Request) -> dict[str, Any]:
        return files.write_training_data(find_owner(request))

    @router.get("/{name}.jsonl")
    def download(request: Request, name: str, conversation: str = "") -> Response:
        """Training data of all conversations, or of one, as a file to save."""
        if name not in EXPORTS:
            raise ApiError(404, "Not Found")
        owner = find_owner(request)
        chosen = [files.store.read_conversation(owner, conversation)] if conversation else files.read_all(owner, name)
        export = EXPORTS[name](chosen)
        if conversation and not export.rows:
            raise ApiError(409, "; ".join(describe_left_out(export.left_out)) or tr("there is nothing to export"))
        headers = {"Content-Disposition": f'attachment; filename="{name}.jsonl"'}
        return Response(export.text, media_type="application/jsonl; charset=utf-8", headers=headers)

    return router


def _add_conversation_routes(router: APIRouter, files: ChatFiles) -> None:
    @router.get("/conversations")
    def list_conversations(request: Request, text: str = "") -> dict[str, Any]:
        rows = files.store.list_conversations(find_owner(request), text[:200], MAX_LISTED)
        return {"conversations": rows, "limit": MAX_LISTED}

    @router.get("/conversations/{conversation}.md")
    def download_transcript(request: Request, conversation: str) -> Response:
        """A conversation as Markdown, as a file to save."""
        text = write_markdown(files.store.read_conversation(find_owner(request), conversation))
        headers = {"Content-Disposition": 'attachment; filename="conversation.md"'}
        return Response(text.encode("utf-8", "replace"), media_type="text/markdown; charset=utf-8", headers=headers)

    @router.get("/conversations/{conversation}")
    def read_conversation(request: Request, conversation: str) -> dict[str, Any]:
        return files.store.read_conversation(find_owner(request), conversation)

    @router.patch("/conversations/{conversation}", status_code=204)
    async def change_conversation(request: Request, conversation: str) -> None:
        body = await read_body(request, ConversationChange)
        await run_sync(
            files.store.update_conversation, find_owner(request), conversation, body.title, body.settings, body.leaf
        )

    @router.delete("/conversations/{conversation}", status_code=204)
    def delete_conversation(request: Request, conversation: str) -> None:
        owner = find_owner(request)
        files.store.delete_conversation(owner, conversation)
        files.write_preferences(owner)


def _add_message_routes(router: APIRouter, files: ChatFiles) -> None:
    @router.post("/conversations/{conversation}/messages")
    async def add_messages(request: Request, conversation: str) -> dict[str, Any]:
        """Store a question with the answers that are begun, in a conversation that may begin with them.

        The page sends it beside the request to the model, so that nobody waits for the disk.
        """
        body = await read_body(request, NewMessages)
        owner = find_owner(request)
        if body.new is not None and not re.fullmatch("[0-9a-f]{32}", conversation):
            raise ApiError(400, tr("an id has 32 hexadecimal digits"))
        new = None if body.new is None else (body.new.title, body.new.settings)
        messages = [message.model_dump() for message in body.messages]
        store = files.store.add_messages
        return {"messages": await run_sync(store, owner, conversation, messages, body.leaf, new)}

    @router.patch("/messages/{message}")
    async def change_message(request: Request, message: str) -> dict[str, Any]:
        """The message as it is then; after a thumb or a better form also the file of preference pairs."""
        body = await read_body(request, MessageChange)
        owner = find_owner(request)
        fields = body.model_dump(exclude_unset=True, exclude_none=True)
        if fields.get("better") == "":
            fields["better"] = None

        def change() -> dict[str, Any]:
            changed = {"message": files.store.update_message(owner, message, **fields)}
            if {"rating", "better"} & fields.keys():
                changed["preferences"] = files.write_preferences(owner)
            return changed

        return await run_sync(change)
