"""The assistant's identity: placeholders are filled in, and other names replaced if a sentence is about itself.

Sentences about others stay: an answer about OpenAI's history is an answer, not an identity. Links and code are never
changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from hanlin.config.settings.data import Identity
from hanlin.core.records import Message
from hanlin.data.text.lexicons import ASSISTANT_NAMES, ASSISTANT_VENDORS, CREATION_VERBS, SELF_REFERENCE
from hanlin.data.text.patterns import compile_on_use

_NAME_WORDS = r"(?:model|bot|assistant|ai)?[_ -]?name|名字|姓名|名称|模型名|模型名称|助手名|昵称"
_AUTHOR_WORDS = (
    r"authors?(?:[_ -]?name)?|developers?|creators?|vendor|compan(?:y|ies)(?:[_ -]?name)?|org(?:anization)?|team"
    r"|作者|开发者|开发商|开发方|创造者|公司|公司名|公司名称|机构|团队"
)
_OF_MODELS = frozenset(("模型名", "模型名称", "助手名"))
"""Words that no letter has a gap for."""
_WORDS = f"({_NAME_WORDS}|{_AUTHOR_WORDS})"
_IS_NAME = compile_on_use(_NAME_WORDS, re.I)
_DOUBLE = compile_on_use(rf"\{{\{{\s*{_WORDS}\s*\}}\}}", re.I)
_SINGLE = compile_on_use(
    rf"\$?\{{\s*{_WORDS}\s*\}}|<\s*{_WORDS}\s*>|[\[【]\s*{_WORDS}\s*[\]】]"
    rf"|<\|\s*{_WORDS}\s*\|>|(?-i:%(NAME|AUTHOR)%|__(NAME|AUTHOR)__)",
    re.I,
)
"""Other brackets, which mean something else in code, markup and letters: they count in short texts and in sentences
about the assistant alone, and square ones if their word is not written as in a letter ([Name], [姓名])."""
_LONGEST_INTRODUCTION = 600
_TEMPLATE_LANGUAGE = compile_on_use(
    r"vue|jinja|handlebars|mustache|angular|django|liquid|template|模板|插值|\{%|v-", re.I
)
_ABOUT_YOU = compile_on_use(r"你(?:是|叫|的名字|由|被)|您(?:是|叫)|\b(?:you are|you're|your name|are you)\b", re.I)
_CODE_OR_LINK = compile_on_use(r"(```.*?(?:```|\Z)|`[^`\n]*`|https?://[^\s，。）]+|www\.[^\s，。）]+)", re.S)
_SENTENCE = compile_on_use(r"[^。！？!?\n]*(?:[。！？!?\n]|\Z)")


def rewrite_identity(messages: Sequence[Message], identity: Identity) -> tuple[Message, ...]:
    """Fill in placeholders such as `{{name}}` and `[AUTHOR]`, and replace other assistants' names and vendors in
    sentences of system and assistant turns that are about the assistant itself.

    Args:
        messages: The turns.
        identity: Name and author; `rewrite` says whether other names are replaced.
    """
    return tuple(
        replace(
            message,
            text=_rewrite_text(message.text, message, identity),
            reasoning=_rewrite_text(message.reasoning, message, identity) if message.reasoning else "",
        )
        for message in messages
    )


def find_placeholder(text: str, role: str) -> str | None:
    """Find a placeholder of a name or an author that is not filled in; None without any.

    Two braces count everywhere outside of code and of talk about templates; other brackets in sentences in which an
    assistant speaks of itself, or another one of it.
    """
    found: list[str] = []

    def note(match: re.Match[str], value: str) -> str:
        found.append(match[0])
        return value

    _fill(text, role, note)
    return found[0] if found else None


def _fill(text: str, role: str, fill: Callable[[re.Match[str], str], str]) -> str:
    """Replace every placeholder of a text by what `fill` makes of it and of its kind, `name` or `author`."""
    if not any(mark in text for mark in ("{", "<", "[", "【", "%", "__")):
        return text
    is_double, is_single = _DOUBLE.search(text) is not None, len(text) <= _LONGEST_INTRODUCTION and _SINGLE.search(text)
    if not (is_double or is_single) or _TEMPLATE_LANGUAGE.search(text):
        return text
    is_about = SELF_REFERENCE if role == "assistant" else _ABOUT_YOU
    speaks = is_about.search(text) is not None

    def fill_match(match: re.Match[str]) -> str:
        word = next(group for group in match.groups() if group)
        if match[0][0] in "[【" and (word.istitle() or not word.isascii()) and word not in _OF_MODELS:
            return match[0]
        return fill(match, "name" if _IS_NAME.fullmatch(word) else "author")

    def fill_sentence(match: re.Match[str]) -> str:
        sentence = match[0]
        if not (is_about.search(sentence) or (speaks and CREATION_VERBS.search(sentence))):
            return sentence
        return _SINGLE.sub(fill_match, sentence)

    pieces = _CODE_OR_LINK.split(text)
    pieces[::2] = [_DOUBLE.sub(fill_match, piece) for piece in pieces[::2]]
    if is_single:
        pieces[::2] = [_SENTENCE.sub(fill_sentence, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _rewrite_text(text: str, message: Message, identity: Identity) -> str:
    names = {"name": identity.name, "author": identity.author}
    text = _fill(text, message.role, lambda match, kind: names[kind])
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
