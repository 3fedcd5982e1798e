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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Message, Question
from hanlin.core.text import answer_language
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.cells import decode_cells
from hanlin.data.formats.history import find_history
from hanlin.data.formats.look_alike import TURNS_TO_ASK, is_exam, is_turns_to_ask
from hanlin.data.formats.turns import read_turns
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop, describe_reason

_TURN_FIELDS = ("messages", "conversations", "prompt")
_QUESTION_FIELDS = ("question", "problem", "query", "prompt", "input", "query_text", "题目", "问题", "问")
_ANSWER_FIELDS = ("answers", "answer", "references", "reference", "target", "gold", "答案", "回答", "答")
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


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with its choices; `gold` holds the numbers of the right ones from 0."""

    id: str
    subject: str
    text: str
    choices: tuple[str, ...]
    gold: tuple[int, ...]


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Read the questions of a file.

    Ids are the rows' own, else `NAME#NUMBER`, as in decontamination.

    Args:
        path: A file in any layout that data is read in.
        limit: Read only this many, from the first.

    Raises:
        UserError: The file cannot be read, or a row is no question with an answer; with file and line.
    """
    file = SourceFile(path, path.name, 0, Source(path=str(path)))
    layout = detect_layout(file)
    if layout.container.startswith("text"):
        raise _not_a_question(f"{path}:1", tr("lines of text"))
    with InputFile(path) as input_file:
        return list(islice(_read_all(path, read_rows(file, layout, input_file)), limit))


def _read_all(path: Path, rows: Iterator[Any]) -> Iterator[Question]:
    number = 0
    for row in rows:
        location = f"{path}:{row.line}"
        if isinstance(row.value, Drop):
            raise UserError(f"{describe_reason(row.value.reason)} ({row.value.detail})", location)
        for value in _flatten(decode_cells(row.value), ""):
            number += 1
            if isinstance(value, Mapping) and value.get("match") not in (None, "exact"):
                what = tr("`match` is {value!r}, and these questions are scored by equal answers", value=value["match"])
                raise UserError(what, location, tr("ask them with `tasks` instead of `questions`"))
            yield read_question(value, f"{path.stem}#{number}", location)


def _flatten(row: Any, passage: str) -> Iterator[Any]:
    """The questions in a row: itself, or those of its paragraphs, each with its passage."""
    if not isinstance(row, Mapping):
        yield row
        return
    passage = next((row[name] for name in _PASSAGE_FIELDS if isinstance(row.get(name), str)), passage)
    nested = next((row[name] for name in ("paragraphs", "qas") if isinstance(row.get(name), list)), None)
    if nested is None:
        yield row if not passage or any(name in row for name in _PASSAGE_FIELDS) else {"context": passage, **row}
        return
    for part in nested:
        yield from _flatten(part, passage)


