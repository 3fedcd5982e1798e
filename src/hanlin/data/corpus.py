"""The stage `corpus`: files of text become clean documents without copies.

Owns how a found text is judged. Reading, copies and the account are `sifting`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.data.chats import CHAT_FORMATS
from hanlin.data.chinese import converter
from hanlin.data.clean import clean, text_rules
from hanlin.data.documents import DOCUMENT_FORMATS, TITLED_FORMATS, FoundText
from hanlin.data.ledger import Drop
from hanlin.data.mojibake import Guess, guess
from hanlin.data.pairs import PAIR_FORMATS
from hanlin.data.parts import Origin, Sieve
from hanlin.data.sifting import sift
from hanlin.data.word_lists import word_list_rules
from hanlin.job import Inputs, Job
from hanlin.records import Document
from hanlin.settings.data import Corpus


def run(settings: Corpus, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Write `documents.jsonl`, `heldout.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Raises UserError like `sift`.
    """
    return sift(sieve, settings, inputs, out, job)


def sieve(settings: Corpus, inputs: Inputs) -> Sieve[FoundText, Document]:
    """How this stage reads and judges. Raises UserError for a list of words that cannot be read."""
    rules = [*text_rules(settings.rules), *word_list_rules(settings.word_lists, inputs)]
    convert = converter(settings.convert)

    def judge(found: FoundText, origin: Origin) -> tuple[Document, tuple[str, ...]] | Drop:
        filled = guess(found.text) if settings.lost_characters == "guess" else Guess(found.text, 0, 0)
        cleaned = clean(filled.text, rules)
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
        return Document(text, origin.id, origin.source, origin.meta({**found.meta, **filled.marks})), changed

    return Sieve(
        record=Document,
        file_name="documents.jsonl",
        formats=lambda file: TITLED_FORMATS if "title" in file.settings.fields else DOCUMENT_FORMATS,
        elsewhere={"conversations": CHAT_FORMATS, "preferences": PAIR_FORMATS},
        judge=judge,
        content=lambda document: document.text,
        text=lambda document: document.text,
        side=lambda document: document.text,
        characters=lambda document: len(document.text),
        dedup=settings.dedup,
        heldout_share=settings.heldout_share,
    )
