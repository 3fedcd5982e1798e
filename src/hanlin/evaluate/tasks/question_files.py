"""Files of questions for the stage `evaluate`: Hanlin's own, and those of other tools.

A row is read as the first of these that it is:

1. `messages` that end with the user, and `answers` (Hanlin's own form), or other turns with answers beside them;
2. a question with its answers: `question`, `problem`, ... with `answers`, `answer`, `target`, ...; after its passage;
3. passages with questions (SQuAD, CMRC), where each question is one;
4. a chat of any format that `conversations` reads, whose last turn of the assistant is the answer.

A row with choices (`read_choice_question`) is read for `tasks` alone.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.config.reasons import describe_reason
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Message, Question
from hanlin.core.text import answer_language
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.cells import decode_cells
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.history import find_history
from hanlin.data.formats.look_alike import TURNS_TO_ASK, is_exam, is_turns_to_ask
from hanlin.data.formats.turns import read_turns
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

_TURN_FIELDS = ("messages", "conversations", "prompt")
_QUESTION_FIELDS = ("question", "problem", "query", "prompt", "input", "query_text", "题目", "问题", "问")
_ANSWER_FIELDS = (
    *("answers", "answer", "references", "reference", "target", "gold", "答案", "回答", "答"),
    *(
        "reference_answer",
        "reference_answers",
        "golden_answer",
        "golden_answers",
        "gold_answer",
        "gold_answers",
        "golden",
    ),
    *("ground_truth", "ideal", "expected", "expected_answer", "expected_output", "参考答案", "标准答案", "正确答案"),
)
_PASSAGE_FIELDS = ("context", "passage", "context_text", "background")
_ID_FIELDS = ("id", "question_id", "qid", "idx", "query_id")
_TOPIC_FIELDS = ("topic", "subject", "category")
_CHOICE_FIELDS = ("choices", "options", "candidates", "选项")
_CHOICE_PREFIXES = ("", "option_", "option", "choice_", "选项")
"""What stands before the letter in the names of columns of choices."""
_RIGHT_CHOICE_FIELDS = ("answers", "answer", "答案", "正确答案", "answerKey", "answer_key", "gold", "target", "label")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_AROUND_LETTER = " \t()[]【】.。、:*"
_FINAL_ANSWER = "####"
"""What precedes the final answer in GSM8K and its like."""
_OWN_ROLES = ("system", "user", "assistant", "tool")
_OWN_TURN_FIELDS = ("role", "text", "reasoning", "tool_calls", "name", "tool_call_id", "train")
_OWN_FIELDS = ("id", "messages", "answers", "language", "topic", "match")


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with its choices; `gold` holds the numbers of the right ones from 0."""

    id: str
    subject: str
    text: str
    choices: tuple[str, ...]
    gold: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Parts:
    """The turns and the accepted answers of a row, and the names of its fields that are in neither."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    unread: tuple[str, ...]


def read_questions(path: Path, limit: int | None = None, unread: Counter[str] | None = None) -> list[Question]:
    """Read the questions of a file.

    Ids are the rows' own, else `NAME#NUMBER`, as in decontamination.

    Args:
        path: A file in any layout that data is read in.
        limit: Read only this many, from the first.
        unread: Counts the questions that do not carry a field of their row, by its name.

    Raises:
        UserError: The file cannot be read, or a row is no question with an answer; with file and line.
    """
    file = SourceFile(path, path.name, 0, Source(path=str(path)))
    layout = detect_layout(file)
    if layout.container.startswith("text"):
        raise _not_a_question(f"{path}:1", tr("lines of text"))
    with InputFile(path) as input_file:
        return list(islice(_read_all(path, read_rows(file, layout, input_file), unread), limit))


def _read_all(path: Path, rows: Iterator[Any], unread: Counter[str] | None) -> Iterator[Question]:
    number = 0
    for row in rows:
        location = f"{path}:{row.line}"
        if isinstance(row.value, Drop):
            raise UserError(f"{describe_reason(row.value.reason)} ({row.value.detail})", location)
        for value in _flatten(decode_cells(row.value), "", unread):
            number += 1
            if isinstance(value, Mapping) and value.get("match") not in (None, "exact"):
                what = tr("`match` is {value!r}, and these questions are scored by equal answers", value=value["match"])
                raise UserError(what, location, tr("ask them with `tasks` instead of `questions`"))
            yield read_question(value, f"{path.stem}#{number}", location, unread)


def _flatten(row: Any, passage: str, unread: Counter[str] | None = None) -> Iterator[Any]:
    """The questions in a row: itself, or those of its paragraphs, each with its passage."""
    if not isinstance(row, Mapping):
        yield row
        return
    passage_field = _find_field(row, _PASSAGE_FIELDS, str)
    passage = row[passage_field] if passage_field else passage
    nested = _find_field(row, ("paragraphs", "qas"), list)
    has_question = any(isinstance(row.get(name), str) for name in _QUESTION_FIELDS)
    if nested is None and not has_question and _are_turns(row.get("questions")):
        nested = "questions"
    if nested is None:
        yield row if not passage or any(name in row for name in _PASSAGE_FIELDS) else {"context": passage, **row}
        return
    if unread is not None:
        unread.update(tuple(dict.fromkeys(find_others(row, (passage_field, nested)))))
    for part in row[nested]:
        yield from _flatten(part, passage, unread)


def read_question(row: Any, default_id: str, location: str, unread: Counter[str] | None = None) -> Question:
    """Read a row as a question.

    Args:
        row: The row.
        default_id: Its id if it has none.
        location: File and line, for messages.
        unread: Counts the fields that are no part of the question, by name; empty ones do not count.

    Raises:
        UserError: It is no question, or has no answer.
    """
    if _is_own(row):
        return _read_own(row, location, unread)
    if is_exam(row) or (isinstance(row, Mapping) and len((_find_choices(row) or ((), (), ()))[0]) > 1):
        raise UserError(
            tr("these are questions of an exam, with choices"),
            location,
            tr("ask them with `tasks` instead of `questions`"),
        )
    if is_turns_to_ask(row):
        raise UserError(tr(TURNS_TO_ASK), location, tr("`generate` asks them: none of their turns is an answer"))
    parts = _read_parts(row)
    if isinstance(parts, Drop):
        detail = f" ({parts.detail})" if parts.detail else ""
        raise _not_a_question(location, f"{describe_reason(parts.reason)}{detail}")
    row = row if isinstance(row, Mapping) else {}
    own_id, topic = _read_labels(row, default_id)
    if unread is not None:
        unread.update(tuple(dict.fromkeys(parts.unread)))
    return Question(parts.messages, parts.answers, own_id, _find_language(row, parts.messages), topic)


def _read_own(row: Mapping[str, Any], location: str, unread: Counter[str] | None) -> Question:
    """Read a question as Hanlin writes it. Raises UserError if a part of it is none."""
    try:
        question = Question.from_json({**row, "answers": []})
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_a_question(location, str(error)) from error
    answers = [str(text) if _is_number(text) else text for text in row["answers"]]
    if not answers or not all(isinstance(text, str) and text.strip() for text in answers):
        raise _not_a_question(location, describe_reason("no_answer"))
    checked = _check(question.messages, tuple(answers))
    if isinstance(checked, Drop):
        raise _not_a_question(location, describe_reason(checked.reason))
    if unread is not None:
        of_turns = [f"turn.{name}" for turn in row["messages"] for name in find_others(turn, _OWN_TURN_FIELDS)]
        unread.update(tuple(dict.fromkeys([*find_others(row, _OWN_FIELDS), *of_turns])))
    topic = row.get("topic")
    return replace(
        question,
        answers=tuple(answers),
        id=str(row["id"]),
        language=_find_language(row, question.messages),
        topic=topic if isinstance(topic, str) else "",
    )


def _find_language(row: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """The language that a row says, else that of the question."""
    language = row.get("language")
    if language in ("zh", "en"):
        return str(language)
    return "en" if answer_language(messages[-1].text) == "en" else "zh"


def find_others(row: Mapping[str, Any], used: Iterable[str | None]) -> tuple[str, ...]:
    """The names of the fields of a row that were not used and are not empty."""
    names = set(used)
    return tuple(str(name) for name, value in row.items() if name not in names and value not in (None, "", [], {}))


def _find_label_fields(row: Mapping[str, Any]) -> list[str | None]:
    """The names of the fields that say what a question is called and how it is scored."""
    is_named = row.get("language") in ("zh", "en")
    return [
        _find_field(row, _ID_FIELDS, str | int),
        _find_field(row, _TOPIC_FIELDS, str),
        "match",
        *(["language"] if is_named else []),
    ]


def _find_field(row: Mapping[str, Any], names: Sequence[str], kinds: Any) -> str | None:
    """The first of some fields that is of a kind; None if there is none."""
    return next((name for name in names if isinstance(row.get(name), kinds)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_labels(row: Mapping[str, Any], default_id: str) -> tuple[str, str]:
    """The id and the topic of a row."""
    own_id = next((str(row[name]) for name in _ID_FIELDS if isinstance(row.get(name), str | int)), default_id)
    return own_id, next((row[name] for name in _TOPIC_FIELDS if isinstance(row.get(name), str)), "")


def read_choice_question(
    row: Any, default_id: str, location: str, unread: Counter[str] | None = None
) -> ChoiceQuestion | None:
    """Read a row as a question with its choices; None if it has no choices.

    The choices are a list (`choices`, `options`, ...), an object by letter or of `text` and `label`, or columns (`A`,
    `option_a`, ...); the right one is named by its letter, of full width too, or by its text.

    Raises:
        UserError: It has choices, but not two, no question, or no right answer among them; with the location.
    """
    found = _find_choices(row) if isinstance(row, Mapping) else None
    if found is None:
        return None
    choices, labels, choice_fields = found
    if not 2 <= len(choices) <= len(_LETTERS):
        raise UserError(tr("a question has 2 to 26 choices, this one has {count}", count=len(choices)), location)
    question_field, passage_field = _find_field(row, _QUESTION_FIELDS, str), _find_field(row, _PASSAGE_FIELDS, str)
    answer_field = next((name for name in _RIGHT_CHOICE_FIELDS if row.get(name) not in (None, "", [])), None)
    question = row[question_field] if question_field else ""
    passage = row[passage_field] if passage_field else ""
    answers = row[answer_field] if answer_field else None
    if not question.strip() or answers is None:
        raise UserError(tr("a question with choices needs `question` and `answer`"), location)
    if row.get("match") not in (None, "choice"):
        what = tr("a question with choices is scored by its letter, and `match` is {value!r}", value=row["match"])
        raise UserError(what, location, tr("leave out `match`"))
    gold = []
    for answer in answers if isinstance(answers, list) else [answers]:
        index = _find_choice(str(answer), choices, labels)
        if index is None:
            what = tr("the answer is {answer!r}, not one of its choices", answer=str(answer))
            raise UserError(what, location, tr("write the letter of the right choice, or its text"))
        gold.append(index)
    text = "\n".join(part.strip() for part in (passage, question) if part.strip())
    if unread is not None:
        used = (question_field, passage_field, answer_field, *choice_fields, *_find_label_fields(row))
        unread.update(tuple(dict.fromkeys(find_others(row, used))))
    return ChoiceQuestion(*_read_labels(row, default_id), text, choices, tuple(dict.fromkeys(gold)))


def _find_choices(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None:
    """The choices of a row, how they are called, and the fields that hold them; None if it has none."""
    for name in _CHOICE_FIELDS:
        value = _parse_cell(row.get(name))
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):
            labels = value.get("label")
            return _texts_of(value["text"]), _texts_of(labels) if isinstance(labels, list) else (), (name,)
        if isinstance(value, Mapping):
            return _texts_of(list(value.values())), tuple(map(str, value)), (name,)
        if isinstance(value, list) and value and all(isinstance(part, Mapping) and "text" in part for part in value):
            labels = [part.get("label", "") for part in value]
            return _texts_of([part["text"] for part in value]), _texts_of(labels), (name,)
        if isinstance(value, list):
            return _texts_of(value), (), (name,)
    names = {str(name).lower(): str(name) for name in row}
    columns = {lower: row.get(name) for lower, name in names.items()}
    for prefix in _CHOICE_PREFIXES:
        letters = [prefix + letter.lower() for letter in _LETTERS]
        values = [columns.get(letter) for letter in letters]
        count = next((index for index, value in enumerate(values) if value in (None, "")), len(values))
        if count > 1 and all(value in (None, "") for value in values[count:]):
            return _texts_of(values[:count]), (), tuple(names[letter] for letter in letters[:count])
    return None


def _parse_cell(value: Any) -> Any:
    """A list or an object that a table holds as text, or the lines of a text; anything else as it is."""
    if not isinstance(value, str) or not value.strip():
        return value if value != "" else None
    try:
        parsed = parse_json(value)
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, list | dict) else [line for line in value.splitlines() if line.strip()]


def _texts_of(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(value).strip() for value in values)


def _find_choice(answer: str, choices: Sequence[str], labels: Sequence[str]) -> int | None:
    """The number of the choice that an answer names: by its label, its text, or its letter."""
    if answer.strip() in labels:
        return labels.index(answer.strip())
    if answer.strip() in choices:
        return choices.index(answer.strip())
    letter = unicodedata.normalize("NFKC", answer).strip(_AROUND_LETTER).upper()
    index = _LETTERS.find(letter) if len(letter) == 1 else -1
    return index if 0 <= index < len(choices) else None


def _is_own(row: Any) -> bool:
    """Whether a row is a question as Hanlin writes it."""
    if not isinstance(row, Mapping) or not isinstance(row.get("answers"), list) or not _are_turns(row.get("messages")):
        return False
    turns = row["messages"]
    return "id" in row and all(turn.get("role") in _OWN_ROLES and isinstance(turn.get("text"), str) for turn in turns)


def _not_a_question(location: str, reason: str) -> UserError:
    hint = tr(
        "a row has `question` and `answers`, or `messages` with the answer as the last turn; the page on data formats "
        "says more"
    )
    return UserError(tr("not a question with its answers: {reason}", reason=reason), location, hint)


def _read_parts(row: Any) -> _Parts | Drop:
    """Read the turns and the accepted answers of a row."""
    answer_field, answers = _find_answers(row) if isinstance(row, Mapping) else (None, ())
    turn_field = next((name for name in _TURN_FIELDS if _are_turns(row.get(name))), None) if answers else None
    if turn_field is not None:
        messages = read_turns(row[turn_field])
        if isinstance(messages, Drop):
            return messages
        messages = messages[:-1] if messages[-1].role == "assistant" else messages
        others = find_others(row, (turn_field, answer_field, *_find_label_fields(row)))
        return _check(messages, answers, (*others, *find_unread_turn_fields(row[turn_field])))
    if answers and not isinstance(row.get("instruction"), str) and not find_history(row):
        question_field, passage_field = _find_field(row, _QUESTION_FIELDS, str), _find_field(row, _PASSAGE_FIELDS, str)
        question = row[question_field] if question_field else ""
        passage = row[passage_field] if passage_field else ""
        if question.strip():
            system = row.get("system")
            has_system = isinstance(system, str) and bool(system.strip())
            before = (Message("system", system.strip()),) if has_system else ()
            text = "\n".join(part.strip() for part in (passage, question) if part.strip())
            used = (question_field, passage_field, answer_field, *(["system"] if has_system else []))
            others = find_others(row, (*used, *_find_label_fields(row)))
            return _check((*before, Message("user", text)), answers, others)
    for chat_format in CHAT_FORMATS:
        if chat_format.recognize(row):
            chat = next(chat_format.read(row), Drop("no_answer"))
            if isinstance(chat, Drop):
                return chat
            *prompt, answer = chat.messages
            if answer.role != "assistant" or not answer.text.strip():
                return Drop("no_answer")
            labels = _find_label_fields(row) if isinstance(row, Mapping) else []
            left_out = dict.fromkeys((*chat.meta, *chat.unread, *(["tools"] if chat.tools else [])))
            return _check(tuple(prompt), _to_texts(answer.text), tuple(name for name in left_out if name not in labels))
    if isinstance(row, Mapping) and any(isinstance(row.get(name), str) for name in _QUESTION_FIELDS) and not answers:
        return Drop("no_answer")
    names = join_list(list(map(str, row))[:12]) if isinstance(row, Mapping) else type(row).__name__
    return Drop("other_format", names)


def _are_turns(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _check(messages: tuple[Message, ...], answers: tuple[str, ...], unread: tuple[str, ...] = ()) -> _Parts | Drop:
    if not messages or messages[-1].role not in ("user", "tool") or not messages[-1].text.strip():
        return Drop("no_question")
    return _Parts(tuple(replace(message, train=None) for message in messages), answers, unread)


def _find_answers(row: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Find the accepted answers (a text, a number, a list of them, or SQuAD's spans) and the field that holds them."""
    for name in _ANSWER_FIELDS:
        answers = _to_texts(row.get(name))
        if answers:
            return name, answers
    return None, ()


def _to_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        final = value.rpartition(_FINAL_ANSWER)[2] if _FINAL_ANSWER in value else value
        return (final.strip(),) if final.strip() else ()
    if _is_number(value):
        return (str(value),)
    if isinstance(value, Mapping):
        return _to_texts(value.get("text"))
    if isinstance(value, Sequence):
        return tuple(dict.fromkeys(text for item in value for text in _to_texts(item)))
    return ()
