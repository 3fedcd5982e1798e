"""The rules on repetition and symbols as they apply to chats: to each answer, beside its question.

A chat differs from a document. Only its answers are learned, so that only they are judged. They are short, so that a
form letter, a table or a regular expression is most of one. And they may repeat or draw because they are asked to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hanlin.config.settings.rules import Rule
from hanlin.core.records import Message
from hanlin.data.filters.repetition import find_runs
from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.ngrams import longest_copy, repeated_ngram_fraction
from hanlin.data.text.patterns import compile_on_use
from hanlin.data.text.verse import MAX_VERSE_REPETITION, MIN_VERSE_LINES, is_verse, strip_code, strip_drawn_rules

AnswerRule = Callable[[str, str], Drop | None]
"""Takes an answer and its question; returns the reason to drop the conversation, or None."""

_ASKS_FOR_REPETITION = compile_on_use(
    r"重[复複覆]|[复複]述|抄[写寫]|照[抄搬]|歌|[诗詩]|[词詞]牌|作[词詞]|宋[词詞]|绕口令|繞口令|[顺順]口溜|童[谣謠]|三字[经經]|快板|说唱|說唱"
    r"|[0-9０-９一二两兩三四五六七八九十百千万萬]+ ?[遍次]|[祷禱]|咒|念[经經]"
    r"|\b(?:repeat\w*|lyric\w*|songs?|poems?|poetry|chorus|rhymes?|verses?|rap|chant|\d+ times|loop)\b",
    re.I,
)
_ASKS_FOR_SYMBOLS = compile_on_use(
    r"表情|符[号號]|正[则則]|[图圖畫画绘繪]|颜文字|顏文字|字符|表格|公式|方程|[矩阵陣]|[棋盘盤]|密[码碼]|乐谱|樂譜|盲文|摩[斯尔爾]|[编編解]码|代码|程序|箭[头頭]|星星"
    r"|\b(?:emoji\w*|emoticons?|symbols?|ascii|unicode|draw\w*|art|regex\w*|regular expressions?|tables?|charts?"
    r"|diagrams?|matrix|grid|maze|chess|board|cipher|morse|braille|formulas?|equations?|password|logo|pattern|code)\b",
    re.I,
)
_CODE_MARK = compile_on_use(
    r"[;{}]\s*$|</?\w{1,20}[^>\n]{0,200}>|[A-Za-z_]\w{0,40}[(（][^\n]{0,200}[)）]|[=<>]=|&[lg]t;|\\\\|\t"
)
_FIELD = compile_on_use(r"[ \t]*(?:[-*•] ?|\d{1,3}[.)、] ?)?[^:：]{1,20}[:：].{0,40}$")
_SYMBOL_LOOP = compile_on_use(r"(?:^|\n)[ \t]*([^\w\s]{1,3})[ \t]*(?:\n\s{0,8}\1[ \t]*){19}")
_LINK = compile_on_use(r"https?://\S+|`[^`\n]*`")
_OPERATOR = compile_on_use(r"([-+*/=<>^$\\{}\[\]_|&#~])(?!\1{4})(?<!\1{5})")
_BLANKS = compile_on_use(r"_{2,}|-{3,}|={3,}|·{3,}|…{2,}")
_MASK = compile_on_use(r"(?<![xX×*])([xX×*])\1{2,19}(?=\w)(?!\1)")
_EMOJI = compile_on_use("[\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]")
_MIN_FILLED, _MIN_REPEATED, _LOOP, _MIN_LOOP, _LONG_QUESTION = 8, 60, 0.95, 10, 200
_LETTERS = compile_on_use(r"[^\W\d_]")


def build_answer_rules(rules: Iterable[Rule]) -> list[tuple[str, AnswerRule]]:
    """Build the functions of the rules that judge answers in chats, each with its parameters, as (name, function)."""
    return [
        (rule.name, partial(ANSWER_RULES[rule.name], **rule.parameters)) for rule in rules if rule.name in ANSWER_RULES
    ]


def judge_answers(messages: Sequence[Message], rules: Sequence[tuple[str, AnswerRule]]) -> Drop | None:
    """Judge every answer of a chat beside the last turn of the user.

    Returns:
        The first Drop, whose detail begins with the number of the turn; or None.
    """
    question = ""
    for turn_number, message in enumerate(messages if rules else (), start=1):
        if message.role == "user":
            question = message.text
        if message.role != "assistant" or not message.text:
            continue
        for _, rule in rules:
            if drop := rule(message.text, question):
                return Drop(drop.reason, f"turn {turn_number}: {drop.detail}")
    return None


def symbols(answer: str, question: str, share: float) -> Drop | None:
    """Drop a chat with an answer of which more than this share is symbols; as for documents, but with other limits.

    Code, tables, links, emoji, blanks to fill in, and operators that stand alone are not counted. An answer to a
    question that asks for symbols, a drawing, a formula or a table stays. Default 0.5.
    """
    counts = count_char_kinds(answer)
    if counts[5] <= share / 2 * sum(counts[:6]) or _ASKS_FOR_SYMBOLS.search(_instruction(question)):
        return None
    prose = _BLANKS.sub("", _LINK.sub("", _strip_structure(answer)))
    prose = _EMOJI.sub("", _OPERATOR.sub("", prose))
    *others, symbol, _ = count_char_kinds(prose)
    filled = sum(others) + symbol
    asked = count_char_kinds(question)
    if filled < _MIN_FILLED or symbol <= share * filled or asked[5] > share / 2 * sum(asked[:6]):
        return None
    return Drop("symbols", f"share {symbol / filled:.2f}")


def repeated_characters(answer: str, question: str, share: float, run: int) -> Drop | None:
    """Drop a chat with an answer of which more than this share is in runs of one character, unless it is asked to.

    What stands for a name or for digits (卡号为xxxxxxxxxxx2921) is not counted: court files and contracts have it.
    """
    result = find_runs(answer, share, run)
    if result is not None:
        result = find_runs(_MASK.sub(r"\1", answer), share, run)
    if (
        result is None
        or _ASKS_FOR_REPETITION.search(_instruction(question))
        or _ASKS_FOR_SYMBOLS.search(_instruction(question))
    ):
        return None
    return result


def repeated_lines(answer: str, question: str, share: float) -> Drop | None:
    """Drop a chat with an answer of which more than this share is lines that occurred before in it.

    Code, tables and fields are not counted unless one of their lines comes ten times or more, lines without letters
    only if one comes twenty times in a row (#); a song may repeat three quarters of itself, and what is repeated must
    be 60 characters or more. An answer to a question that asks for repetition, a song or a poem stays.
    Default 0.5.
    """
    lines = [line for line in map(str.strip, answer.split("\n")) if line]
    if len(lines) < 3 or len(set(lines)) == len(lines) or _ASKS_FOR_REPETITION.search(_instruction(question)):
        return None
    if _SYMBOL_LOOP.search(answer):
        return Drop("repeated_lines", "lines of symbols")
    if looping := _find_loop(lines, share):
        return Drop("repeated_lines", f"{lines.count(looping)} times {looping[:20]}")
    lines = [line.strip() for line in _strip_structure(answer).split("\n") if len(_LETTERS.findall(line)) > 3]
    total, unique = sum(map(len, lines)), sum(map(len, set(lines)))
    repeated = total - unique
    if repeated < _MIN_REPEATED or repeated <= share * total:
        return None
    if repeated <= MAX_VERSE_REPETITION * total and len(set(lines)) >= MIN_VERSE_LINES and is_verse("\n".join(lines)):
        return None
    if all(question.count(line) > 1 for line in set(lines) if lines.count(line) > 1):
        return None
    return Drop("repeated_lines", f"share {repeated / total:.2f}, {_most_frequent(lines)[:20]}")


def _instruction(question: str) -> str:
    """What a question asks for: of a long one, which holds material, its beginning and its end."""
    return question if len(question) <= _LONG_QUESTION else f"{question[:80]}\n{question[-80:]}"


def _find_loop(lines: Sequence[str], share: float) -> str:
    """Find a line with letters that comes ten times or more and is more than this share of all; empty if none."""
    line = _most_frequent(lines)
    is_loop = lines.count(line) >= _MIN_LOOP and lines.count(line) * len(line) > share * sum(map(len, lines))
    return line if is_loop and len(_LETTERS.findall(line)) > 1 else ""


def _most_frequent(lines: Sequence[str]) -> str:
    return Counter(lines).most_common(1)[0][0]


def repeated_phrases(answer: str, question: str, share: float, length: int, copied: float) -> Drop | None:
    """Drop a chat with an answer that goes round in circles, or that says the same twice.

    As for documents, n-grams are counted that were seen shortly before (15 Chinese characters, 45 where Latin letters
    prevail), without code, tables, fields (周一：慢跑) and links. An answer goes round in circles if more than `share`
    is in such n-grams, and says the same twice if more than `copied` of it is a copy of one earlier part. Templates,
    form letters and lists of facts about one thing have many short runs of them. An answer to a question that asks for
    repetition, a song or a poem stays, and so does one to a question that repeats itself as much. Defaults 0.75 and
    0.45.
    """
    least = min(share, copied)
    if _phrase_fraction(answer, least, length) <= least or _ASKS_FOR_REPETITION.search(_instruction(question)):
        return None
    prose = strip_drawn_rules(_LINK.sub("", _strip_structure(answer)))
    fraction = _phrase_fraction(prose, least, length)
    if fraction <= least or 2 * len(_LETTERS.findall(prose)) < len(prose):
        return None
    copy = longest_copy(prose, _ngram_length(prose, length))
    if fraction <= share and (copy < _MIN_REPEATED or copy <= copied * len(prose)):
        return None
    if fraction <= MAX_VERSE_REPETITION and is_verse(prose):
        return None
    if fraction <= _LOOP and _phrase_fraction(question, 0.0, length) > share / 3:
        return None
    return Drop("repeated_phrases", f"share {fraction:.2f}")


def _ngram_length(text: str, length: int) -> int:
    han, latin, *_ = count_char_kinds(text)
    return length if han >= latin else 3 * length


def _phrase_fraction(text: str, share: float, length: int) -> float:
    return repeated_ngram_fraction(text, _ngram_length(text, length), share)


def _strip_structure(text: str) -> str:
    """Remove fenced code, lines that look like code, rows of tables, and fields (周一：慢跑三公里)."""
    return "\n".join(line for line in strip_code(text).split("\n") if not _is_structure(line))


def _is_structure(line: str) -> bool:
    return line.count("|") > 1 or bool(_FIELD.match(line) or _CODE_MARK.search(line))


ANSWER_RULES: dict[str, Callable[..., Drop | None]] = {
    rule.__name__: rule for rule in (repeated_lines, repeated_characters, repeated_phrases, symbols)
}
