"""Rules on the answers of a conversation: truncated, or in another language than the question."""

from __future__ import annotations

import re

from hanlin.core.records import Message
from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.language_id import ENGLISH_WORDS

_HANGING_MARKS = tuple("，、,（(《【")
_ITEM = re.compile(r"^\s*(?:\d+[.、)]|[-*•])\s+")
_HANGING_WORD = re.compile(r"(?:^|[\s,])(?:the|an?|of|and|or|to|with|for|in|by|from|that|because|is|are)$")
_COMPLETE_END = re.compile(r"[。！？!?…;；.~～”\"'’）)】」』》\]}`*|:：>—-][^\w]*$|[^\w\s]$|\d ?[\u4e00-\u9fff]{1,4}$")
_SENTENCE_ENDS = re.compile("[。！？]|[.!?] ")
_WORD = re.compile("[A-Za-z]{2,}")
_QUOTED = re.compile("[“\"'‘「《:：] ?[A-Za-z]{2,}|(?:[A-Za-z]{2,30}[ ,]{1,3}){3}")
_MIN_ENGLISH_WORDS = 3
_HASHTAG = re.compile(r"#\w+$")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.S)


def truncated_answers(messages: tuple[Message, ...], longest_open: int) -> tuple[Message, ...] | Drop:
    """Drop a conversation with an answer that is cut off in the middle.

    An answer is cut off if it ends with a comma, an opening bracket or an English word that needs another; if its last
    ``` fence is not closed; or if its last line has several sentences of which the last has `longest_open` characters
    or more and no end (a number with its unit is an end). Why: generated data was cut at a token limit, and a model
    learns to stop there. Headings, names, numbers, formulas, list items and verse end without punctuation and stay.
    Default 40. Not in the default set.
    """
    for turn_number, message in enumerate(messages, start=1):
        if message.role != "assistant" or message.tool_calls or not message.text.strip():
            continue
        if (truncation := _find_truncation(message.text.rstrip(), longest_open)) is not None:
            return Drop("truncated_answer", f"turn {turn_number}: {truncation}")
    return messages


def _find_truncation(text: str, longest_open: int) -> str | None:
    """Find why an answer is cut off, as the detail of a Drop; None if it is complete."""
    if sum(line.lstrip().startswith("```") for line in text.split("\n")) % 2:
        return "```"
    if "```" in text.rsplit("\n", 1)[-1]:
        return None
    line = _ITEM.sub("", text.rsplit("\n", 1)[-1], count=1)
    if _HASHTAG.search(line[-100:]):
        return None
    if line.endswith(_HANGING_MARKS) or _HANGING_WORD.search(line):
        return "…" + line[-20:]
    last = _SENTENCE_ENDS.split(line)[-1]
    if last != line and len(last) >= longest_open and not _COMPLETE_END.search(line[-20:]):
        return "…" + line[-20:]
    return None


_MENTIONS_LANGUAGE = re.compile(
    r"英[文语語译譯]|[中汉漢]英|英[中汉漢]|翻[译譯]|[译譯][成为為]|双语|雙語|外[语語文]|中文|[汉漢][语語]|日[语語文]|法[语語文]|德[语語文]|俄[语語文]|韩[语語文]|拼音|歌[词詞]|单词|單詞|字母|缩写"
    r"|代码|代碼|编程|程序|函数|脚本|正则|命令|算法|[Pp]ython|[Jj]ava|SQL|HTML|CSS|C\+\+|JSON|[Ll]inux|API"
    r"|\b(?:english|chinese|translat\w*|mandarin|code|program\w*|function|script|language|french|german|spanish|japanese"
    r"|pinyin|lyrics)\b",
    re.I,
)


def answer_language(messages: tuple[Message, ...], share: float, shortest: int) -> tuple[Message, ...] | Drop:
    """Drop a conversation with an answer in English to a question in Chinese, or the other way round.

    Letters decide, without code and links: at least `share` of each text must be in its script, and the answer must
    have `shortest` letters (names, numbers, short terms have no language). English must have its function words (the,
    is, you), which lists of names, identifiers and other languages in Latin letters lack. A question that mentions a
    language, translating or code stays, and so does one that quotes the other script. Defaults 0.8 and 20. Why: the
    commonest complaint about a Llama chat model in Chinese is an English answer. Not in the default set.
    """
    prompt = ""
    for turn_number, message in enumerate(messages, start=1):
        if message.role in ("system", "user"):
            prompt = f"{prompt}\n{message.text}"
        if message.role != "assistant" or _MENTIONS_LANGUAGE.search(prompt):
            continue
        last = _last_question(messages[: turn_number - 1])
        question, answer = _dominant_script(last, share, 4), _dominant_script(message.text, share, shortest)
        if (question == "zh" and _QUOTED.search(last)) or (
            question == "en" and len(_WORD.findall(last)) < _MIN_ENGLISH_WORDS
        ):
            continue
        if question and answer and question != answer:
            return Drop("answer_language", f"turn {turn_number}: {question}, {answer}")
    return messages


def _last_question(messages: tuple[Message, ...]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def _dominant_script(text: str, share: float, shortest: int) -> str:
    """`zh` or `en` if at least this share of the letters is in that script, otherwise an empty text."""
    han, latin, other, *_ = count_char_kinds(_CODE.sub("", text))
    letters = han + latin / 4 + other  # an English word has about four times the letters of a Chinese one
    if han + latin + other < shortest:
        return ""
    if han >= share * letters:
        return "zh"
    return "en" if latin / 4 >= share * letters and _is_english(text) else ""


def _is_english(text: str) -> bool:
    """Whether at least one word in twelve is an English function word. Words are counted, not letters: names are
    long.
    """
    words = _WORD.findall(_CODE.sub("", text))
    return sum(word.lower() in ENGLISH_WORDS for word in words) * 12 >= max(1, len(words))
