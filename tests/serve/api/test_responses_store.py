"""Stored responses: continued, read, listed, deleted, bounded, and seen by the key alone that made them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine
from hanlin.serve.api.responses.store import ResponseStore
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.errors import ApiError
from live_server import LiveServer, run_server
from taught_model import LESSONS

NAME, COUNT = LESSONS[0], LESSONS[4]


def test_a_stored_response_is_continued(server: LiveServer, opened: LoadedEngine) -> None:
    client = server.client()
    first = client.responses.create(model="tiny", input=NAME[0], instructions="不带到下一轮")
    second = client.responses.create(model="tiny", input=COUNT[0], previous_response_id=first.id)
    turns = [Message("user", NAME[0]), Message("assistant", first.output_text), Message("user", COUNT[0])]
    assert second.usage is not None and second.previous_response_id == first.id
    assert second.usage.input_tokens == len(opened.load_template().render(turns, prompt=True).ids)
    third = client.responses.input_tokens.count(model="tiny", input="!", previous_response_id=second.id)
    assert third.input_tokens > second.usage.input_tokens


def test_a_stored_response_is_read_listed_and_deleted(server: LiveServer) -> None:
    client = server.client()
    response = client.responses.create(model="tiny", input=NAME[0])
    assert client.responses.retrieve(response.id).output_text == NAME[1]
    (item,) = client.responses.input_items.list(response.id).data
    assert item.type == "message" and item.id
    referred: Any = [{"type": "item_reference", "id": item.id}]
    assert client.responses.create(model="tiny", input=referred).output_text == NAME[1]
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_a_streamed_response_is_stored_before_its_last_event(server: LiveServer) -> None:
    client = server.client()
    for event in client.responses.create(model="tiny", input=NAME[0], stream=True):
        if event.type == "response.completed":
            assert client.responses.retrieve(event.response.id).output_text == NAME[1]


def test_a_response_belongs_to_the_key_that_made_it(opened: LoadedEngine) -> None:
    with run_server(opened, AccessPolicy(("one", "two"))) as server:
        response = server.client("one").responses.create(model="tiny", input=NAME[0])
        assert server.client("one").responses.retrieve(response.id).id == response.id
        with pytest.raises(openai.NotFoundError):
            server.client("two").responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError):
            server.client("two").responses.create(model="tiny", input="?", previous_response_id=response.id)


def test_the_store_is_bounded_and_evicts_what_was_not_used_for_longest() -> None:
    def make(number: int, previous: int | None = None) -> dict[str, Any]:
        previous_id = None if previous is None else f"resp_{previous}"
        return {"id": f"resp_{number}", "previous_response_id": previous_id, "output": []}

    store = ResponseStore(max_responses=3)
    for number, previous in ((1, None), (2, 1), (3, None)):
        store.put("key", make(number, previous), [])
    assert len(store.get_chain("key", "resp_2")) == 2  # so 3 is now the oldest
    store.put("key", make(4), [])
    store.put("other", make(3), [])
    with pytest.raises(ApiError, match="resp_3"):
        store.get("key", "resp_3")
    small = ResponseStore(max_bytes=2000)
    for number in range(20):
        small.put("key", make(number), [{"id": "x", "text": "字" * 20}])
    kept = [number for number in range(20) if _is_stored(small, number)]
    assert kept and kept[-1] == 19 and kept == list(range(kept[0], 20)) and len(kept) < 5


def _is_stored(store: ResponseStore, number: int) -> bool:
    try:
        return store.get("key", f"resp_{number}") is not None
    except ApiError:
        return False
