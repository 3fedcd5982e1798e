"""Rows that hold the same fields in several languages, of which one is read.

    {"instruction": "…", "output": "…", "instruction_zh": "…", "output_zh": "…"}    as columns; also zh_output, outputZh
    {"question": {"zh": "…", "en": "…"}, "answer": {"zh": "…", "en": "…"}}          as objects
    {"zh": {"question": "…", "answer": "…"}, "en": {…}}                             as rows in a row

One language is read for the whole row, so that no question is answered in another: the one that is asked for, else the
columns without a language in their name (`plain`), else the first that has a text wherever another one has. What is
left out is named. A Chinese and an English answer to one question are a pair (`language_pairs`), and left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hanlin.core.i18n import join_list, tr
from hanlin.data.formats.content.parts import CONTENT_FIELDS
from hanlin.data.formats.content.reasoning import ROW_REASONING_FIELDS
from hanlin.data.formats.documents import TEXT_FIELDS
from hanlin.data.formats.history import HISTORY_FIELDS
from hanlin.data.formats.questions import ANSWER_FIELDS, QUESTION_FIELDS, ROLE_PAIRS, SYSTEM_FIELDS

ALL = "all"
"""The value of `read_language` that reads each language as a row of its own."""
PLAIN = "plain"
"""The language of columns without one in their name."""
TRADITIONAL = "zh-Hant"
_NAMES_OF = {
    "zh": "zh cn zho chs zhcn zhhans hans chinese simplifiedchinese mandarin 中文 汉语 简体 简体中文",
    TRADITIONAL: "zhtw zhhk zhhant hant tw cht traditionalchinese 繁体 繁體 繁体中文 繁體中文",
    "en": "en eng enus english 英文 英语 英語",
    "ja": "ja jp jpn japanese 日文 日语 日本語",
    "ko": "ko kr kor korean 韩文 韩语",
    "fr": "fr fra french 法文 法语",
    "de": "de deu ger german 德文 德语",
    "es": "es spa spanish 西班牙语",
    "ru": "ru rus russian 俄文 俄语",
    "ar": "ar ara arabic",
    "pt": "pt por portuguese",
    "it": "ita italian",
    "vi": "vi vie vietnamese",
    "th": "th tha thai",
    "tr": "tur turkish",
    "hi": "hin hindi",
    "te": "tel telugu",
    "ta": "tam tamil",
    "bn": "ben bengali",
    "id": "ind indonesian",
    "ms": "msa malay",
    "fa": "fas persian",
    "nl": "nld dutch",
    "pl": "pol polish",
    "uk": "ukr ukrainian",
    "sv": "swe swedish",
    "cs": "ces czech",
    "bo": "bod tibetan 藏文 藏语",
    "ug": "uig uyghur 维文 维吾尔语",
    "mn": "mon mongolian 蒙文 蒙古语",
    "yue": "yue cantonese 粤语 粵語",
    "translated": "translated",
}
LANGUAGES = tuple(_NAMES_OF)
"""Languages by their names in columns, in small letters and without marks: `it`, `id` and the like are other words."""
_LANGUAGE_OF = {name: code for code, names in _NAMES_OF.items() for name in names.split()}
_ROLES = frozenset(name for pair in ROLE_PAIRS for name in pair)
_ASKED = frozenset((*QUESTION_FIELDS, "instruction", "problem", *(pair[0] for pair in ROLE_PAIRS)))
_ANSWERED = frozenset((*ANSWER_FIELDS, "generation", "solution", "chosen", *(pair[1] for pair in ROLE_PAIRS)))
_WHOLE = frozenset(("messages", "conversations", "conversation", "dialog", "dialogue", *TEXT_FIELDS))
"""Fields that are a record of their own."""
_BESIDE = frozenset((*SYSTEM_FIELDS, *HISTORY_FIELDS, "context", "rejected", "tools"))
_OPTIONAL = frozenset((*ROW_REASONING_FIELDS, "title"))
"""Fields that a language may lack, and be read all the same."""
_FIELDS = _ASKED | _ANSWERED | _WHOLE | _BESIDE | _OPTIONAL
_TURN_FIELDS = frozenset((*CONTENT_FIELDS, *_ROLES, "input", "output", "question", "answer"))
_TURN_LISTS = frozenset(("messages", "conversations", "conversation", "dialogue", "dialog", "turns"))
_MARKS = re.compile(r"[\s_\-.()（）\[\]]+")
_MAX_NAME_CHARS = 60
_MAX_COLUMNS = 400


@dataclass(frozen=True, slots=True)
class OneLanguage:
    """A row in one of its languages.

    Attributes:
        row: The row, with the texts of this language under the names without it.
        language: The language; empty if the row has no choice of one.
        unread: Names of the columns of other languages, as the file has them.
    """

    row: Any
    language: str = ""
    unread: tuple[str, ...] = ()


_Variants = dict[str, dict[str, str]]
"""Field without a language: language: column."""


def choose_languages(row: Any, asked: str) -> Sequence[OneLanguage]:
    """Choose the language that a row is read in.

    Args:
        row: A row of a file.
        asked: The setting `read_language`: a language, or `ALL`.

    Returns:
        The row in one language, or for `ALL` in each that is whole; the row as it is if it is in one.
    """
    if not isinstance(row, dict) or len(row) > _MAX_COLUMNS:
        return (OneLanguage(row),)
    names = tuple(row)
    variants: _Variants = {}
    columns = row
    if may_name_languages(names) or any(type(value) is dict for value in row.values()):
        columns = _unfold(row)
        variants = _find_variants(columns, _FIELDS)
    if not variants:
        return _choose_in_turns(row, asked)
    if _WHOLE.isdisjoint(variants) and (_ASKED.isdisjoint(variants) or _ANSWERED.isdisjoint(variants)):
        return (_name_left(row, columns, variants),)
    languages = [language for language in _list_languages(variants) if _is_whole(variants, language)]
    chosen = languages if asked == ALL else _prefer(languages, asked)[:1]
    return _name_unread([_read_in(columns, variants, language) for language in chosen]) or (OneLanguage(row),)


@lru_cache(maxsize=4096)
def may_name_languages(names: tuple[Any, ...]) -> bool:
    """Whether one of some names of columns is a language, or a field and a language."""
    return any(isinstance(name, str) and (split_column(name)[0] or _find_language(name)) for name in names)


def _unfold(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose objects by language are columns: `question.zh` of {"question": {"zh": …}}, `zh.question` likewise."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and value and _is_by_language(name, value):
            columns |= {f"{name}.{key}": item for key, item in value.items()}
        elif _find_language(str(name)) and _is_turn_list(value):
            columns[f"{name}.messages"] = value
        else:
            columns[name] = value
    return columns


def _is_by_language(name: str, value: Mapping[str, Any]) -> bool:
    if name in _FIELDS:
        return all(map(_find_language, map(str, value)))
    return bool(_find_language(str(name))) and not _FIELDS.isdisjoint(value)


def _is_turn_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, dict) and len(t) > 1 for t in value)


def _find_language(name: str) -> str:
    return _LANGUAGE_OF.get(_MARKS.sub("", name.lower()), "") if len(name) <= _MAX_NAME_CHARS else ""


@lru_cache(maxsize=4096)
def split_column(name: str) -> tuple[str, str]:
    """Split the name of a column into (field, language); ("", "") if it is not made of both."""
    if len(name) > _MAX_NAME_CHARS:
        return "", ""
    words = [word for word in _MARKS.split(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]
    for index in range(1, len(words)):
        for field, language in (("_".join(words[:index]), words[index:]), ("_".join(words[index:]), words[:index])):
            code = _LANGUAGE_OF.get("".join(language), "")
            if code and field in _FIELDS | _TURN_FIELDS:
                return field, code
    for field in _FIELDS if len(words) == 1 and not name.isascii() else ():
        if field in name and (code := _LANGUAGE_OF.get(name.replace(field, "", 1).lower(), "")):
            return field, code
    return "", ""


def _find_variants(row: Mapping[str, Any], fields: frozenset[str]) -> _Variants:
    """The columns with a value of each field that has one with a language in its name; that of no language is plain."""
    variants: _Variants = {}
    for name, value in row.items():
        field, language = split_column(name) if type(name) is str else ("", "")
        if field in fields:
            columns = variants.setdefault(field, {})
            if not _is_empty(value):
                columns.setdefault(language, name)
    if variants:
        for name, value in row.items():
            field = str(name).lower()
            if field in variants and not _is_empty(value):
                variants[field][PLAIN] = name
    return {field: columns for field, columns in variants.items() if columns}


def _is_empty(value: Any) -> bool:
    return value in (None, "", [], {})


def _list_languages(variants: _Variants) -> list[str]:
    return list(dict.fromkeys(language for columns in variants.values() for language in columns))


def _is_whole(variants: _Variants, language: str) -> bool:
    """Whether a language has a text in every field in which one has."""
    return all(language in columns for field, columns in variants.items() if field not in _OPTIONAL)


def _prefer(languages: Sequence[str], asked: str) -> list[str]:
    order = [asked, *([TRADITIONAL] if asked == "zh" else []), PLAIN]
    return sorted(languages, key=lambda language: order.index(language) if language in order else len(order))


def _read_in(row: Mapping[str, Any], variants: _Variants, language: str) -> OneLanguage:
    """A row with the columns of one language under the names without it, and without those of the others."""
    column_of = {columns[language]: field for field, columns in variants.items() if language in columns}
    others = {name for columns in variants.values() for name in columns.values()} - column_of.keys()
    read = {column_of.get(name, name): value for name, value in row.items() if name not in others}
    unread = tuple(name for name in row if name in others)
    return OneLanguage(read, language if unread else "", unread)


def _name_left(row: dict[str, Any], columns: Mapping[str, Any], variants: _Variants) -> OneLanguage:
    """A row that has not both its question and its answer in languages: what stands beside a plain one is named."""
    core = {field: found for field, found in variants.items() if field in _ASKED | _ANSWERED}
    if any("zh" in found and "en" in found for found in core.values()):
        return OneLanguage(row)
    left = [name for found in core.values() if PLAIN in found for code, name in found.items() if code != PLAIN]
    if not left:
        return OneLanguage(row)
    return OneLanguage({name: value for name, value in columns.items() if name not in left}, PLAIN, tuple(left))


def _name_unread(rows: Sequence[OneLanguage]) -> list[OneLanguage]:
    """The rows made of one, without the names of columns that another of them is read from."""
    if len(rows) < 2:
        return list(rows)
    unread = set.intersection(*(set(one.unread) for one in rows))
    return [replace(one, unread=tuple(name for name in one.unread if name in unread)) for one in rows]


def find_parallel(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the columns of a row whose names are languages and nothing else, if there are several with texts."""
    names = [str(name) for name, value in row.items() if isinstance(value, str) and _find_language(str(name))]
    inner = row.get("translation")
    if not names and isinstance(inner, dict):
        names = [f"translation.{name}" for name in inner if _find_language(str(name))]
    return tuple(names) if len(names) > 1 else ()


