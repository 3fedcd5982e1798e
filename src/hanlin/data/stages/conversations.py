"""The stage `conversations`: chats of any format become checked conversations.

Owns the rules on turns and how a found chat is judged. Reading, copies and the account are `sifting`'s.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Conversations, Dedup
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Conversation
from hanlin.data.filters.blocklist import word_list_rules
from hanlin.data.filters.conversation import (
    TURN_RULES,
    characters,
    clean_turns,
    guessed_turns,
    questions,
    read_aloud,
    said,
    spoken,
)
from hanlin.data.filters.identity import identified
from hanlin.data.filters.rules import text_rules
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.formats.preferences import PAIR_FORMATS
from hanlin.data.formats.turns import Chat
from hanlin.data.ingest.ingest import sift
from hanlin.data.ingest.spec import Origin, Sieve
from hanlin.data.ledger import Drop
from hanlin.data.text.script import converter


def run(settings: Conversations, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `conversations.jsonl`, `validation.jsonl`, `dropped.jsonl` and `ledger.json`; return the counts.

    Raises UserError like `sift`.
    """
    return sift(sieve, settings, inputs, out, context)


def sieve(settings: Conversations, inputs: Inputs) -> Sieve[Chat, Conversation]:
    """How this stage reads and judges. Raises UserError for a list of words that cannot be read."""
    rules = [*text_rules(settings.rules), *word_list_rules(settings.blocklists, inputs)]
    turn_rules = [
        (rule.name, partial(TURN_RULES[rule.name], **rule.parameters))
        for rule in settings.rules
        if rule.name in TURN_RULES
    ]
    convert = converter(settings.convert)

    def judge(found: Chat, origin: Origin) -> tuple[Conversation, tuple[str, ...]] | Drop:
        turns, marks = guessed_turns(found.messages, settings.lost_characters)
        cleaned = clean_turns(turns, rules, convert)
        if isinstance(cleaned, Drop):
            return cleaned
        messages, changed = cleaned
        if settings.identity is not None:
            named = identified(messages, settings.identity)
            if named != messages:
                messages, changed = named, (*changed, "identity")
        for name, rule in turn_rules:
            after = rule(messages)
            if isinstance(after, Drop):
                return after
            if after != messages:
                messages, changed = after, (*changed, name)
        length = characters(messages)
        if settings.max_chars is not None and length > settings.max_chars:
            return Drop("too_long", f"{length} characters")
        return Conversation(
            messages, origin.id, origin.source, found.tools, origin.meta({**found.meta, **marks})
        ), changed

    by_question = settings.dedup_on == "question"
    return Sieve(
        record=Conversation,
        file_name="conversations.jsonl",
        formats=lambda file: CHAT_FORMATS,
        elsewhere={"corpus": DOCUMENT_FORMATS, "preferences": PAIR_FORMATS},
        judge=judge,
        content=lambda chat: questions(chat.messages) if by_question else said(chat.messages),
        text=lambda chat: read_aloud(chat.messages),
        near=lambda chat: questions(chat.messages) if by_question else read_aloud(spoken(chat.messages)),
        side=lambda conversation: next((m.text for m in conversation.messages if m.role == "user"), ""),
        characters=lambda conversation: characters(conversation.messages),
        dedup=Dedup(method=settings.dedup, across_scripts=False),
        validation_fraction=settings.validation_fraction,
    )


# --- rules on turns -------------------------------------------------------------------------------------------------
