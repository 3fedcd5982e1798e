"""What is counted over the answers to probes: each figure is a yes or no about one answer, or that it does not apply.

The detectors are those of the data rules, so that a habit is called here what it is called in training data: the
language (`data.text.language_id`), repetition (`data.filters.answers`), refusals (`data.filters.refusals`), other
assistants' names (`data.filters.identity`), tags of reasoning (`chat.reasoning`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from hanlin.chat.reasoning import spells_tags
from hanlin.config.settings.data import Identity
from hanlin.config.settings.rules import ANSWER_RULES, Rule
from hanlin.core.files import parse_json
from hanlin.core.i18n import mark
from hanlin.core.records import Message
from hanlin.data.filters.answers import build_answer_rules, judge_answers
from hanlin.data.filters.identity import rewrite_identity
from hanlin.data.filters.language import han_share
from hanlin.data.filters.refusals import find_refusal
from hanlin.data.filters.responses import strip_quoted
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.language_id import identify_language

_CHINESE = ("zh-Hans", "zh-Hant", "yue")
_MAX_OTHER_SCRIPT = 0.2
"""The rule `answer_language` asks for a share of 0.8 of the letters in the script of a language."""
_MIN_LETTERS = 20
"""As in the rule `answer_language`: fewer letters (a name, a number, a term) have no language."""
_REPETITION_RULES = build_answer_rules(
    Rule(name=name, parameters=dict(parameters)) for name, parameters in ANSWER_RULES.items() if name != "symbols"
)
_NEXT_TURN = re.compile(
    r"<\|[A-Za-z_]{2,24}\|>|</s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|\n\s*(?:#{1,3}\s*)?(?:user|human|assistant|instruction|用户|助手|问|答)\s*[:：]",
    re.I,
)
"""What a model writes that does not end: a token of a template as text, or the next speaker's label."""
_THINKS_ALOUD = re.compile(
    r"\s*(?:(?:好的|嗯|首先|那么)?[，,、\s]*(?:用户|提问者)(?:问|想|要求|让我|希望|的问题|提到|说|给)"
    r"|(?:嗯|唔)[，,…]+(?:我|让我|这)|让我(?:先)?(?:想想|想一想|思考|分析一下)[，,。…]"
    r"|(?:okay|ok|alright|hmm+|well)[,.…]*\s+(?:so|the user|let me|I need|let's)\b"
    r"|(?:so,?\s+)?the user (?:is|wants|asks|asked|said|has)\b"
    r"|let me think\b|first, I need to\b|we need to (?:answer|respond|figure)\b)",
    re.I,
)
"""How answers begin that are thoughts without tags."""
_DENIES = re.compile(r"(?:不是|并非|不叫|而非|\bnot\b|n['’]t\b)[^。！？!?.\n，,；;]*", re.I)
"""What a model says that it is not."""
_FENCE = re.compile(r"\s*```[\w-]*\n(.*?)\n?```\s*", re.S)
_NUMBER = re.compile(r"(?<![\d.])[-−]?\d+(?:\.\d+)?")
_FINAL = re.compile(
    r"\\boxed\{|####|答案\s*(?:是|为|[:：])|(?:结果|得数)\s*(?:是|为|[:：])|answer\s*(?:is|[:：])|等于|=", re.I
)
_MARKED_ITEM = re.compile(r"\s*\d{1,2}\s*[.、)）．]\s*\S")
_SENTENCE_END = re.compile(r"[。！？!?…]+|(?<=[A-Za-z\d\"')])\.(?=\s|$)")
_LATIN_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote: its thoughts, if the template or the server sets them apart, and the text after them.

    `finish` is `stop` if the model ended it, `length` if a limit did. `tokens` is None if a server does not say.
    """

    text: str
    reasoning: str = ""
    finish: str = "stop"
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt as the checks see it: its text, the language of the answer, what is expected, the names to know."""

    question: str
    language: Literal["zh", "en"]
    expect: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    author: str = ""


Check = Callable[[Answer, Case], bool | None]
"""Whether the figure counts this answer; None if it says nothing about it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A share of answers. `higher_is_better` says which way is good; `description` is a message of the catalog."""

    check: Check
    higher_is_better: bool
    description: str


# --- language ---------------------------------------------------------------------------------------------------------


