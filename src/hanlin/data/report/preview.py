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
from hanlin.data.formats.documents import DOCUMENT_FORMATS, ParsedText
from hanlin.data.formats.preferences import PREFERENCE_FORMATS, ParsedPreference
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS, ParsedUnpaired
from hanlin.data.io.encodings import InputFile
from hanlin.data.io.sources import SourceFile, list_files
from hanlin.data.ledger import Drop, describe_reason

Record = Document | Conversation | Preference | UnpairedPreference
ANY_FORMATS: tuple[Format[Any], ...] = (*PREFERENCE_FORMATS, *UNPAIRED_FORMATS, *CHAT_FORMATS, *DOCUMENT_FORMATS)
"""The order in which formats are tried: a pair looks like a chat to some, and a chat like a document."""
_RECORD_TYPES: tuple[type[Record], ...] = (Preference, UnpairedPreference, Conversation, Document)


def read_first_records(path: Path) -> Iterator[Record | UserError]:
    """The records of a file, or of a folder such as an artifact; a row that holds none comes as the error that says so.

    Records that a stage wrote keep their ids, others are called `file#number` as the stages would. Raises UserError
    for what cannot be read at all, or is in no known format.
    """
    source = Source(path=str(path))
    for file in list_files([source], Inputs({"sources.0.path": (path,)})).files:
        own = _detect_own_record(file)
        yield from _parse_file(file) if own is None else read_jsonl(file.path, cast(Any, own))


def _detect_own_record(file: SourceFile) -> type[Record] | None:
    """Which record the first line is, where a stage wrote it: read and written again it is the same."""
    if file.path.suffix.lower() != ".jsonl":
        return None
    try:
        with file.path.open("rb") as lines:
            row = json.loads(next((line for line in lines if line.strip()), b"null"))
    except (OSError, ValueError):
        return None
    for kind in _RECORD_TYPES:
        try:
            if isinstance(row, dict) and isinstance(row.get("id"), str) and kind.from_json(row).to_json() == row:
                return kind
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
    return None


def _parse_file(file: SourceFile) -> Iterator[Record | UserError]:
    with InputFile(file.path) as tape:
        for found in open_records(file, tape, ANY_FORMATS, {}).rows:
            item, number, place = found.item, f"{file.name}#{found.record_number}", f"{file.name}:{found.line}"
            if isinstance(item, ParsedPreference):
                yield Preference(item.prompt, item.chosen, item.rejected, number, place)
            elif isinstance(item, ParsedUnpaired):
                yield UnpairedPreference(item.prompt, item.answer, item.good, number, place)
            elif isinstance(item, ParsedChat):
                yield Conversation(item.messages, number, place, item.tools)
            elif isinstance(item, ParsedText):
                yield Document(item.text, number, place)
            elif isinstance(item, Drop):
                detail = f" ({item.detail})" if item.detail else ""
                yield UserError(describe_reason(item.reason) + detail, place)