def _choose_in_turns(row: dict[str, Any], asked: str) -> Sequence[OneLanguage]:
    """Choose the language of a row whose turns hold their texts in several."""
    for name in _TURN_LISTS.intersection(row):
        turns = row[name]
        if not isinstance(turns, list) or not any(isinstance(t, dict) and may_name_languages(tuple(t)) for t in turns):
            continue
        if asked != ALL:
            return (_read_turns(row, name, asked),)
        found = [_find_variants(turn, _TURN_FIELDS) for turn in turns if isinstance(turn, dict)]
        languages = dict.fromkeys(language for variants in found for language in _list_languages(variants))
        return _name_unread([_read_turns(row, name, language) for language in languages]) or (OneLanguage(row),)
    return (OneLanguage(row),)


def _read_turns(row: dict[str, Any], name: str, asked: str) -> OneLanguage:
    read = [_read_turn(turn, asked) for turn in row[name]]
    unread = dict.fromkeys(f"turn.{column}" for turn in read for column in turn.unread)
    language = next((turn.language for turn in read if turn.language), "")
    return OneLanguage({**row, name: [turn.row for turn in read]}, language, tuple(unread))


def _read_turn(turn: Any, asked: str) -> OneLanguage:
    variants = _find_variants(turn, _TURN_FIELDS) if isinstance(turn, dict) else {}
    languages = [language for language in _list_languages(variants) if _is_whole(variants, language)]
    return _read_in(turn, variants, _prefer(languages, asked)[0]) if languages else OneLanguage(turn)


def describe_languages(counts: Mapping[str, int]) -> str:
    """Say which language was read of rows that hold several, and how another one is read.

    Args:
        counts: Records by the language that was read.
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tr(
        "rows hold their texts in several languages, read in: {names}; `read_language: {other}` of a source, or "
        "--read-language {other}, reads another, `all` each ({plain}: columns that name no language)",
        other=next(language for language in ("en", "zh", "ja") if language not in counts or language == "ja"),
        names=join_list([f"{name} {count:,}" for name, count in ranked]),
        plain=PLAIN,
    )
