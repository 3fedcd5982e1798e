"""All formats, by kind of record."""

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