def is_in_language(answer: Answer, case: Case) -> bool | None:
    """Whether an answer is in the language that it should be; None for one without letters."""
    if not answer.text.strip():
        return False
    identified = identify_language(answer.text)
    if identified == "none":
        return None
    if case.language == "zh":
        return identified in _CHINESE
    han, latin, other, *_ = count_char_kinds(answer.text)
    return identified == "en" or (latin > han + other and latin < _MIN_LETTERS)


def in_chinese(answer: Answer, case: Case) -> bool | None:
    """Of a prompt whose answer should be Chinese, whether it is."""
    return is_in_language(answer, case) if case.language == "zh" else None


def in_english(answer: Answer, case: Case) -> bool | None:
    """Of a prompt whose answer should be English, whether it is."""
    return is_in_language(answer, case) if case.language == "en" else None


def mixes_languages(answer: Answer, case: Case) -> bool | None:
    """Whether more than a fifth of an answer in the right language is in the other script, code and quotes left out."""
    if is_in_language(answer, case) is not True:
        return None
    prose = strip_quoted(answer.text)
    han, latin, other, *_ = count_char_kinds(prose)
    share = han_share(prose)
    if han + latin + other < _MIN_LETTERS or share is None:
        return False
    return (1 - share if case.language == "zh" else share) > _MAX_OTHER_SCRIPT


# --- ends, repetition, refusals ---------------------------------------------------------------------------------------


def stops(answer: Answer, case: Case) -> bool:
    """Whether the model ended its answer itself and did not go on to write the next turn."""
    return answer.finish == "stop" and _NEXT_TURN.search(answer.text) is None


def repeats(answer: Answer, case: Case) -> bool:
    """Whether a rule on repetition of the data stages would drop the answer.

    The question is not shown to the rules: they take 第一次 and `14 times` for a request to repeat, which none of the
    prompts is; one of a user's own that is has `skip`.
    """
    return judge_answers((Message("assistant", answer.text),), _REPETITION_RULES) is not None


def is_empty(answer: Answer, case: Case) -> bool:
    """Whether there is nothing in the answer, whatever was thought before it."""
    return not answer.text.strip()


def refuses(answer: Answer, case: Case) -> bool:
    """Whether the answer declines and does nothing else; every prompt here can be answered."""
    return bool(find_refusal(answer.text, case.question))


# --- identity, reasoning ----------------------------------------------------------------------------------------------


def knows_name(answer: Answer, case: Case) -> bool | None:
    """Whether the answer says the name that the model should have; None if no name was set."""
    return _fold(case.name) in _fold(answer.text) if case.name else None


def claims_other_name(answer: Answer, case: Case) -> bool:
    """Whether a sentence in which the model speaks of itself has another assistant's name, or another maker's."""
    text = _DENIES.sub("", answer.text)
    identity = Identity(name=case.name or "\x00", author=case.author or "\x00")
    return rewrite_identity((Message("assistant", text),), identity)[0].text != text


def leaks_thinking(answer: Answer, case: Case) -> bool:
    """Whether thoughts are in the answer itself: it spells a tag of reasoning, or begins by thinking aloud."""
    return spells_tags(answer.text) or _THINKS_ALOUD.match(answer.text) is not None


# --- what was asked for -----------------------------------------------------------------------------------------------


def has_number(answer: Answer, case: Case) -> bool | None:
    """Whether the number that the answer ends with is the right one; None for a prompt without a number."""
    if "number" not in case.expect:
        return None
    number = final_number(answer.text)
    return number is not None and number == Decimal(case.expect["number"])


