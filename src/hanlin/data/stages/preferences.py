"""The stage `preferences`: turn preference pairs of any format into checked pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Dedup, Preferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Preference
from hanlin.data.filters.answers import build_answer_rules
from hanlin.data.filters.blocklist import build_blocklist_rules
from hanlin.data.filters.conversation import (
    build_turn_changes,
    change_turns,
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
from hanlin.data.ingest.ingest import ingest
from hanlin.data.ingest.spec import DatasetSpec, Origin
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: Preferences, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `preferences.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Pairs are dropped if an answer is empty, both answers are equal, the scores are equal (unless `keep_ties`), the
    chosen answer has the lower score, or no chat template accepts the prompt.

    Raises:
        UserError: As `ingest`.
    """
    return ingest(build_spec, settings, inputs, out, context)


def build_spec(settings: Preferences, inputs: Inputs) -> DatasetSpec[ParsedPreference, Preference]:
    """Build the spec of the stage. Raises UserError if a blocklist cannot be read."""
    rules = [*build_text_rules(settings.rules, chats=True), *build_blocklist_rules(settings.blocklists, inputs)]
    answer_rules, turn_rules = build_answer_rules(settings.rules), build_turn_changes(settings.rules)
    convert = load_converter(settings.convert)

    def process(parsed: ParsedPreference, origin: Origin) -> tuple[Preference, tuple[str, ...]] | Drop:
        turns, guess_meta = guess_lost_chars((*parsed.prompt, parsed.chosen, parsed.rejected), settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert, answer_rules)
        if isinstance(cleaned, Drop):
            return cleaned
        (*prompt, chosen, rejected), changed = change_turns(cleaned, turn_rules)
        for answer in (chosen, rejected):
            drop = check_trainable(prompt, answer)
            if drop is not None:
                return drop
        if serialize_turns([chosen]) == serialize_turns([rejected]):
            return Drop("identical_answers")
        if parsed.scores is not None:
            chosen_score, rejected_score = parsed.scores
            if chosen_score < rejected_score:
                return Drop("chosen_scores_lower", f"{chosen_score:g} < {rejected_score:g}")
            if chosen_score == rejected_score and not settings.keep_ties:
                return Drop("tie", f"{chosen_score:g}")
        length = count_characters((*prompt, chosen, rejected))
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        meta = origin.add_license({**parsed.meta, **guess_meta})
        return Preference(tuple(prompt), chosen, rejected, origin.id, origin.source, meta, parsed.tools), changed

    return DatasetSpec(
        record_type=Preference,
        file_name="preferences.jsonl",
        formats=lambda file: PREFERENCE_FORMATS,
        other_formats=lambda: {"corpus": DOCUMENT_FORMATS, "conversations": CHAT_FORMATS},
        process=process,
        exact_text=lambda pair: serialize_turns((*pair.prompt, pair.chosen, pair.rejected), pair.tools),
        full_text=lambda pair: join_texts((*pair.prompt, pair.chosen, pair.rejected)),
        split_text=lambda pair: pair.prompt[-1].text,
        count_characters=lambda pair: count_characters((*pair.prompt, pair.chosen, pair.rejected)),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )
