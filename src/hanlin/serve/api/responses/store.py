"""Responses that were stored for `previous_response_id`, `GET` and `DELETE`: in memory, bounded, per API key."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError

MAX_RESPONSES = 1000
MAX_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the input items that it answered, both as JSON in UTF-8.

    A response that continues another one holds its own input only; see `ResponseStore.get_chain`.
    """

    response: bytes
    input_items: bytes
    previous_id: str | None

    @property
    def size(self) -> int:
        return len(self.response) + len(self.input_items)

    def read_response(self) -> dict[str, Any]:
        response: dict[str, Any] = json.loads(self.response)
        return response

    def read_input(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.input_items)
        return items


class ResponseStore:
    """The newest responses of each API key; what is used again counts as new. Runs on the event loop's thread.

    Args:
        max_responses: Responses kept for each key.
        max_bytes: Bytes of JSON kept for each key.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._by_key: dict[str, OrderedDict[str, StoredResponse]] = {}
        self._sizes: dict[str, int] = {}

    def put(self, key: str, response: Mapping[str, Any], input_items: Sequence[Mapping[str, Any]]) -> None:
        """Store a response, and evict the oldest ones of this key beyond its bounds."""
        entry = StoredResponse(
            json.dumps(response, ensure_ascii=False).encode("utf-8", "surrogatepass"),
            json.dumps(input_items, ensure_ascii=False).encode("utf-8", "surrogatepass"),
            response["previous_response_id"],
        )
        responses = self._by_key.setdefault(key, OrderedDict())
        responses[response["id"]] = entry
        self._sizes[key] = self._sizes.get(key, 0) + entry.size
        while len(responses) > self._max_responses or self._sizes[key] > self._max_bytes:
            _, evicted = responses.popitem(last=False)
            self._sizes[key] -= evicted.size

    def get(self, key: str, response_id: str) -> StoredResponse:
        """Raises ApiError (404) for a response that this key has not stored, or that was evicted or deleted."""
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

    def find_item(self, key: str, item_id: str) -> dict[str, Any] | None:
        """The item of this id in any stored response of this key."""
        marker = json.dumps(item_id, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for entry in reversed(self._by_key.get(key, OrderedDict()).values()):
            if marker in entry.response or marker in entry.input_items:
                items = [*entry.read_input(), *entry.read_response()["output"]]
                if found := next((item for item in items if item.get("id") == item_id), None):
                    return found
        return None

    def delete(self, key: str, response_id: str) -> None:
        """Raises ApiError (404) as `get` does."""
        entry = self.get(key, response_id)
        del self._by_key[key][response_id]
        self._sizes[key] -= entry.size

    def _find(self, key: str, response_id: str) -> StoredResponse | None:
        return self._by_key[key].get(response_id) if key in self._by_key else None


def _not_stored(response_id: str) -> str:
    shown = response_id if len(response_id) <= 100 else response_id[:97] + "..."
    return tr("there is no stored response '{shown}'", shown=shown)
