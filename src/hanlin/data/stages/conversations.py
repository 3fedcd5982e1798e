"""The stage `conversations`: turn chats of any format into checked conversations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Conversations, Dedup
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Conversation
from hanlin.data.filters.answers import build_answer_rules
from hanlin.data.filters.blocklist import build_blocklist_rules
from hanlin.data.filters.conversation import (
    TURN_RULES,
    build_near_text,
    check_learned,
    clean_turns,
    count_characters,
    guess_lost_chars,
    join_questions,
    join_texts,
    mark_tools,
    serialize_turns,
)
from hanlin.data.filters.identity import rewrite_identity
from hanlin.data.filters.rules import build_text_rules
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ingest.ingest import ingest
from hanlin.data.ingest.spec import DatasetSpec, Origin
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter


def run(settings: Conversations, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `conversations.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Raises:
        UserError: As `ingest`.
    """
    return ingest(build_spec, settings, inputs, out, context)


def build_spec(settings: Conversations, inputs: Inputs) -> DatasetSpec[ParsedChat, Conversation]:
    """Build the spec of the stage. Raises UserError if a blocklist cannot be read."""
    rules = [*build_text_rules(settings.rules, chats=True), *build_blocklist_rules(settings.blocklists, inputs)]
    turn_rules = [
        (rule.name, partial(TURN_RULES[rule.name], **rule.parameters))
        for rule in settings.rules
        if rule.name in TURN_RULES
    ]
    answer_rules = build_answer_rules(settings.rules)
    convert = load_converter(settings.convert)

    def process(parsed: ParsedChat, origin: Origin) -> tuple[Conversation, tuple[str, ...]] | Drop:
        turns, guess_meta = guess_lost_chars(parsed.messages, settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert, answer_rules)
        if isinstance(cleaned, Drop):
            return cleaned
        messages, changed = cleaned
        if settings.identity is not None:
            rewritten = rewrite_identity(messages, settings.identity)
            if rewritten != messages:
                messages, changed = rewritten, (*changed, "identity")
        for name, rule in turn_rules:
            result = rule(messages)
            if isinstance(result, Drop):
                return result
            if result != messages:
                messages, changed = result, (*changed, name)
        unlearned = check_learned(messages)
        if unlearned is not None:
            return unlearned
        length = count_characters(messages)
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        return Conversation(
            messages, origin.id, origin.source, parsed.tools, origin.add_license({**parsed.meta, **guess_meta})
        ), changed

    by_question = settings.dedup_on == "question"
    return DatasetSpec(
        record_type=Conversation,
        file_name="conversations.jsonl",
        formats=lambda file: CHAT_FORMATS,
        other_formats=lambda: {"corpus": DOCUMENT_FORMATS, "preferences": PREFERENCE_FORMATS},
        process=process,
        exact_text=lambda chat: (join_questions if by_question else serialize_turns)(chat.messages, chat.tools),
        full_text=lambda chat: join_texts(chat.messages),
        near_text=lambda chat: (
            mark_tools(join_questions(chat.messages), chat.tools)
            if by_question
            else build_near_text(chat.messages, chat.tools)
        ),
        split_text=lambda conversation: next((m.text for m in conversation.messages if m.role == "user"), ""),
        count_characters=lambda conversation: count_characters(conversation.messages),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )
