"""The stage `unpaired_preferences`: single answers with a verdict, of any format, become checked unpaired_preferences.

Owns what makes a judged answer worth learning from. Reading, copies and the account are `sifting`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Dedup, UnpairedPreferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import UnpairedPreference
from hanlin.data.filters.blocklist import word_list_rules
from hanlin.data.filters.conversation import characters, clean_turns, guessed_turns, read_aloud, said, unanswerable
from hanlin.data.filters.rules import text_rules
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.formats.preferences import PAIR_FORMATS
from hanlin.data.formats.unpaired_preferences import JUDGED_FORMATS, Judged
from hanlin.data.ingest.ingest import sift
from hanlin.data.ingest.spec import Origin, Sieve
from hanlin.data.ledger import Drop
from hanlin.data.text.script import converter


def run(settings: UnpairedPreferences, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `unpaired_preferences.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Dropped are empty answers and prompts that no chat template takes. The same answer with another verdict is no copy.
    Raises UserError like `sift`.
    """
    return sift(sieve, settings, inputs, out, context)


def sieve(settings: UnpairedPreferences, inputs: Inputs) -> Sieve[Judged, UnpairedPreference]:
    """How this stage reads and judges. Raises UserError for a list of words that cannot be read."""
    rules = [*text_rules(settings.rules), *word_list_rules(settings.blocklists, inputs)]
    convert = converter(settings.convert)

    def judge(found: Judged, origin: Origin) -> tuple[UnpairedPreference, tuple[str, ...]] | Drop:
        turns, marks = guessed_turns((*found.prompt, found.answer), settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert)
        if isinstance(cleaned, Drop):
            return cleaned
        (*prompt, answer), changed = cleaned
        wrong = unanswerable(prompt, answer)
        if wrong is not None:
            return wrong
        length = characters((*prompt, answer))
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        meta = origin.meta({**found.meta, **marks})
        return UnpairedPreference(tuple(prompt), answer, found.good, origin.id, origin.source, meta), changed

    return Sieve(
        record=UnpairedPreference,
        file_name="unpaired_preferences.jsonl",
        formats=lambda file: JUDGED_FORMATS,
        elsewhere={"corpus": DOCUMENT_FORMATS, "conversations": CHAT_FORMATS, "preferences": PAIR_FORMATS},
        judge=judge,
        content=lambda judged: f"{judged.good}\x1f{said((*judged.prompt, judged.answer))}",
        text=lambda judged: read_aloud((*judged.prompt, judged.answer)),
        side=lambda judged: judged.prompt[-1].text,
        characters=lambda judged: characters((*judged.prompt, judged.answer)),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )
