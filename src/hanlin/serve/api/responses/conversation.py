"""The conversation that a request continues: stored turns, and the items that it refers to."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.serve.api.responses.items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    ItemReference,
    read_items,
    to_messages,
)
from hanlin.serve.api.responses.schemas import PromptBody
from hanlin.serve.api.responses.store import ResponseStore, StoredResponse
from hanlin.serve.errors import ApiError, clip_name

_ID_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class StoredConversation:
    """What a request continues. Made and read in a worker thread.

    Args:
        body: The request.
        store: Stored responses.
        key: The API key whose responses may be used.

    Raises:
        ApiError: 400 for a response or an item that is not stored.
    """

    def __init__(self, body: PromptBody, store: ResponseStore, key: str) -> None:
        self._body = body
        self._chain: list[StoredResponse] = []
        if body.previous_response_id is not None:
            self._chain = store.get_chain(key, body.previous_response_id)
        self.input_items = _resolve(body.input_items, store, key)

    def to_messages(self) -> list[Message]:
        """The instructions of this request, the stored turns, and the input.

        Raises:
            ApiError: 400 as `items.to_messages`, and for an output of a call that comes nowhere before it.
        """
        system = [Message("system", self._body.instructions)] if self._body.instructions else []
        stored = [row for entry in self._chain for row in (*entry.read_input(), *entry.read_response()["output"])]
        stored_items = read_items.validate_python(stored) if stored else []
        before = to_messages(stored_items, "previous_response_id")
        _check_outputs(stored_items, self.input_items)
        return [*system, *before, *to_messages(self.input_items)]

    def store_input(self) -> list[dict[str, Any]]:
        """The input items with an id each, as they are stored and listed."""
        rows = [item.model_dump(exclude_none=True) for item in self.input_items]
        return [row if row.get("id") else {"id": _new_item_id(row), **_with_parts(row)} for row in rows]


def _check_outputs(stored: Sequence[InputItem], items: Sequence[InputItem]) -> None:
    """Refuse what a tool returned if no call of that id comes before it, as OpenAI does."""
    call_ids = {item.call_id for item in stored if isinstance(item, FunctionCallItem)}
    for index, item in enumerate(items):
        if isinstance(item, FunctionCallItem):
            call_ids.add(item.call_id)
        elif isinstance(item, FunctionCallOutputItem) and item.call_id not in call_ids:
            what = tr(
                "no function_call with the call_id '{shown}' comes before its output", shown=clip_name(item.call_id)
            )
            raise ApiError(400, what, param=f"input.{index}.call_id")


def _resolve(items: Sequence[InputItem], store: ResponseStore, key: str) -> list[InputItem]:
    """The items, those that are referred to in the place of the references."""
    references = [(index, item) for index, item in enumerate(items) if isinstance(item, ItemReference)]
    found = store.find_items(key, {item.id for _, item in references})
    read: dict[str, InputItem] = {}  # an item that is referred to often is one object
    resolved = [*items]
    for index, item in references:
        if item.id not in found:
            what = tr("there is no stored item '{shown}'", shown=clip_name(item.id))
            raise ApiError(400, what, param=f"input.{index}.id", code="item_not_found")
        if item.id not in read:
            read[item.id] = read_items.validate_python([found[item.id]])[0]
        resolved[index] = read[item.id]
    return resolved


def _new_item_id(row: Mapping[str, Any]) -> str:
    return f"{_ID_PREFIXES.get(row.get('type', ''), 'item')}_{uuid.uuid4().hex}"


def _with_parts(row: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is a text, with the text as its only part."""
    if row.get("type") != "message" or not isinstance(row["content"], str):
        return row
    kind = "output_text" if row["role"] == "assistant" else "input_text"
    return {**row, "status": "completed", "content": [{"type": kind, "text": row["content"]}]}
