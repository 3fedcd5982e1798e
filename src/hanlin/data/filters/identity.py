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

_NAME_WORDS = (
    r"(?:(?:model|bot|assistant|ai|your)[_ -]?)?[_ -]?name"
    r"|(?:[你您]的|助手的?|AI|模型|机器人)?(?:名字|姓名|名称|昵称)|模型名|助手名"
)
_AUTHOR_WORDS = (
    r"authors?(?:[_ -]?name)?|developers?|creators?|vendor|compan(?:y|ies)(?:[_ -]?name)?|org(?:anization)?|team"
    r"|your[_ -]?(?:company|team)(?:[_ -]?name)?"
    r"|作者|(?:开发者|开发商|开发方|开发团队|开发公司|创造者|公司|机构|团队|企业|组织)(?:的?名称?|名字)?"
    r"|[你您贵](?:们?的)?(?:公司|团队)(?:名称?|名字)?"
)
_MARKS = ("{", "<", "[", "【", "%", "__", "$", "XX", "xx", "××")
"""One of these is in every placeholder."""
_OF_MODELS = frozenset(("模型名", "模型名称", "助手名"))
"""Words that no letter has a gap for."""
_WORDS = f"({_NAME_WORDS}|{_AUTHOR_WORDS})"
_IS_NAME = compile_on_use(_NAME_WORDS, re.I)
_DOUBLE = compile_on_use(rf"\{{\{{\s*{_WORDS}\s*\}}\}}", re.I)
_SINGLE = compile_on_use(
    rf"\$?\{{\s*{_WORDS}\s*\}}|<\s*{_WORDS}\s*>|[\[【]\s*{_WORDS}\s*[\]】]"
    rf"|<\|\s*{_WORDS}\s*\|>|(?-i:%(NAME|AUTHOR)%|__(NAME|AUTHOR)__)"
    r"|(?-i:\$((?:MODEL_|BOT_|ASSISTANT_|AI_)?NAME|AUTHOR|DEVELOPER|CREATOR|COMPANY(?:_NAME)?|TEAM|ORG)\$)",
    re.I,
)
"""Other brackets, which mean something else in code, markup and letters: they count in short texts and in sentences
about the assistant alone, and square ones if their word is not written as in a letter ([Name], [姓名])."""
_CROSSED_OUT = compile_on_use(
    r"(?<![A-Za-z0-9×])(?:[Xx]{2,4}|×{2,4})(?:(公司|科技公司|科技|集团|团队|研究院|实验室|机构|企业)|(?![A-Za-z0-9×]))"
)
"""XXX公司 and XXX, which stand for any company and name elsewhere: they count beside words of an introduction."""
_GAP_OF_LETTER = compile_on_use(
    r"尊敬的|亲爱的|真挚|诚挚|敬上|敬启|此致|敬礼|祝好|简历|应聘|求职|邮件|信函|模板|范文|签名|签字|主题[:：]|日期[:：]|dear\b|sincerely|subject:"
    r"|话术|示例|例如|比如|可以说|可以这样|[“\"「『][^”\"」』\n]{0,20}(?:我是|我叫|I am|I'm|my name)",
    re.I,
)
"""Signs of a letter, or of an example of what somebody else may say."""
_OF_READER = compile_on_use(r"your|[你您贵]", re.I)
"""Words that mean whoever fills in a letter, unless an assistant introduces itself."""
_INTRODUCTION = compile_on_use(
    r"助手|助理|机器人|智能体|人工智能|大模型|语言模型|(?<![A-Za-z])AI(?![A-Za-z])|为[您你](?:服务|解答|提供)|帮助?[您你到]"
    r"|\b(?:assistant|chatbot|language model)\b",
    re.I,
)
_BEFORE_NAME = ("我是", "我叫", "我名叫", "名字是", "名字叫", "名为", "你是", "你叫", "您是")
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
    if not any(mark in text for mark in _MARKS):
        return text
    is_double, is_short = _DOUBLE.search(text) is not None, len(text) <= _LONGEST_INTRODUCTION
    is_single = is_short and (_SINGLE.search(text) or _CROSSED_OUT.search(text))
    if not (is_double or is_single) or _TEMPLATE_LANGUAGE.search(text):
        return text
    introduces = is_short and _INTRODUCTION.search(text) is not None and _GAP_OF_LETTER.search(text) is None
    is_about = SELF_REFERENCE if role == "assistant" else _ABOUT_YOU
    speaks = is_about.search(text) is not None

    def fill_match(match: re.Match[str]) -> str:
        word = next(group for group in match.groups() if group)
        is_of_letter = match[0][0] in "[【" and (word.istitle() or not word.isascii()) and word not in _OF_MODELS
        if (is_of_letter or _OF_READER.match(word)) and not introduces:
            return match[0]
        return fill(match, "name" if _IS_NAME.fullmatch(word) else "author")

    def fill_sentence(match: re.Match[str]) -> str:
        sentence = match[0]
        spoken = _SINGLE.sub("", sentence)  # the gap [你的名字] alone is not about anybody
        if not (is_about.search(spoken) or (speaks and CREATION_VERBS.search(sentence))):
            return sentence
        sentence = _SINGLE.sub(fill_match, sentence)
        return _CROSSED_OUT.sub(fill_crossed_out, sentence) if introduces else sentence

    def fill_crossed_out(match: re.Match[str]) -> str:
        sentence, start = match.string, match.start()
        if match[1]:
            return fill(match, "author") if CREATION_VERBS.search(sentence, match.end()) else match[0]
        return fill(match, "name") if sentence[:start].endswith(_BEFORE_NAME) else match[0]

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
