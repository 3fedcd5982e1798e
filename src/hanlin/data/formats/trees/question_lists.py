"""Questions and answers in numbered fields or in lists, written as turns, or as a row for each question.

{"q1": "甲？", "a1": "乙。", "q2": "丙？", "a2": "丁。"}     a conversation of two questions
{"questions": [["甲？", "何为甲？"]], "answers": ["乙。"]}      甲？ and 乙。; the other wording is named, not read
{"questions": ["甲？", "丙？"], "answers": ["乙。", "丁。"]}    two rows
{"role": "悟空", "question": "甲？", "generated": ["乙。"]}     甲？ and 乙。; nothing tells the model its role
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_PAIRS = (
    *(("q", "a"), ("question", "answer"), ("prompt", "response"), ("query", "response"), ("user", "assistant")),
    *(("human", "assistant"), ("human", "gpt"), ("human", "bot"), ("user", "bot"), ("问", "答"), ("问题", "回答")),
    *(("问题", "答案"), ("提问", "回答"), ("用户", "助手")),
)
"""Words for a question and its answer that numbers follow in the names of fields."""
_NUMBERED = re.compile(r"(.*?[^\W\d_])[ _.-]?(\d{1,2}|[一二三四五六七八九十])")
_DIGITS = {digit: number for number, digit in enumerate("一二三四五六七八九十", 1)}
_OTHER_FORMS = frozenset((
    *("messages", "conversations", "conversation", "instruction", "output", "chosen", "rejected", "question", "answer"),
    *("prompt", "response", "query", "answers", "text", "content", "问题", "回答", "答案"),
))  # fmt: skip
"""Fields of rows in another form, of which numbered questions are a side matter."""
_INTENTS = (("patterns", "responses"), ("text", "responses"), ("examples", "responses"), ("utterances", "responses"))
"""Fields of what a rule-based chatbot is asked in one meaning, and of what it says to that."""
_LISTS = (("questions", "answers"), ("question", "answer"), *_INTENTS)
_WHOLE_ROWS = frozenset((
    *("story", "context", "passage", "paragraph", "article", "document", "text", "content", "messages"),
    *("conversations", "conversation", "instruction", "chosen"),
))  # fmt: skip
"""Fields of rows that stay whole: a text that all questions are about, as in CoQA, of which each question needs those
before it, or a document or chat of which the questions are a side matter.
"""
_SAMPLED = "generated"
_ASKED = ("question", "instruction", "prompt", "query")
_ANSWERED = frozenset(("answer", "output", "response", "completion"))
_COLUMNS = frozenset(("questions", "answers"))
_FIELDS = frozenset(("questions", "answers", "answer", "responses", _SAMPLED))
Row = dict[str, Any]


@lru_cache(maxsize=4096)
def may_list_questions(names: tuple[Any, ...], has_lists: bool = True) -> bool:
    """Whether a row with fields of these names may number or list its questions."""
    fields = _FIELDS if has_lists else _COLUMNS
    return not fields.isdisjoint(names) or bool(_find_numbered(names))


def unfold_questions(row: Any) -> list[tuple[Any, tuple[str, ...]]]:
    """Write a row that numbers or lists its questions as the rows that it holds.

    Several wordings of one question, and several answers to it, are one row of the first of each: which wording goes
    with which answer is not said, and to learn one answer to ten wordings is to learn it ten times.

    Returns:
        The rows, and of each the fields that are not read whole; any other row as it is.
    """
    if not isinstance(row, dict) or not may_list_questions(tuple(row)):
        return [(row, ())]
    numbered = _find_numbered(tuple(row))
    if numbered:
        return [_join_numbered(row, numbered)]
    for questions, answers in _LISTS:
        if questions in row and answers in row:
            if answers == "responses":
                return _join_intent(row, questions)
            return _pair_lists(row, questions, answers)
    return [_take_first_sample(row) or (row, ())]


# --- numbered fields --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _find_numbered(names: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
    """The fields of numbered questions and of their answers, "" for none to the last; empty for other names."""
    if not _OTHER_FORMS.isdisjoint(names):
        return ()
    numbered: dict[str, dict[int, str]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name) if isinstance(name, str) else None
        if match is not None:
            number = _DIGITS.get(match[2]) or int(match[2])
            numbered.setdefault(match[1].lower(), {})[number] = name
    for question, answer in _PAIRS:
        asked, answered = numbered.get(question, {}), numbered.get(answer, {})
        first = min(asked, default=2)
        is_row = first < 2 and sorted(asked) == list(range(first, first + len(asked)))
        if (
            is_row
            and answered
            and sorted(answered) == sorted(asked)[: len(answered)]
            and len(asked) - len(answered) < 2
        ):
            return tuple((asked[number], answered.get(number, "")) for number in sorted(asked))
    return ()


def _join_numbered(row: Row, fields: tuple[tuple[str, str], ...]) -> tuple[Row, tuple[str, ...]]:
    turns = [(question, row[question], row.get(answer)) for question, answer in fields]
    while turns and not turns[-1][1] and not turns[-1][2]:
        turns.pop()  # empty cells of a table with room for more turns
    if not turns:
        return row, ()
    unread: tuple[str, ...] = ()
    if len(turns) > 1 and not turns[-1][2]:
        unread = (turns.pop()[0],)  # a question that nobody answered
    used = {name for pair in fields for name in pair} - set(unread)
    rest = {name: value for name, value in row.items() if name not in used}
    return {**rest, "conversation": [{"question": asked, "answer": said} for _, asked, said in turns]}, unread


# --- lists ------------------------------------------------------------------------------------------------------------


def _pair_lists(row: Row, questions: str, answers: str) -> list[tuple[Any, tuple[str, ...]]]:
    """The rows of lists of questions and of answers (Huatuo-26M); the row itself if they are anything else."""
    asked, said = _list_texts(row[questions]), _list_texts(row[answers])
    is_plain = isinstance(row[questions], str) and isinstance(row[answers], str)
    if not asked or not said or not _WHOLE_ROWS.isdisjoint(row) or (is_plain and questions == "question"):
        return [(row, ())]
    rest = {name: value for name, value in row.items() if name not in (questions, answers)}
    if len(asked) == len(said):
        pairs = list(zip(asked, said, strict=True))
    elif len(said) == 1 or len(asked) == 1:  # wordings of one question, or answers to one
        pairs = [([text for wordings in asked for text in wordings], [text for texts in said for text in texts])]
    else:
        return [(row, ())]
    rows: list[tuple[Any, tuple[str, ...]]] = []
    for wordings, texts in pairs:
        unread = ((questions,) if len(wordings) > 1 else ()) + ((answers,) if len(texts) > 1 else ())
        rows.append(({**rest, "question": wordings[0], "answer": texts[0]}, unread))
    return rows


def _join_intent(row: Row, questions: str) -> list[tuple[Any, tuple[str, ...]]]:
    """A row of what is asked and what is said to it, both in several wordings, as one row of the first of each."""
    asked, said = row[questions], row["responses"]
    are_lists = all(
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) for texts in (asked, said)
    )
    if not are_lists:
        return [(row, ())]
    rest = {name: value for name, value in row.items() if name not in (questions, "responses")}
    unread = ((questions,) if len(asked) > 1 else ()) + (("responses",) if len(said) > 1 else ())
    return [({**rest, "question": asked[0], "answer": said[0]}, unread)]


def _list_texts(value: Any) -> list[list[str]] | None:
    """Texts, or lists of texts that say the same, as lists; None for anything else."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        return None
    lists = [item if isinstance(item, list) else [item] for item in items]
    return lists if all(texts and all(isinstance(text, str) for text in texts) for texts in lists) else None


def _take_first_sample(row: Mapping[str, Any]) -> tuple[Row, tuple[str, ...]] | None:
    """A question with its sampled answers (RoleBench), as a row of the first one; None for any other row."""
    samples = row.get(_SAMPLED)
    if not isinstance(samples, list) or not samples or not all(isinstance(text, str) for text in samples):
        return None
    if not _ANSWERED.isdisjoint(row) or not any(isinstance(row.get(name), str) for name in _ASKED):
        return None
    unread = ((_SAMPLED,) if len(samples) > 1 else ()) + (("role",) if row.get("role") else ())
    return {**{name: value for name, value in row.items() if name != _SAMPLED}, "answer": samples[0]}, unread
