"""The records of any file in any format that the stages read, without cleaning: each as it is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hanlin.config.reasons import describe_reason
from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.core.files import open_regular, parse_json
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference, read_jsonl
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.documents import ParsedText
from hanlin.data.formats.preferences import ParsedPreference
from hanlin.data.formats.registry import ANY_FORMATS
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.unpaired_preferences import ParsedUnpaired
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile, list_files
from hanlin.data.ledger import Drop

Record = Document | Conversation | Preference | UnpairedPreference
_RECORD_TYPES: tuple[type[Record], ...] = (Preference, UnpairedPreference, Conversation, Document)


def read_first_records(path: Path) -> Iterator[Record | UserError]:
    """Read the records of a file, or of a folder such as an artifact.

    Records that a stage wrote keep their ids; others get `file#number` as in the stages.

    Yields:
        Records; for a row that holds none, the UserError that says why.

    Raises:
        UserError: A file cannot be read at all, or is in no known format.
    """
    source = Source(path=str(path))
    for file in list_files([source], Inputs({"sources.0.path": (path,)})).files:
        record_type = _detect_own_record(file)
        yield from _parse_file(file) if record_type is None else read_jsonl(file.path, cast(Any, record_type))


def _detect_own_record(file: SourceFile) -> type[Record] | None:
    """Detect which record a stage wrote in the first line: read and written again it is the same. None if none."""
    if file.path.suffix.lower() != ".jsonl":
        return None
    try:
        with open_regular(file.path) as lines:
            row = parse_json(next((line for line in lines if line.strip()), b"null"))
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
    with InputFile(file.path) as input_file:
        for parsed in open_records(file, input_file, ANY_FORMATS).rows:
            item, record_id, location = parsed.item, f"{file.name}#{parsed.record_number}", f"{file.name}:{parsed.line}"
            if isinstance(item, ParsedPreference):
                yield Preference(item.prompt, item.chosen, item.rejected, record_id, location, {}, item.tools)
            elif isinstance(item, ParsedUnpaired):
                yield UnpairedPreference(item.prompt, item.answer, item.good, record_id, location, {}, item.tools)
            elif isinstance(item, ParsedChat):
                yield Conversation(item.messages, record_id, location, item.tools)
            elif isinstance(item, ParsedText):
                yield Document(item.text, record_id, location)
            elif isinstance(item, Drop):
                detail = f" ({item.detail})" if item.detail else ""
                yield UserError(describe_reason(item.reason) + detail, location)
