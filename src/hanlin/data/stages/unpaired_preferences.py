"""The stage `unpaired_preferences`: single answers with a verdict, of any format, become checked unpaired_preferences.

Owns what makes a judged answer worth learning from. Reading, copies and the account are `sifting`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Dedup, UnpairedPreferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import UnpairedPreference
from hanlin.data.filters.blocklist import build_blocklist_rules
from hanlin.data.filters.conversation import (
    check_trainable,
    clean_turns,
    count_characters,
    guess_lost_chars,
    join_texts,
    serialize_turns,
)
from hanlin.data.filters.rules import build_text_rules
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS, ParsedUnpaired
from hanlin.data.ingest.ingest import sift
from hanlin.data.ingest.spec import Origin, Sieve
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: UnpairedPreferences, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `unpaired_preferences.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Dropped are empty answers and prompts that no chat template takes. The same answer with another verdict is no copy.
    Raises UserError like `sift`.
    """
    return sift(sieve, settings, inputs, out, context)


def sieve(settings: UnpairedPreferences, inputs: Inputs) -> Sieve[ParsedUnpaired, UnpairedPreference]:
    """How this stage reads and judges. Raises UserError for a list of words that cannot be read."""
    rules = [*build_text_rules(settings.rules), *build_blocklist_rules(settings.blocklists, inputs)]
    convert = load_converter(settings.convert)

    def judge(found: ParsedUnpaired, origin: Origin) -> tuple[UnpairedPreference, tuple[str, ...]] | Drop:
        turns, marks = guess_lost_chars((*found.prompt, found.answer), settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert)
        if isinstance(cleaned, Drop):
            return cleaned
        (*prompt, answer), changed = cleaned
        wrong = check_trainable(prompt, answer)
        if wrong is not None:
            return wrong
        length = count_characters((*prompt, answer))
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        meta = origin.meta({**found.meta, **marks})
        return UnpairedPreference(tuple(prompt), answer, found.good, origin.id, origin.source, meta), changed

    return Sieve(
        record=UnpairedPreference,
        file_name="unpaired_preferences.jsonl",
        formats=lambda file: UNPAIRED_FORMATS,
        other_formats={"corpus": DOCUMENT_FORMATS, "conversations": CHAT_FORMATS, "preferences": PREFERENCE_FORMATS},
        judge=judge,
        content=lambda judged: f"{judged.good}\x1f{serialize_turns((*judged.prompt, judged.answer))}",
        text=lambda judged: join_texts((*judged.prompt, judged.answer)),
        side=lambda judged: judged.prompt[-1].text,
        characters=lambda judged: count_characters((*judged.prompt, judged.answer)),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )
