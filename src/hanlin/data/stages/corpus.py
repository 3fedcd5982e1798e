"""The stage `corpus`: turn files of text into clean documents without duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Document
from hanlin.data.filters.blocklist import build_blocklist_rules
from hanlin.data.filters.mojibake import GuessedText, guess_lost_bytes
from hanlin.data.filters.rules import build_quality_rules, build_text_rules, clean_text
from hanlin.data.formats.base import Format
from hanlin.data.formats.documents import DOCUMENT_FORMATS, TITLED_FORMATS, ParsedText
from hanlin.data.ingest.ingest import ingest
from hanlin.data.ingest.spec import DatasetSpec, Origin
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: Corpus, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `documents.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Raises:
        UserError: As `ingest`.
    """
    return ingest(build_spec, settings, inputs, out, context)


def _load_other_formats() -> dict[str, Sequence[Format[Any]]]:
    """Load the formats of chats and preferences, which only a message needs and which take 40 ms to import."""
    from hanlin.data.formats.chats import CHAT_FORMATS
    from hanlin.data.formats.preferences import PREFERENCE_FORMATS

    return {"conversations": CHAT_FORMATS, "preferences": PREFERENCE_FORMATS}


def build_spec(settings: Corpus, inputs: Inputs) -> DatasetSpec[ParsedText, Document]:
    """Build the spec of the stage. Raises UserError if a blocklist or the quality model cannot be read."""
    rules = [
        *build_text_rules(settings.rules),
        *build_blocklist_rules(settings.blocklists, inputs),
        *build_quality_rules(settings.quality, inputs),
    ]
    convert = load_converter(settings.convert)

    def process(parsed: ParsedText, origin: Origin) -> tuple[Document, tuple[str, ...]] | Drop:
        guessed = (
            guess_lost_bytes(parsed.text) if settings.lost_characters == "guess" else GuessedText(parsed.text, 0, 0)
        )
        cleaned = clean_text(guessed.text, rules)
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
        return Document(text, origin.id, origin.source, origin.add_license({**parsed.meta, **guessed.meta})), changed

    return DatasetSpec(
        record_type=Document,
        file_name="documents.jsonl",
        formats=lambda file: TITLED_FORMATS if "title" in file.settings.fields else DOCUMENT_FORMATS,
        other_formats=_load_other_formats,
        process=process,
        exact_text=lambda document: document.text,
        full_text=lambda document: document.text,
        split_text=lambda document: document.text,
        count_characters=lambda document: len(document.text),
        dedup=settings.dedup,
        validation_fraction=settings.validation_fraction,
        min_chars=settings.min_chars,
    )
