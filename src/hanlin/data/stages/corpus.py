"""The stage `corpus`: files of text become clean documents without copies.

Owns how a found text is judged. Reading, copies and the account are `sifting`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Document
from hanlin.data.filters.blocklist import build_blocklist_rules
from hanlin.data.filters.mojibake import GuessedText, guess_lost_bytes
from hanlin.data.filters.rules import build_text_rules, clean_text
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import DOCUMENT_FORMATS, TITLED_FORMATS, ParsedText
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.ingest.ingest import sift
from hanlin.data.ingest.spec import Origin, Sieve
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: Corpus, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `documents.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Raises UserError like `sift`.
    """
    return sift(sieve, settings, inputs, out, context)


def sieve(settings: Corpus, inputs: Inputs) -> Sieve[ParsedText, Document]:
    """How this stage reads and judges. Raises UserError for a list of words that cannot be read."""
    rules = [*build_text_rules(settings.rules), *build_blocklist_rules(settings.blocklists, inputs)]
    convert = load_converter(settings.convert)

    def judge(found: ParsedText, origin: Origin) -> tuple[Document, tuple[str, ...]] | Drop:
        filled = guess_lost_bytes(found.text) if settings.lost_characters == "guess" else GuessedText(found.text, 0, 0)
        cleaned = clean_text(filled.text, rules)
        if isinstance(cleaned, Drop):
            return cleaned
        text, changed = cleaned
        converted = convert(text)
        if converted != text:
            text, changed = converted, (*changed, "convert")
        length = len(text.strip())
        if length < settings.min_chars:
            return Drop("too_short", f"{length} characters")
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        return Document(text, origin.id, origin.source, origin.meta({**found.meta, **filled.meta})), changed

    return Sieve(
        record=Document,
        file_name="documents.jsonl",
        formats=lambda file: TITLED_FORMATS if "title" in file.settings.fields else DOCUMENT_FORMATS,
        other_formats={"conversations": CHAT_FORMATS, "preferences": PREFERENCE_FORMATS},
        judge=judge,
        content=lambda document: document.text,
        text=lambda document: document.text,
        side=lambda document: document.text,
        characters=lambda document: len(document.text),
        dedup=settings.dedup,
        validation_fraction=settings.validation_fraction,
    )
