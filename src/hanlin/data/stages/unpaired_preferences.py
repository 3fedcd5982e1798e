"""The stage `unpaired_preferences`: turn single answers labeled good or bad, of any format, into checked records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Dedup, UnpairedPreferences
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import UnpairedPreference
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
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS, ParsedUnpaired
from hanlin.data.ingest.ingest import ingest
from hanlin.data.ingest.spec import DatasetSpec, Origin
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: UnpairedPreferences, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `unpaired_preferences.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Rows are dropped if the answer is empty or no chat template accepts the prompt. The same answer with another
    label is no duplicate.

    Raises:
        UserError: As `ingest`.
    """
    return ingest(build_spec, settings, inputs, out, context)


def build_spec(settings: UnpairedPreferences, inputs: Inputs) -> DatasetSpec[ParsedUnpaired, UnpairedPreference]:
    """Build the spec of the stage. Raises UserError if a blocklist cannot be read."""
    rules = [*build_text_rules(settings.rules, chats=True), *build_blocklist_rules(settings.blocklists, inputs)]
    answer_rules, turn_rules = build_answer_rules(settings.rules), build_turn_changes(settings.rules)
    convert = load_converter(settings.convert)

    def process(parsed: ParsedUnpaired, origin: Origin) -> tuple[UnpairedPreference, tuple[str, ...]] | Drop:
        turns, guess_meta = guess_lost_chars((*parsed.prompt, parsed.answer), settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert, answer_rules)
        if isinstance(cleaned, Drop):
            return cleaned
        (*prompt, answer), changed = change_turns(cleaned, turn_rules)
        drop = check_trainable(prompt, answer)
        if drop is not None:
            return drop
        length = count_characters((*prompt, answer))
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        meta = origin.add_license({**parsed.meta, **guess_meta})
        record = UnpairedPreference(tuple(prompt), answer, parsed.good, origin.id, origin.source, meta, parsed.tools)
        return record, changed

    return DatasetSpec(
        record_type=UnpairedPreference,
        file_name="unpaired_preferences.jsonl",
        formats=lambda file: UNPAIRED_FORMATS,
        other_formats=lambda: {
            "corpus": DOCUMENT_FORMATS,
            "conversations": CHAT_FORMATS,
            "preferences": PREFERENCE_FORMATS,
        },
        process=process,
        exact_text=lambda record: f"{record.good}\x1f{serialize_turns((*record.prompt, record.answer), record.tools)}",
        full_text=lambda record: join_texts((*record.prompt, record.answer)),
        split_text=lambda record: record.prompt[-1].text,
        count_characters=lambda record: count_characters((*record.prompt, record.answer)),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )
