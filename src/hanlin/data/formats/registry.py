"""All formats: by stage, and in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hanlin.data.formats.base import Format
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS

FORMATS_BY_STAGE: dict[str, Sequence[Format[Any]]] = {
    "unpaired_preferences": UNPAIRED_FORMATS,
    "preferences": PREFERENCE_FORMATS,
    "conversations": CHAT_FORMATS,
    "corpus": DOCUMENT_FORMATS,
}
"""Formats by the stage that reads them. The order matters: a pair looks like a chat to some formats, and a chat like a
document."""
_ALL_FORMATS: tuple[Format[Any], ...] = (*PREFERENCE_FORMATS, *UNPAIRED_FORMATS, *CHAT_FORMATS, *DOCUMENT_FORMATS)
ANY_FORMATS = tuple(candidate for candidate in _ALL_FORMATS if not candidate.is_second_use)
"""The formats of all stages, in the order in which they are tried, each row in that of its first use."""
