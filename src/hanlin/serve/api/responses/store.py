"""Responses that were stored for `previous_response_id`, `GET` and `DELETE`: in memory, bounded, per API key."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError, clip_name

MAX_RESPONSES = 1000
MAX_BYTES = 32 * 2**20
_ITEM_BYTES = 400
"""What the index takes for an item, beside its JSON."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the input items that it answered, both as JSON in UTF-8.

    A response that continues another one holds its own input only; see `ResponseStore.get_chain`. `item_ids` are those
    of the input and the output.
    """

    response: bytes
    input_items: bytes
    previous_id: str | None
    item_ids: frozenset[str]

    @property
    def size(self) -> int:
        return len(self.response) + len(self.input_items) + _ITEM_BYTES * len(self.item_ids)

    def read_response(self) -> dict[str, Any]:
        response: dict[str, Any] = json.loads(self.response)
        return response

    def read_input(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.input_items)
        return items


class ResponseStore:
    """The newest responses of each API key; what is used again counts as new. Any thread may use it.

    Args:
        max_responses: Responses kept for each key.
        max_bytes: Bytes of JSON kept for each key.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._by_key: dict[str, OrderedDict[str, StoredResponse]] = {}
        self._sizes: dict[str, int] = {}
        self._owners: dict[str, dict[str, dict[str, None]]] = {}
        """By key and id of an item: the responses that hold it, the last stored one last."""
        self._lock = threading.Lock()

    def put(self, key: str, response: Mapping[str, Any], input_items: Sequence[Mapping[str, Any]]) -> None:
        """Store a response, and evict the oldest ones of this key beyond its bounds."""
        entry = StoredResponse(
            json.dumps(response, ensure_ascii=False).encode("utf-8", "surrogatepass"),
            json.dumps(input_items, ensure_ascii=False).encode("utf-8", "surrogatepass"),
            response["previous_response_id"],
            frozenset(item["id"] for item in (*input_items, *response["output"]) if isinstance(item.get("id"), str)),
        )
        with self._lock:
            responses = self._by_key.setdefault(key, OrderedDict())
            responses[response["id"]] = entry
            self._sizes[key] = self._sizes.get(key, 0) + entry.size
            owners = self._owners.setdefault(key, {})
            for item_id in entry.item_ids:
                owners.setdefault(item_id, {})[response["id"]] = None
            while len(responses) > self._max_responses or self._sizes[key] > self._max_bytes:
                self._remove(key, next(iter(responses)))

    def get(self, key: str, response_id: str) -> StoredResponse:
        """Raises ApiError (404) for a response that this key has not stored, or that was evicted or deleted."""
        with self._lock:
            entry = self._find(key, response_id)
            if entry is None:
                raise ApiError(404, _not_stored(response_id), param="response_id", code="response_not_found")
            self._by_key[key].move_to_end(response_id)
            return entry

    def get_chain(self, key: str, response_id: str) -> list[StoredResponse]:
        """A response and all that it continues, the oldest first.

        Raises:
            ApiError: 400 if one of them is no longer stored.
        """
        chain: list[tuple[str, StoredResponse]] = []
        next_id: str | None = response_id
        with self._lock:
            while next_id is not None:
                entry = self._find(key, next_id)
                if entry is None:
                    what = _not_stored(next_id)
                    raise ApiError(400, what, param="previous_response_id", code="previous_response_not_found")
                chain.append((next_id, entry))
                next_id = entry.previous_id
            for entry_id, _ in reversed(chain):
                self._by_key[key].move_to_end(entry_id)
        return [entry for _, entry in reversed(chain)]

    def find_items(self, key: str, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The items of these ids in the stored responses of this key; those that are not stored are left out.

        Each response is read once, however many of its items are asked for, and however often.
        """
        wanted: dict[str, tuple[StoredResponse, set[str]]] = {}
        with self._lock:
            owners = self._owners.get(key, {})
            for item_id in item_ids:
                if item_id in owners:
                    owner = next(reversed(owners[item_id]))
                    wanted.setdefault(owner, (self._by_key[key][owner], set()))[1].add(item_id)
        found: dict[str, dict[str, Any]] = {}
        for entry, ids in wanted.values():
            for item in (*entry.read_input(), *entry.read_response()["output"]):
                if item.get("id") in ids:
                    found.setdefault(item["id"], item)
        return found

    def delete(self, key: str, response_id: str) -> None:
        """Raises ApiError (404) as `get` does."""
        self.get(key, response_id)
        with self._lock:
            if self._find(key, response_id) is not None:
                self._remove(key, response_id)

    def _remove(self, key: str, response_id: str) -> None:
        entry, owners = self._by_key[key].pop(response_id), self._owners[key]
        self._sizes[key] -= entry.size
        for item_id in entry.item_ids:
            del owners[item_id][response_id]
            if not owners[item_id]:
                del owners[item_id]

    def _find(self, key: str, response_id: str) -> StoredResponse | None:
        return self._by_key[key].get(response_id) if key in self._by_key else None


def _not_stored(response_id: str) -> str:
    return tr("there is no stored response '{shown}'", shown=clip_name(response_id))
