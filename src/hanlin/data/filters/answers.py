"""The rules on repetition and symbols as they apply to chats: to each answer, beside its question.

A chat differs from a document. Only its answers are learned, so that only they are judged. They are short, so that a
form letter, a table or a regular expression is most of one. And they may repeat or draw because they are asked to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hanlin.config.settings.rules import Rule
from hanlin.core.records import Message
from hanlin.data.filters.repetition import repeated_characters as _repeated_characters
from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.ngrams import repeated_ngram_fraction
from hanlin.data.text.verse import MAX_VERSE_REPETITION, MIN_VERSE_LINES, is_verse, strip_code, strip_drawn_rules

AnswerRule = Callable[[str, str], Drop | None]
"""Takes an answer and its question; returns the reason to drop the conversation, or None."""

_ASKS_FOR_REPETITION = re.compile(
    r"重[复複覆]|[复複]述|抄[写寫]|照[抄搬]|歌|[诗詩]|[词詞]牌|作[词詞]|宋[词詞]|绕口令|繞口令|[顺順]口溜|童[谣謠]|三字[经經]|快板|说唱|說唱"
    r"|[0-9０-９一二两兩三四五六七八九十百千万萬]+ ?[遍次]|[祷禱]|咒|念[经經]"
    r"|\b(?:repeat\w*|lyric\w*|songs?|poems?|poetry|chorus|rhymes?|verses?|rap|chant|\d+ times|loop)\b",
    re.I,
)
_ASKS_FOR_SYMBOLS = re.compile(
    r"表情|符[号號]|正[则則]|[图圖畫画绘繪]|颜文字|顏文字|字符|表格|公式|方程|[矩阵陣]|[棋盘盤]|密[码碼]|乐谱|樂譜|盲文|摩[斯尔爾]|[编編解]码|代码|程序|箭[头頭]|星星"
    r"|\b(?:emoji\w*|emoticons?|symbols?|ascii|unicode|draw\w*|art|regex\w*|regular expressions?|tables?|charts?"
    r"|diagrams?|matrix|grid|maze|chess|board|cipher|morse|braille|formulas?|equations?|password|logo|pattern|code)\b",
    re.I,
)
_CODE_MARK = re.compile(
    r"[;{}]\s*$|</?\w{1,20}[^>\n]{0,200}>|[A-Za-z_]\w{0,40}[(（][^\n]{0,200}[)）]|[=<>]=|&[lg]t;|\\\\|\t"
)
_FIELD = re.compile(r"[ \t]*(?:[-*•] ?|\d{1,3}[.)、] ?)?[^:：]{1,20}[:：].{0,40}$")
_LINK = re.compile(r"https?://\S+|`[^`\n]*`")
_OPERATOR = re.compile(r"([-+*/=<>^$\\{}\[\]_|&#~])(?!\1{4})(?<!\1{5})")
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]")
_MIN_FILLED, _MIN_REPEATED = 8, 60
_LETTERS = re.compile(r"[^\W\d_]")


def build_answer_rules(rules: Iterable[Rule]) -> list[tuple[str, AnswerRule]]:
    """Build the functions of the rules that judge answers in chats, each with its parameters, as (name, function)."""
    return [
        (rule.name, partial(ANSWER_RULES[rule.name], **rule.parameters)) for rule in rules if rule.name in ANSWER_RULES
    ]


def judge_answers(messages: Sequence[Message], rules: Sequence[tuple[str, AnswerRule]]) -> Drop | None:
    """Judge every answer of a chat that may be learned beside the last turn of the user.

    Returns:
        The first Drop, whose detail begins with the number of the turn; or None.
    """
    question = ""
    for turn_number, message in enumerate(messages if rules else (), start=1):
        if message.role == "user":
            question = message.text
        if message.role != "assistant" or message.train is False or not message.text:
            continue
        for _, rule in rules:
            if drop := rule(message.text, question):
                return Drop(drop.reason, f"turn {turn_number}: {drop.detail}")
    return None


def symbols(answer: str, question: str, share: float) -> Drop | None:
    """Drop a chat with an answer of which more than this share is symbols; as for documents, but with other limits.

    Code, tables, links, emoji, and operators that stand alone are not counted. An answer to a question that asks for
    symbols, a drawing, a formula or a table stays. Default 0.5.
    """
    counts = count_char_kinds(answer)
    if counts[5] <= share / 2 * sum(counts[:6]) or _ASKS_FOR_SYMBOLS.search(question):
        return None
    prose = _EMOJI.sub("", _OPERATOR.sub("", _LINK.sub("", _strip_structure(answer))))
    *others, symbol, _ = count_char_kinds(prose)
    filled = sum(others) + symbol
    asked = count_char_kinds(question)
    if filled < _MIN_FILLED or symbol <= share * filled or asked[5] > share / 2 * sum(asked[:6]):
        return None
    return Drop("symbols", f"share {symbol / filled:.2f}")


def repeated_characters(answer: str, question: str, share: float, run: int) -> Drop | None:
    """Drop a chat with an answer of which more than this share is in runs of one character, unless it is asked to."""
    result = _repeated_characters(answer, share, run)
    if isinstance(result, str) or _ASKS_FOR_REPETITION.search(question) or _ASKS_FOR_SYMBOLS.search(question):
        return None
    return result


def repeated_lines(answer: str, question: str, share: float) -> Drop | None:
    """Drop a chat with an answer of which more than this share is lines that occurred before in it.

    Code, tables and lines without letters are not counted, a song may repeat three quarters of itself, and what is
    repeated must be 60 characters or more. An answer to a question that asks for repetition, a song or a poem stays.
    Default 0.5.
    """
    lines = [line.strip() for line in answer.split("\n")]
    if len(lines) < 3 or len(set(lines)) == len(lines) or _ASKS_FOR_REPETITION.search(question):
        return None
    lines = [line.strip() for line in _strip_structure(answer).split("\n") if len(_LETTERS.findall(line)) > 3]
    total, unique = sum(map(len, lines)), sum(map(len, set(lines)))
    repeated = total - unique
    if repeated < _MIN_REPEATED or repeated <= share * total:
        return None
    if repeated <= MAX_VERSE_REPETITION * total and len(set(lines)) >= MIN_VERSE_LINES and is_verse("\n".join(lines)):
        return None
    return Drop("repeated_lines", f"share {repeated / total:.2f}, {_most_frequent(lines)[:20]}")


def _most_frequent(lines: Sequence[str]) -> str:
    return max(set(lines), key=lambda line: (lines.count(line), line))


def repeated_phrases(answer: str, question: str, share: float, length: int) -> Drop | None:
    """Drop a chat with an answer of which more than this share is in n-grams seen shortly before in it.

    As for documents (15 Chinese characters, 45 where Latin letters prevail), but code, tables, fields (周一：慢跑) and
    links are not counted, and an answer to a question that asks for repetition, a song or a poem stays. Default 0.48:
    an answer that is written twice has just below one half; form letters, schedules and lists of steps stay below.
    """
    if _phrase_fraction(answer, share, length) <= share or _ASKS_FOR_REPETITION.search(question):
        return None
    prose = strip_drawn_rules(_LINK.sub("", _strip_structure(answer)))
    fraction = _phrase_fraction(prose, share, length)
    if 2 * len(_LETTERS.findall(prose)) < len(prose):
        return None
    if fraction <= share or (fraction <= MAX_VERSE_REPETITION and is_verse(prose)):
        return None
    return Drop("repeated_phrases", f"share {fraction:.2f}")


def _phrase_fraction(text: str, share: float, length: int) -> float:
    han, latin, *_ = count_char_kinds(text)
    return repeated_ngram_fraction(text, length if han >= latin else 3 * length, share)


def _strip_structure(text: str) -> str:
    """Remove fenced code, lines that look like code, rows of tables, and fields (周一：慢跑三公里)."""
    return "\n".join(line for line in strip_code(text).split("\n") if not _is_structure(line))


def _is_structure(line: str) -> bool:
    return line.count("|") > 1 or bool(_FIELD.match(line) or _CODE_MARK.search(line))


ANSWER_RULES: dict[str, Callable[..., Drop | None]] = {
    rule.__name__: rule for rule in (repeated_lines, repeated_characters, repeated_phrases, symbols)
}
