"""Columns named as labels that hold classes of the text, not verdicts on an answer: told from many rows at once.

A single `1`, `是` or 错误 may be either. Taken for a verdict it costs a whole classification set, and in a set
of answers with labels it must never be taken for a class: bad answers would be learned. So a column holds classes only
where its values cannot be verdicts, and is one of verdicts in every case of doubt.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hanlin.data.formats.content.labels import ANSWER_FIELDS, read_label

CLASS_FIELDS = ("label", "标签")
"""Fields that sets for classification have as well as those of labeled answers."""
_NAME_FIELDS = (
    *("label_text", "label_name", "label_names", "label_desc", "label_str", "class", "class_name", "class_label"),
    *("sentiment", "emotion", "intent", "topic", "category", "类别", "分类", "情感", "情绪", "意图", "标签名"),
)
"""Fields that hold the name of a class whose number is the label."""
_GRADE = re.compile(
    r"好|坏|差|优|良|劣|佳|中等|中性|一般|普通|还行|尚可|及格|合格|对|错误?的|正确|部分|不确定|不详|未知|跳过|"
    r"good|bad|excellent|great|perfect|average|medium|neutral|fair|\bok\b|okay|poor|terrible|partial|correct|wrong|"
    r"accept|reject|help|like|unsure|unknown|maybe|skip|tie|both|neither|mixed|n/?a\b|none|null|error|pending"
)
"""Words of a grade between good and bad, or of one that is not decided."""
_MIN_SHARE = 0.1
_FEELING = re.compile(r"正面|负面|正向|负向|积极|消极|positive|negative|\bpos\b|\bneg\b", re.I)
_MIN_ROWS, _MOST_CLASSES, _ROWS_OF_CLASS, _MOST_NAME_CHARS = 8, 20, 3, 30


def find_classes(rows: Sequence[Any]) -> frozenset[str]:
    """Find the fields of a file that hold classes.

    - Whole numbers besides -1, 0 and 1 (a scale or the number of a class).
    - Words of which only one is that of a verdict, or none, and no other is a grade: 正常, 警告, 错误.
    - The number of a class that the answer names, or a field beside it: the same few names come again and again, each
      always with the same label, and are feelings (正面, negative) or choices that every prompt lists.

    Args:
        rows: Values of rows of one file; those that are no objects are passed over.
    """
    return frozenset(name for name in CLASS_FIELDS if _holds_classes(rows, name))


def _holds_classes(rows: Sequence[Any], name: str) -> bool:
    labeled = [row for row in rows if isinstance(row, dict) and _is_label(row.get(name))]
    values = [str(row[name]).strip().lower() for row in labeled]
    others = [value for value in values if read_label(value) is None]
    if others and len(others) >= _MIN_SHARE * len(values):
        if all(map(_is_whole_number, values)):
            return True
        sides = {read_label(value) for value in values} - {None}
        names = {value for value in others if not _is_whole_number(value)}
        return len(sides) < 2 and (len(names) > 1 or not sides) and not any(map(_GRADE.search, names))
    return not others and len(labeled) >= _MIN_ROWS and _is_class_of_text(labeled, values)


def _is_label(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and bool(value.strip()))


def _is_whole_number(value: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,4}(?:\.0+)?", value) is not None


def _is_class_of_text(rows: Sequence[Mapping[str, Any]], values: Sequence[str]) -> bool:
    """Whether the labels are those of the answers that they stand beside, or of the names of their classes."""
    for name in (*ANSWER_FIELDS, *_NAME_FIELDS):
        texts = [row.get(name) for row in rows]
        if not all(isinstance(text, str) and 0 < len(text.strip()) <= _MOST_NAME_CHARS for text in texts):
            continue
        names = {str(text).strip() for text in texts}
        if _tells(map(str, texts), values) and (
            all(map(_FEELING.search, names)) or _are_choices(rows, name, [text.strip("。.") for text in names])
        ):
            return True
        if name in _NAME_FIELDS and _tells(map(str, texts), values):
            return all(read_label(text) is None for text in names)  # else a verdict in words
    return False


def _tells(texts: Iterable[str], values: Sequence[str]) -> bool:
    """Whether few texts come again and again, each always with a label of its own."""
    label_of: dict[str, str] = {}
    for text, value in zip(texts, values, strict=True):
        if label_of.setdefault(text.strip(), value) != value or len(label_of) > _MOST_CLASSES:
            return False
    return len(label_of) * _ROWS_OF_CLASS <= len(values) and len(set(label_of.values())) == len(label_of) > 1


def _are_choices(rows: Sequence[Mapping[str, Any]], answer_field: str, names: Collection[str]) -> bool:
    """Whether another text of every row lists all these names."""
    prompts = ([text for name, text in row.items() if isinstance(text, str) and name != answer_field] for row in rows)
    return all(any(all(name in text for name in names) for text in texts) for texts in prompts)


def holds_label(row: Any) -> bool:
    """Whether a row has a field that may hold a class or a verdict."""
    return isinstance(row, dict) and any(_is_label(row.get(name)) for name in CLASS_FIELDS)


def take_classes(row: Any, classes: frozenset[str]) -> tuple[Any, dict[str, Any]]:
    """Take the classes out of a row, so that they are not read as verdicts.

    Returns:
        The row, and its fields of classes.
    """
    if not classes or not isinstance(row, dict) or classes.isdisjoint(row):
        return row, {}
    taken = {name: row[name] for name in row if name in classes}
    return {name: value for name, value in row.items() if name not in classes}, taken
