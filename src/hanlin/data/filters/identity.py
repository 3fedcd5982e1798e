"""Who the assistant says it is: placeholders filled in, and other names replaced where a turn speaks of itself.

Owns where names are replaced. What is said of others stays: an answer about OpenAI's history is an answer, not an
identity. Links and code are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hanlin.config.settings.data import Identity
from hanlin.core.records import Message
from hanlin.data.text.lexicons import MADE, MAKERS, NAMES, OF_ITSELF

_FILLED = re.compile(r"\{\{\s*(name|author)\s*\}\}")
_KEPT_AS_IS = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`|https?://[^\s，。）]+|www\.[^\s，。）]+)", re.S)
_SENTENCE = re.compile(r"[^。！？!?\n]*(?:[。！？!?\n]|\Z)")


def identified(messages: Sequence[Message], identity: Identity) -> tuple[Message, ...]:
    """The turns with `{{name}}` and `{{author}}` filled in everywhere, and foreign names replaced in what the system
    and the assistant say of the assistant itself."""
    return tuple(replace(message, text=_text(message, identity)) for message in messages)


def _text(message: Message, identity: Identity) -> str:
    names = {"name": identity.name, "author": identity.author}
    text = _FILLED.sub(lambda match: names[match[1]], message.text)
    if not identity.rewrite or message.role not in ("system", "assistant"):
        return text
    if not (NAMES.search(text) or MAKERS.search(text)):
        return text
    pieces = _KEPT_AS_IS.split(text)
    always = message.role == "system"  # what a system text says of an assistant, it says of ours
    pieces[::2] = [_SENTENCE.sub(lambda match: _sentence(match[0], identity, always), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _sentence(sentence: str, identity: Identity, always: bool) -> str:
    if not always and not OF_ITSELF.search(sentence):
        return sentence
    if MADE.search(sentence):
        sentence = MAKERS.sub(lambda match: identity.author, sentence)
    return NAMES.sub(lambda match: identity.name, sentence)