def final_number(text: str) -> Decimal | None:
    """The first number after the last `答案是`, `answer is`, `=` or the like; without one, the last of the text."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", unicodedata.normalize("NFKC", text))
    ends = [match.end() for match in _FINAL.finditer(text)]
    stated = _NUMBER.search(text, ends[-1]) if ends else None
    numbers = [stated] if stated else list(_NUMBER.finditer(text))[-1:]
    return Decimal(numbers[0][0].replace("−", "-")) if numbers else None


def follows_format(answer: Answer, case: Case) -> bool | None:
    """Whether the whole answer has the form that was asked for; None for a prompt that asks for none.

    One code fence around the whole is allowed, since many chats show one; a final stop after a single word too.
    """
    name = next((name for name in _FORMATS if name in case.expect), None)
    if name is None:
        return None
    fenced = _FENCE.fullmatch(answer.text)
    text = (fenced[1] if fenced else answer.text).strip()
    return _FORMATS[name](text, case.expect[name])


def _is_json(text: str, keys: tuple[str, ...]) -> bool:
    try:
        value = parse_json(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(keys)


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _has_lines(text: str, count: int) -> bool:
    return len(_lines(text)) == count and not any(_MARKED_ITEM.match(line) for line in _lines(text))


def _is_numbered(text: str, count: int) -> bool:
    lines = _lines(text)
    return len(lines) == count and all(_MARKED_ITEM.match(line) for line in lines)


def _is_one_of(text: str, choices: tuple[str, ...]) -> bool:
    return _fold(text).strip(" .。!！\"'“”*") in {_fold(choice) for choice in choices}


def _matches(text: str, pattern: str) -> bool:
    return re.fullmatch(pattern, text.rstrip("。. "), re.S) is not None or re.fullmatch(pattern, text, re.S) is not None


def _is_table(text: str, columns: int) -> bool:
    lines = [line.strip() for line in _lines(text)]
    cells = [line.strip("|").split("|") for line in lines]
    return (
        len(lines) >= 3
        and all("|" in line for line in lines)
        and all(len(row) == columns for row in cells)
        and all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in cells[1])
    )


_FORMATS: dict[str, Callable[[str, Any], bool]] = {
    "json_keys": _is_json,
    "lines": _has_lines,
    "numbered": _is_numbered,
    "one_of": _is_one_of,
    "matches": _matches,
    "table": _is_table,
}


def exceeds_length(answer: Answer, case: Case) -> bool | None:
    """Whether an answer is longer than was asked for; None for a prompt without a limit."""
    measured = [(measure(answer.text), case.expect[name]) for name, measure in _MEASURES.items() if name in case.expect]
    return any(length > limit for length, limit in measured) if measured else None


def count_characters(text: str) -> int:
    """The Chinese characters of a text, and one for each word or number in Latin letters; marks are not counted."""
    return count_char_kinds(text)[0] + len(_LATIN_WORD.findall(text))


def count_sentences(text: str) -> int:
    """The sentences of a text, the last one even if it has no stop."""
    return sum(any(letter.isalnum() for letter in part) for part in _SENTENCE_END.split(text))


_MEASURES: dict[str, Callable[[str], int]] = {
    "max_characters": count_characters,
    "max_words": lambda text: len(_LATIN_WORD.findall(text)),
    "max_sentences": count_sentences,
}


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


FIGURES: dict[str, Figure] = {
    "answers_in_chinese": Figure(in_chinese, True, mark("answers in Chinese when it should")),
    "keeps_english": Figure(in_english, True, mark("answers in English when it should")),
    "mixed_language": Figure(mixes_languages, False, mark("mixes the two languages")),
    "stops": Figure(stops, True, mark("stops by itself")),
    "repeats": Figure(repeats, False, mark("repeats itself")),
    "empty": Figure(is_empty, False, mark("says nothing")),
    "refuses_needlessly": Figure(refuses, False, mark("refuses what is harmless")),
    "knows_name": Figure(knows_name, True, mark("knows its name")),
    "claims_other_name": Figure(claims_other_name, False, mark("claims to be another assistant")),
    "follows_format": Figure(follows_format, True, mark("keeps to the format that is asked for")),
    "arithmetic": Figure(has_number, True, mark("gets arithmetic right")),
    "longer_than_asked": Figure(exceeds_length, False, mark("is longer than asked")),
    "thinking_leaked": Figure(leaks_thinking, False, mark("shows its thoughts in the answer")),
}
"""Every figure by name, in the order in which reports show them."""

ANY_ANSWER = (
    "mixed_language",
    "stops",
    "repeats",
    "empty",
    "refuses_needlessly",
    "claims_other_name",
    "thinking_leaked",
)
"""The figures that are counted over the answers to every prompt."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "arithmetic": ("number",),
    "follows_format": tuple(_FORMATS),
    "longer_than_asked": tuple(_MEASURES),
}
"""What a prompt must expect, one of each, so that a figure can be counted."""


def check_answer(answer: Answer, case: Case, figures: tuple[str, ...]) -> dict[str, bool]:
    """The figures that say something about an answer, each with whether it counts it.

    An answer that says nothing is counted as empty, as one in no language, and as one that misses what was asked for;
    it neither mixes languages nor repeats, refuses or claims anything.
    """
    counted = ((name, FIGURES[name].check(answer, case)) for name in figures)
    return {name: value for name, value in counted if value is not None}
