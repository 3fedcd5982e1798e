"""Whether an answer follows an instruction of IFEval (Zhou et al. 2023, arXiv:2311.07911), told by a program.

The rules are those of the paper's table 1. Sentences and languages are told by rules of our own (the original asks NLTK
and langdetect, whose data has to be downloaded): sentences end at `.`, `!` or `?` before white space or the end,
languages are told by their script and their most frequent words. `bench/ifeval.py` counts how often both agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import parse_json
from hanlin.core.i18n import join_list, tr

Arguments = Mapping[str, Any]
INSTRUCTIONS, ARGUMENTS = "instruction_id_list", "kwargs"
"""Fields of a row: the instructions of its prompt, and the arguments of each."""
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ABBREVIATIONS = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|Jr|Sr|Inc|Ltd|Ph\.D|[ap]\.m)\.|\b(?:[A-Z]\.){2,}(?=\s+[a-z])"
    r"|(?<![.\w])[A-Z]\.(?=\s?[A-Z])|\.{3,}"
)
"""Periods after which NLTK's model of English goes on with the sentence; after `etc.`, `e.g.` and `No.` it does not."""
_WORD = re.compile(r"(?:[^\W\d_]\.){2,}|\w+(?:[-.]\w+)*|'\w+")
_SCRIPTS = {
    "zh": r"[\u4e00-\u9fff]",
    "ja": r"[\u3040-\u30ff]",
    "ko": r"[\uac00-\ud7af]",
    "ar": r"[\u0600-\u06ff]",
    "fa": r"[\u0600-\u06ff]",
    "ur": r"[\u0600-\u06ff]",
    "he": r"[\u0590-\u05ff]",
    "hi": r"[\u0900-\u097f]",
    "mr": r"[\u0900-\u097f]",
    "ne": r"[\u0900-\u097f]",
    "bn": r"[\u0980-\u09ff]",
    "pa": r"[\u0a00-\u0a7f]",
    "gu": r"[\u0a80-\u0aff]",
    "ta": r"[\u0b80-\u0bff]",
    "te": r"[\u0c00-\u0c7f]",
    "kn": r"[\u0c80-\u0cff]",
    "ml": r"[\u0d00-\u0d7f]",
    "th": r"[\u0e00-\u0e7f]",
    "ru": r"[\u0400-\u04ff]",
    "bg": r"[\u0400-\u04ff]",
    "uk": r"[\u0400-\u04ff]",
    "el": r"[\u0370-\u03ff]",
}
_WORDS = {
    "en": "the and of to in is that it for with you are was this",
    "de": "der die und das ist nicht ein zu mit den auf für ich sie",
    "fr": "le la les et des est un une dans pour que pas qui du",
    "es": "el la los que de y en un una es por con para las",
    "it": "il la che di e un una per non con sono del della",
    "pt": "o a que de e um uma para não com os as do da em",
    "nl": "de het een en van is dat niet met voor op te zijn",
    "fi": "ja on ei se että hän mutta oli kun ovat myös tai",
    "vi": "và của là có không được cho trong một các những người",
    "sw": "na ya wa kwa ni katika za la kuwa hii yake",
    "pl": "i w na nie się z do jest to że jak",
    "tr": "ve bir bu için ile da de çok olarak daha",
    "id": "yang dan di ini itu dengan untuk tidak dari adalah",
}


def check_instructions(row: Mapping[str, Any], location: str) -> None:
    """Check the instructions of a row: one that no program tells would count as not followed in every answer.

    Raises:
        UserError: An instruction is unknown or lacks an argument, or the lists differ in length; with the location.
    """
    names, arguments = row[INSTRUCTIONS], row.get(ARGUMENTS)
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
        what = tr("`{names}` and `{arguments}` are lists of one length", names=INSTRUCTIONS, arguments=ARGUMENTS)
        raise UserError(what, location)
    for name, given in zip(names, arguments, strict=True):
        if name not in _CHECKS:
            hint = did_you_mean(str(name), list(_CHECKS))
            raise UserError(tr("there is no instruction '{name}' in IFEval", name=name), location, hint)
        known = {key for key, value in (given.items() if isinstance(given, Mapping) else ()) if value is not None}
        missing = [key for key in _NEEDED.get(name, ()) if key not in known]
        if missing:
            what = tr("the instruction {name} needs {arguments}", name=name, arguments=join_list(missing))
            raise UserError(what, location)


def follows(name: str, arguments: Arguments, prompt: str, answer: str, loose: bool = False) -> bool:
    """Whether an answer follows one instruction.

    Args:
        name: The instruction's id, such as `punctuation:no_comma`.
        arguments: Its arguments; those that are None are left out.
        prompt: The whole prompt.
        answer: The answer. An empty one follows nothing.
        loose: Whether it is enough that the answer follows without its first or last line or its asterisks.
    """
    check = _CHECKS.get(name)
    if check is None:
        return False
    given = {key: value for key, value in arguments.items() if value is not None}
    given.setdefault("prompt_to_repeat", prompt)
    return any(_passes(check, text, given) for text in (_variants(answer) if loose else (answer,)))


def _passes(check: Callable[[str, Arguments], bool], text: str, given: Arguments) -> bool:
    try:
        return bool(text.strip()) and check(text, given)
    except (KeyError, TypeError, ValueError, re.error):
        return False


