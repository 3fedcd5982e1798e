"""The stage `preferences`: preference pairs of any format become checked pairs.

Owns what makes a pair worth learning from. Reading, copies and the account are `sifting`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Dedup, Preferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Preference
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
from hanlin.data.formats.preferences import PREFERENCE_FORMATS, ParsedPreference
from hanlin.data.ingest.ingest import sift
from hanlin.data.ingest.spec import Origin, Sieve
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: Preferences, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `preferences.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Dropped are pairs with an empty or the same answer, with equal scores (unless `keep_ties`), with a lower score for
    the chosen answer, and with prompts that no chat template takes. Raises UserError like `sift`.
    """
    return sift(sieve, settings, inputs, out, context)


def sieve(settings: Preferences, inputs: Inputs) -> Sieve[ParsedPreference, Preference]:
    """How this stage reads and judges. Raises UserError for a list of words that cannot be read."""
    rules = [*build_text_rules(settings.rules), *build_blocklist_rules(settings.blocklists, inputs)]
    convert = load_converter(settings.convert)

    def judge(found: ParsedPreference, origin: Origin) -> tuple[Preference, tuple[str, ...]] | Drop:
        turns, marks = guess_lost_chars((*found.prompt, found.chosen, found.rejected), settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert)
        if isinstance(cleaned, Drop):
            return cleaned
        (*prompt, chosen, rejected), changed = cleaned
        for answer in (chosen, rejected):
            wrong = check_trainable(prompt, answer)
            if wrong is not None:
                return wrong
        if serialize_turns([chosen]) == serialize_turns([rejected]):
            return Drop("identical_answers")
        if found.scores is not None:
            better, worse = found.scores
            if better < worse:
                return Drop("chosen_scores_lower", f"{better:g} < {worse:g}")
            if better == worse and not settings.keep_ties:
                return Drop("tie", f"{better:g}")
        length = count_characters((*prompt, chosen, rejected))
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        meta = origin.meta({**found.meta, **marks})
        return Preference(tuple(prompt), chosen, rejected, origin.id, origin.source, meta), changed

    return Sieve(
        record=Preference,
        file_name="preferences.jsonl",
        formats=lambda file: PREFERENCE_FORMATS,
        other_formats={"corpus": DOCUMENT_FORMATS, "conversations": CHAT_FORMATS},
        judge=judge,
        content=lambda pair: serialize_turns((*pair.prompt, pair.chosen, pair.rejected)),
        text=lambda pair: join_texts((*pair.prompt, pair.chosen, pair.rejected)),
        side=lambda pair: pair.prompt[-1].text,
        characters=lambda pair: count_characters((*pair.prompt, pair.chosen, pair.rejected)),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )
