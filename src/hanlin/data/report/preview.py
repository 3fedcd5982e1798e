"""The first records of any file (pairs, judged answers, chats or plain text), in any format that the stages read.

Owns finding out which of them it is. Does not clean or judge: a row stands here as it stands in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference, read_jsonl
from hanlin.data.formats.base import Format
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.documents import DOCUMENT_FORMATS, FoundText
from hanlin.data.formats.preferences import PAIR_FORMATS, Pair
from hanlin.data.formats.turns import Chat
from hanlin.data.formats.unpaired_preferences import JUDGED_FORMATS, Judged
from hanlin.data.io.encodings import Tape
from hanlin.data.io.sources import SourceFile, listing
from hanlin.data.ledger import Drop, reason_text

Record = Document | Conversation | Preference | UnpairedPreference
ANY_FORMATS: tuple[Format[Any], ...] = (*PAIR_FORMATS, *JUDGED_FORMATS, *CHAT_FORMATS, *DOCUMENT_FORMATS)
"""The order in which formats are tried: a pair looks like a chat to some, and a chat like a document."""
_OWN: tuple[type[Record], ...] = (Preference, UnpairedPreference, Conversation, Document)


def first_records(path: Path) -> Iterator[Record | UserError]:
    """The records of a file, or of a folder such as an artifact; a row that holds none comes as the error that says so.

    Records that a stage wrote keep their ids, others are called `file#number` as the stages would. Raises UserError
    for what cannot be read at all, or is in no known format.
    """
    source = Source(path=str(path))
    for file in listing([source], Inputs({"sources.0.path": (path,)})).files:
        own = _own_record(file)
        yield from _found(file) if own is None else read_jsonl(file.path, cast(Any, own))


def _own_record(file: SourceFile) -> type[Record] | None:
    """Which record the first line is, where a stage wrote it: read and written again it is the same."""
    if file.path.suffix.lower() != ".jsonl":
        return None
    try:
        with file.path.open("rb") as lines:
            row = json.loads(next((line for line in lines if line.strip()), b"null"))
    except (OSError, ValueError):
        return None
    for kind in _OWN:
        try:
            if isinstance(row, dict) and isinstance(row.get("id"), str) and kind.from_json(row).to_json() == row:
                return kind
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
    return None


def _found(file: SourceFile) -> Iterator[Record | UserError]:
    with Tape(file.path) as tape:
        for found in open_records(file, tape, ANY_FORMATS, {}).finds:
            item, number, place = found.item, f"{file.name}#{found.number}", f"{file.name}:{found.line}"
            if isinstance(item, Pair):
                yield Preference(item.prompt, item.chosen, item.rejected, number, place)
            elif isinstance(item, Judged):
                yield UnpairedPreference(item.prompt, item.answer, item.good, number, place)
            elif isinstance(item, Chat):
                yield Conversation(item.messages, number, place, item.tools)
            elif isinstance(item, FoundText):
                yield Document(item.text, number, place)
            elif isinstance(item, Drop):
                detail = f" ({item.detail})" if item.detail else ""
                yield UserError(reason_text(item.reason) + detail, place)