def _variants(answer: str) -> Iterator[str]:
    lines = answer.split("\n")
    for text in (answer, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])):
        yield text.strip() if text is not answer else text
        yield text.replace("*", "")


def _compare(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


def count_sentences(text: str) -> int:
    """Sentences of an English text."""
    plain = _ABBREVIATIONS.sub("", text)
    return sum(bool(re.search(r"\w", part)) for part in re.split(r"(?<=[.!?])[\"')\]*]*(?:\s+|$)", plain))


def _is_language(text: str, language: str) -> bool:
    letters = re.findall(r"[^\W\d_]", text)
    if not letters:
        return True
    if language in _SCRIPTS:
        return len(re.findall(_SCRIPTS[language], text)) > len(letters) / 2
    counts = _count_frequent(text)
    if language not in counts:
        return False
    return counts[language] > 0 and counts[language] == max(counts.values())


def _count_frequent(text: str) -> dict[str, int]:
    """How many words of a text are frequent ones of each language in Latin letters."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return {code: sum(word in frequent.split() for word in words) for code, frequent in _WORDS.items()}


def _placeholders(text: str, given: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"]


def _bullets(text: str, given: Arguments) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*]|-)", text, re.MULTILINE)) == given["num_bullets"]


def _highlights(text: str, given: Arguments) -> bool:
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part.strip("*").strip()]
    return len(single) + len(double) >= given["num_highlights"]


def _sections(text: str, given: Arguments) -> bool:
    marker = re.escape(given["section_spliter"].strip())
    return len(re.findall(rf"\s?{marker}\s?\d+\s?", text)) >= given["num_sections"]


def _paragraphs(text: str, given: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1] if len(parts) > 2 else []
    if not all(part.strip() for part in inner):
        return False
    return sum(bool(part.strip()) for part in parts) == given["num_paragraphs"]


def _first_word(text: str, given: Arguments) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    nth = given["nth_paragraph"]
    if nth > count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'\"")
    word = re.split(r"[.,?!'\"]", word)[0].lower()
    return count == given["num_paragraphs"] and word == given["first_word"].lower()


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"].strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()))


def _json(text: str, given: Arguments) -> bool:
    text = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE)
    parse_json(text.strip())
    return True


def _two_answers(text: str, given: Arguments) -> bool:
    parts = text.split("******")
    outer = [part.strip() for index, part in enumerate(parts) if part.strip() or 0 < index < len(parts) - 1]
    return len(outer) == 2 and all(outer) and outer[0] != outer[1]


def _letters(text: str, given: Arguments) -> bool:
    return _compare(text.lower().count(given["letter"].lower()), given["let_relation"], given["let_frequency"])


def _capital_words(text: str, given: Arguments) -> bool:
    count = sum(word.isupper() for word in _WORD.findall(text))
    return _compare(count, given["capital_relation"], given["capital_frequency"])


def _is_english(text: str) -> bool:
    """Whether a text is in Latin letters and no other language's frequent words are more often in it."""
    if re.search(r"[^\x00-\u024f\u2000-\u27bf]", text):
        return False
    counts = _count_frequent(text)
    return counts["en"] == max(counts.values())


_CHECKS: dict[str, Callable[[str, Arguments], bool]] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, given: text.isupper() and _is_english(text),
    "change_case:english_lowercase": lambda text, given: text.islower() and _is_english(text),
    "combination:repeat_prompt": lambda text, given: (
        text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())
    ),
    "combination:two_responses": _two_answers,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text, given: any(option in text for option in _OPTIONS),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda text, given: bool(re.search(r"<<[^\n]*\w[^\n]*>>", text)),
    "keywords:existence": lambda text, given: all(
        re.search(re.escape(word), text, re.IGNORECASE) for word in given["keywords"]
    ),
    "keywords:forbidden_words": lambda text, given: (
        not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in given["forbidden_words"])
    ),
    "keywords:frequency": lambda text, given: _compare(
        len(re.findall(re.escape(given["keyword"].strip()), text, re.IGNORECASE)), given["relation"], given["frequency"]
    ),
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, given: _is_language(text, given["language"]),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": lambda text, given: _compare(
        count_sentences(text), given["relation"], given["num_sentences"]
    ),
    "length_constraints:number_words": lambda text, given: _compare(
        len(re.findall(r"\w+", text)), given["relation"], given["num_words"]
    ),
    "punctuation:no_comma": lambda text, given: "," not in text,
    "startend:end_checker": lambda text, given: (
        text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, given: (
        len(text.strip()) > 1 and text.strip().startswith('"') and text.strip().endswith('"')
    ),
}
_NEEDED: dict[str, tuple[str, ...]] = {
    "change_case:capital_word_frequency": ("capital_frequency", "capital_relation"),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "keywords:existence": ("keywords",),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:frequency": ("keyword", "frequency", "relation"),
    "keywords:letter_frequency": ("letter", "let_frequency", "let_relation"),
    "language:response_language": ("language",),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_sentences": ("num_sentences", "relation"),
    "length_constraints:number_words": ("num_words", "relation"),
    "startend:end_checker": ("end_phrase",),
}
"""The arguments without which an instruction means nothing."""
