"""The assistant's identity: placeholders are filled in, and other names replaced if a sentence is about itself.

Sentences about others stay: an answer about OpenAI's history is an answer, not an identity. Links and code are never
changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hanlin.config.settings.data import Identity
from hanlin.core.records import Message
from hanlin.data.text.lexicons import ASSISTANT_NAMES, ASSISTANT_VENDORS, CREATION_VERBS, SELF_REFERENCE

_PLACEHOLDER = re.compile(r"\{\{\s*(name|author)\s*\}\}")
_CODE_OR_LINK = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`|https?://[^\s，。）]+|www\.[^\s，。）]+)", re.S)
_SENTENCE = re.compile(r"[^。！？!?\n]*(?:[。！？!?\n]|\Z)")


def rewrite_identity(messages: Sequence[Message], identity: Identity) -> tuple[Message, ...]:
    """Fill in `{{name}}` and `{{author}}` everywhere, and replace other assistants' names and vendors in sentences of
    system and assistant turns that are about the assistant itself.

    Args:
        messages: The turns.
        identity: Name and author; `rewrite` says whether other names are replaced.
    """
    return tuple(replace(message, text=_rewrite_message(message, identity)) for message in messages)


def _rewrite_message(message: Message, identity: Identity) -> str:
    names = {"name": identity.name, "author": identity.author}
    text = _PLACEHOLDER.sub(lambda match: names[match[1]], message.text)
    if not identity.rewrite or message.role not in ("system", "assistant"):
        return text
    if not (ASSISTANT_NAMES.search(text) or ASSISTANT_VENDORS.search(text)):
        return text
    pieces = _CODE_OR_LINK.split(text)
    always = message.role == "system"  # what a system turn says about an assistant is about ours
    pieces[::2] = [
        _SENTENCE.sub(lambda match: _rewrite_sentence(match[0], identity, always), piece) for piece in pieces[::2]
    ]
    return "".join(pieces)


def _rewrite_sentence(sentence: str, identity: Identity, always: bool) -> str:
    if not always and not SELF_REFERENCE.search(sentence):
        return sentence
    if CREATION_VERBS.search(sentence):
        sentence = ASSISTANT_VENDORS.sub(lambda match: identity.author, sentence)
    return ASSISTANT_NAMES.sub(lambda match: identity.name, sentence)