def read_question(row: Any, default_id: str, location: str) -> Question:
    """Read a row as a question. Raises UserError, with the location, if it is none or has no answer."""
    if _is_own(row):
        try:
            return Question.from_json(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_a_question(location, str(error)) from error
    if is_exam(row) or (isinstance(row, Mapping) and len((_find_choices(row) or ((), ()))[0]) > 1):
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
    messages, answers = parts
    row = row if isinstance(row, Mapping) else {}
    own_id, topic = _read_labels(row, default_id)
    language = row.get("language")
    if language not in ("zh", "en"):
        language = "en" if answer_language(messages[-1].text) == "en" else "zh"
    return Question(messages, answers, own_id, language, topic)


def _read_labels(row: Mapping[str, Any], default_id: str) -> tuple[str, str]:
    """The id and the topic of a row."""
    own_id = next((str(row[name]) for name in _ID_FIELDS if isinstance(row.get(name), str | int)), default_id)
    return own_id, next((row[name] for name in _TOPIC_FIELDS if isinstance(row.get(name), str)), "")


def read_choice_question(row: Any, default_id: str, location: str) -> ChoiceQuestion | None:
    """Read a row as a question with its choices; None if it has no choices.

    The choices are a list (`choices`, `options`, ...), an object by letter or of `text` and `label`, or columns (`A`,
    `option_a`, ...); the right one is named by its letter, of full width too, or by its text.

    Raises:
        UserError: It has choices, but not two, no question, or no right answer among them; with the location.
    """
    found = _find_choices(row) if isinstance(row, Mapping) else None
    if found is None:
        return None
    choices, labels = found
    if not 2 <= len(choices) <= len(_LETTERS):
        raise UserError(tr("a question has 2 to 26 choices, this one has {count}", count=len(choices)), location)
    question = next((row[name] for name in _QUESTION_FIELDS if isinstance(row.get(name), str)), "")
    passage = next((row[name] for name in _PASSAGE_FIELDS if isinstance(row.get(name), str)), "")
    answers = next((row[name] for name in _RIGHT_CHOICE_FIELDS if row.get(name) not in (None, "", [])), None)
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
    return ChoiceQuestion(*_read_labels(row, default_id), text, choices, tuple(dict.fromkeys(gold)))


def _find_choices(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The choices of a row and how they are called; None if it has none."""
    for name in _CHOICE_FIELDS:
        value = _parse_cell(row.get(name))
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):
            labels = value.get("label")
            return _texts_of(value["text"]), _texts_of(labels) if isinstance(labels, list) else ()
        if isinstance(value, Mapping):
            return _texts_of(list(value.values())), tuple(map(str, value))
        if isinstance(value, list) and value and all(isinstance(part, Mapping) and "text" in part for part in value):
            return _texts_of([part["text"] for part in value]), _texts_of([part.get("label", "") for part in value])
        if isinstance(value, list):
            return _texts_of(value), ()
    columns = {str(name).lower(): value for name, value in row.items()}
    for prefix in _CHOICE_PREFIXES:
        values = [columns.get(prefix + letter.lower()) for letter in _LETTERS]
        count = next((index for index, value in enumerate(values) if value in (None, "")), len(values))
        if count > 1 and all(value in (None, "") for value in values[count:]):
            return _texts_of(values[:count]), ()
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
    return "id" in row and all("role" in turn and "text" in turn for turn in row["messages"])


def _not_a_question(location: str, reason: str) -> UserError:
    hint = tr(
        "a row has `question` and `answers`, or `messages` with the answer as the last turn; the page on data formats "
        "says more"
    )
    return UserError(tr("not a question with its answers: {reason}", reason=reason), location, hint)


def _read_parts(row: Any) -> tuple[tuple[Message, ...], tuple[str, ...]] | Drop:
    """Read the turns and the accepted answers of a row."""
    answers = _find_answers(row) if isinstance(row, Mapping) else ()
    turns = next((row[name] for name in _TURN_FIELDS if _are_turns(row.get(name))), None) if answers else None
    if turns is not None:
        messages = read_turns(turns)
        if isinstance(messages, Drop):
            return messages
        messages = messages[:-1] if messages[-1].role == "assistant" else messages
        return _check(messages, answers)
    if answers and not isinstance(row.get("instruction"), str) and not find_history(row):
        question = next((row[name] for name in _QUESTION_FIELDS if isinstance(row.get(name), str)), "")
        passage = next((row[name] for name in _PASSAGE_FIELDS if isinstance(row.get(name), str)), "")
        if question.strip():
            system = row.get("system")
            before = (Message("system", system.strip()),) if isinstance(system, str) and system.strip() else ()
            text = "\n".join(part.strip() for part in (passage, question) if part.strip())
            return _check((*before, Message("user", text)), answers)
    for chat_format in CHAT_FORMATS:
        if chat_format.recognize(row):
            chat = next(chat_format.read(row), Drop("no_answer"))
            if isinstance(chat, Drop):
                return chat
            *prompt, answer = chat.messages
            if answer.role != "assistant" or not answer.text.strip():
                return Drop("no_answer")
            return _check(tuple(prompt), _to_texts(answer.text))
    if isinstance(row, Mapping) and any(isinstance(row.get(name), str) for name in _QUESTION_FIELDS) and not answers:
        return Drop("no_answer")
    names = join_list(list(map(str, row))[:12]) if isinstance(row, Mapping) else type(row).__name__
    return Drop("other_format", names)


def _are_turns(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _check(
    messages: tuple[Message, ...], answers: tuple[str, ...]
) -> tuple[tuple[Message, ...], tuple[str, ...]] | Drop:
    if not messages or messages[-1].role not in ("user", "tool") or not messages[-1].text.strip():
        return Drop("no_question")
    return tuple(replace(message, train=None) for message in messages), answers


def _find_answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the accepted answers: a text, a number, a list of them, or SQuAD's spans."""
    for name in _ANSWER_FIELDS:
        answers = _to_texts(row.get(name))
        if answers:
            return answers
    return ()


def _to_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        final = value.rpartition(_FINAL_ANSWER)[2] if _FINAL_ANSWER in value else value
        return (final.strip(),) if final.strip() else ()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    if isinstance(value, Mapping):
        return _to_texts(value.get("text"))
    if isinstance(value, Sequence):
        return tuple(dict.fromkeys(text for item in value for text in _to_texts(item)))
    return ()
