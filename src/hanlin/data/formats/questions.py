"""Formats of conversations that are a question and its answer in fields of a row, with what came before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import (
    collect_meta,
    describe_value,
    find_own_id,
    find_unread_fields,
    is_filled,
    is_nothing,
    is_number,
    number_to_text,
    strip_turn,
)
from hanlin.data.formats.content.reasoning import (
    ROW_REASONING_FIELDS,
    TURN_REASONING_FIELDS,
    join_reasoning,
    read_reasoning,
    split_reasoning,
)
from hanlin.data.formats.content.roles import ROLE_NAMES
from hanlin.data.formats.content.tool_lists import find_row_tools
from hanlin.data.formats.history import find_history, find_unread_history_fields, read_history
from hanlin.data.formats.turns import ParsedChat, alternate_roles, prepend_system
from hanlin.data.ledger import Drop

QUESTION_FIELDS = ("prompt", "question", "query", "input", "inputs", "ask", "q", "问题", "问")
ANSWER_FIELDS = (
    *("response", "answer", "target", "targets", "output", "completion", "reply", "a", "回答", "答", "答案"),
    *("llm_response", "model_response", "model_output", "assistant_response", "generated_answer"),
)
ROLE_PAIRS = (
    *(("human", "assistant"), ("user", "assistant"), ("human", "gpt"), ("user", "bot"), ("human", "bot")),
    *(("user", "ai"), ("human", "ai"), ("user", "gpt"), ("user", "model"), ("用户", "助手")),
)
"""Fields named by the roles of a question and its answer: each alone may be something else, such as a user's name."""
_SURE_PAIRS = (
    *ROLE_PAIRS,
    ("instruction", "generation"),
    ("problem", "solution"),
    ("patient", "doctor"),
    ("context", "target"),
    ("source", "target"),
    ("Q", "A"),
    ("problem", "generated_solution"),
    ("question", "generated_solution"),
    ("message_1", "message_2"),
    ("inputs_pretokenized", "targets_pretokenized"),
    ("text", "answer"),
    ("text", "response"),
)
"""Fields of a question and its answer that count together alone."""
_TESTS = frozenset(("test_list", "test_setup_code", "test_imports", "challenge_test_list"))
"""Fields of MBPP, beside which a `code` answers what `text` or `prompt` asks."""
_REASONED_QUESTION_FIELDS = (*QUESTION_FIELDS, "problem", "user", "instruction", "题目")
_REASONED_ANSWER_FIELDS = (
    *("content", "final", "deepseek_attempt", "deepseek_solution", "attempt", "solution", "answer_content"),
    *("final_answer", "答案"),
)
SYSTEM_FIELDS = (
    *("system", "system_prompt", "systemPrompt", "sys", "meta_instruction", "meta_prompt"),
    *("systemInstruction", "system_instruction"),
)
"""Fields of a row that hold its system text."""
_SYSTEM_FIELDS = frozenset(SYSTEM_FIELDS)


def find_system(row: Mapping[str, Any]) -> tuple[str, str]:
    """Find the system text of a row: the field and the text; ("", "") without any."""
    if _SYSTEM_FIELDS.isdisjoint(row):
        return "", ""
    for name in SYSTEM_FIELDS:
        value = row.get(name)
        if isinstance(value, dict):
            value = value.get("content") or value.get("parts")
        if isinstance(value, list) and len(value) == 1:
            value = value[0].get("text") if isinstance(value[0], dict) else value[0]
        if isinstance(value, str) and value.strip():
            return name, strip_turn(value)
    return "", ""


def place_system(row: Mapping[str, Any], messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """Put the system text of a row before its turns.

    Returns:
        (turns, the field that it came from); the field is "" if the turns begin with another system text, so that the
        row's is carried as other fields are, or named.
    """
    field, system = find_system(row)
    if not system:
        return messages, ""
    if messages and messages[0].role == "system" and messages[0].text not in ("", system):
        return messages, ""
    return prepend_system(system, messages), field


def find_field(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Find the first of some fields that a row has as text, in any letter case; of one letter only as it is written.

    An empty one is not it if another one has a text.
    """
    found = _find_named(row, names)
    if found is None or is_filled(row[found]):
        return found
    return _find_named({name: value for name, value in row.items() if is_filled(value)}, names) or found


def _find_unwritten(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Find the first of some fields that holds a number, which is read, or true or false, which is refused by name.

    Numbers of an input and an output are counts of tokens.
    """
    lower = {str(name).lower(): name for name in row if not (name == "output" and is_number(row.get("input")))}
    return next((lower[name] for name in names if name in lower and _is_scalar(row[lower[name]])), None)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool) or (not isinstance(value, str) and isinstance(number_to_text(value), str))


def _find_named(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    exact = next((name for name in names if isinstance(row.get(name), str)), None)
    others = _list_capitals(tuple(row))
    if not others or (exact is not None and exact == names[0]):
        return exact
    lower = {small: name for small, name in others.items() if isinstance(row[name], str)}
    found = next((name for name in names if name == exact or name in lower), None)
    return exact if found == exact else lower[str(found)]


@lru_cache(maxsize=4096)
def _list_capitals(names: tuple[Any, ...]) -> dict[str, Any]:
    """The names of fields with capitals, by themselves in small letters; of one letter none."""
    return {str(name).lower(): name for name in names if len(str(name)) > 1 and str(name) != str(name).lower()}


def find_row_reasoning(row: Mapping[str, Any]) -> tuple[str, str]:
    """Find the reasoning of a row's answer: the field and the text; ("", "") without any."""
    for name, value in row.items():
        if value and str(name).lower() in ROW_REASONING_FIELDS:
            reasoning = read_reasoning(value)
            if reasoning:
                return name, reasoning
    return "", ""


_TITLE_DETAILS = ("desc", "description", "问题描述")
"""Fields beside a title that make it the title of a question."""
MATERIAL_FIELDS = ("input", "context", "article", "passage", "材料", "上下文", "文章")
"""Fields of a text that a question is about."""


def _find_texts(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The fields of these that a row has as text."""
    return tuple(name for name in names if isinstance(row.get(name), str))


def join_question(row: Mapping[str, Any], field: str, more_fields: Sequence[str] = MATERIAL_FIELDS) -> str:
    """Join the question and the material it is about, with line ends between.

    Args:
        row: A row.
        field: The field of the question.
        more_fields: Fields of the material; absent and blank ones are left out.
    """
    parts = [str(row[name]) for name in (field, *more_fields) if isinstance(row.get(name), str) and row[name].strip()]
    return "\n".join(strip_turn(part) for part in dict.fromkeys(parts))


def _read_question_answer(
    row: Mapping[str, Any], question: str, answer: Any, used: Sequence[str], more_parts: Sequence[Message] = ()
) -> ParsedChat | Drop:
    """Read a conversation of a question and its answer.

    Args:
        row: The row; its `history` and `system` come before the question, its reasoning before the answer.
        question: The question.
        answer: The answer, or a list of all turns after the question.
        used: Fields that do not go to `meta`.
        more_parts: Turns between the history and the question.
    """
    history_field = find_history(row)
    history = read_history(row) if history_field else ()
    if isinstance(history, Drop):
        return history
    content = [number_to_text(text) for text in (answer if isinstance(answer, list) else [answer])]
    if not question.strip():
        return Drop("no_question")
    if not content or is_nothing(content[0]) or (isinstance(content[0], str) and not content[0].strip()):
        return Drop("no_answer")
    wrong = next((text for text in content if not isinstance(text, str)), None)
    if wrong is not None:
        name = next((name for name in used if row.get(name) is answer), "answer")
        return Drop("not_text", describe_value(name, wrong))
    messages = (*history, *more_parts, *alternate_roles([question, *content]))
    reasoning_field, reasoning = find_row_reasoning(row)
    if reasoning_field in used:
        reasoning_field, reasoning = "", ""
    if reasoning and messages[-1].role == "assistant":
        added = _add_reasoning(messages[-1], reasoning)
        if isinstance(added, Drop):
            return added
        messages = (*messages[:-1], added)
    messages, system_field = place_system(row, messages)
    used = (*used, history_field, system_field, reasoning_field, find_row_tools(row)[0], *find_own_id(row))
    unread = find_unread_fields(row, used)
    if _has_other_text(row, used, unread, str(content[0])):
        unread = (*unread, "text")
    if history_field:
        unread = (*unread, *find_unread_history_fields(row))
    return ParsedChat(messages, (), collect_meta(row, used), unread)


def _has_other_text(row: Mapping[str, Any], used: Sequence[str], unread: Sequence[str], answer: str) -> bool:
    """Whether a row has a `text` beside question and answer that is not both of them written as one, and no turn."""
    text = row.get("text")
    is_other = isinstance(text, str) and bool(text.strip()) and answer.strip() not in text
    return is_other and "text" not in used and "text" not in unread


def _add_reasoning(answer: Message, reasoning: str) -> Message | Drop:
    split = split_reasoning(answer.text)
    if isinstance(split, Drop):
        return split
    return replace(answer, text=strip_turn(split[1]), reasoning=join_reasoning(reasoning, split[0]))


def add_side_reasoning(row: Mapping[str, Any], side: str, answer: Message) -> tuple[str, Message] | Drop:
    """Give an answer of a pair its reasoning from a field of its own, such as `chosen_reasoning`.

    Args:
        row: The pair.
        side: `chosen` or `rejected`.
        answer: The answer of that side.

    Returns:
        The field, empty without any, and the answer; a Drop if the reasoning in the answer has no end.
    """
    for name in TURN_REASONING_FIELDS:
        for field in (f"{side}_{name}", f"{name}_{side}"):
            reasoning = read_reasoning(row.get(field))
            if reasoning:
                added = _add_reasoning(answer, join_reasoning(reasoning, answer.reasoning))
                return added if isinstance(added, Drop) else (field, added)
    return "", answer


ALPACA_ANSWER_FIELDS = ("output", "response", "answer", "completion")


def is_alpaca(value: Any) -> bool:
    """Whether a row has an instruction and an answer to it."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("instruction"), str)
        and any(isinstance(value.get(name), str | list | int | float) for name in ALPACA_ANSWER_FIELDS)
    )


def read_alpaca(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {instruction, input, output, history, system}; a list as output holds all turns after the question."""
    if not isinstance(value, dict):
        yield Drop("other_format")
        return
    field = next((name for name in ALPACA_ANSWER_FIELDS if not is_nothing(value.get(name))), "output")
    answer = value.get(field)
    more_fields = _find_texts(value, ("input", "question", "context"))
    used = ("instruction", *more_fields, field)
    turns = _parse_human_assistant_text(value, answer)
    if turns is None:
        question_text = join_question(value, "instruction", more_fields)
        yield _read_question_answer(value, question_text, answer, used)
    else:
        *before, question, answer_turn = turns
        yield _read_question_answer(value, question.text, answer_turn.text, used, before)


_BELLE_TURN = re.compile(r"(?:\A|\n)\s*(Human|Assistant)\s*[:：]")
_BELLE = re.compile(r"\s*Human\s*[:：].*\nAssistant\s*[:：]\s*\Z", re.S)


def _parse_human_assistant_text(row: Mapping[str, Any], answer: Any) -> tuple[Message, ...] | None:
    r"""Parse BELLE's chats of several turns, all but the last of them in the instruction.

    Example:
        instruction "Human:A\nAssistant:B\nHuman:C\nAssistant:" and output "D" give the turns A, B, C, D.
    """
    instruction = row.get("instruction")
    if not isinstance(instruction, str) or not isinstance(answer, str) or not _BELLE.match(instruction):
        return None
    prefix, *pieces = _BELLE_TURN.split(instruction)
    names, content = [name.lower() for name in pieces[::2]], [*pieces[1:-1:2], answer]
    if prefix.strip() or names[-2:] != ["human", "assistant"]:
        return None
    return tuple(Message(ROLE_NAMES[name], strip_turn(text)) for name, text in zip(names, content, strict=True))


def is_prompt_response(value: Any) -> bool:
    """Whether a row has a question and an answer, or a question, reasoning and what follows from it."""
    return isinstance(value, dict) and _find_question_answer(value) is not None


def _find_question_answer(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Find the fields of question and answer; beside reasoning they may have more names."""
    question, answer = find_field(row, QUESTION_FIELDS), find_field(row, ANSWER_FIELDS)
    if question is None or question.lower() == "input":
        question = find_field(row, ("instruction",)) or question
    if question is None and answer is not None and any(isinstance(row.get(name), str) for name in _TITLE_DETAILS):
        question = find_field(row, ("title", "标题"))
    if find_row_reasoning(row)[0]:
        question = question or find_field(row, _REASONED_QUESTION_FIELDS)
        answer = answer or find_field(row, _REASONED_ANSWER_FIELDS)
    if answer is None and not _TESTS.isdisjoint(row):
        question, answer = question or find_field(row, ("text",)), find_field(row, ("code",))
    if question is None or answer is None:
        pairs = ((find_field(row, pair[:1]), find_field(row, pair[1:])) for pair in _SURE_PAIRS)
        question, answer = next((pair for pair in pairs if _is_pair(row, *pair)), (question, answer))
        question = question or find_field(row, ("problem",))
        answer = answer or (None if question is None else _find_unwritten(row, ANSWER_FIELDS))
    if question is not None and answer is not None and answer.istitle() and isinstance(row.get(question.title()), str):
        question = question.title()  # of two questions, the one that is written like the answer
    return None if question is None or answer is None or question == answer else (question, answer)


def _is_pair(row: Mapping[str, Any], question: str | None, answer: str | None) -> bool:
    """Whether both fields are there, and the question is not a text that its answer is a part of."""
    if question is None or answer is None:
        return False
    return question != "text" or row[answer].strip() not in row[question]


def read_prompt_response(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read a question and an answer under any of their usual names: prompt/response, input/target, ..."""
    if not isinstance(value, dict):
        yield Drop("other_format")
        return
    fields = _find_question_answer(value)
    if fields is None:
        yield Drop("no_question" if find_field(value, QUESTION_FIELDS) is None else "no_answer")
        return
    field, answer = fields
    said = number_to_text(value[answer])
    if field == "input" and isinstance(said, str) and _has_other_text(value, (), (), said):
        # the task, in sets of instructions
        value = {**value, "text": "", "instruction": value["text"]}
        field = "instruction"
    material = MATERIAL_FIELDS if field == "prompt" and answer != "input" else MATERIAL_FIELDS[1:]
    more_fields = _find_texts(value, material)
    if field in ("title", "标题"):
        more_fields = _find_texts(value, _TITLE_DETAILS)
    if field.lower() == "instruction":
        found = [find_field(value, (name,)) for name in ("input", "input_text", "context")]
        more_fields = tuple(name for name in found if name is not None and name != answer)
    yield _read_question_answer(
        value, join_question(value, field, more_fields), value[answer], (field, answer, *more_fields)
    )


def is_self_instruct(value: Any) -> bool:
    """Whether a row has an instruction and a list of instances, or is a task of Super-NaturalInstructions."""
    if not isinstance(value, dict):
        return False
    return ("instruction" in value and isinstance(value.get("instances"), list)) or _is_natural_task(value)


def _is_natural_task(row: Mapping[str, Any]) -> bool:
    definition = row.get("Definition")
    is_text = isinstance(definition, str) or (
        isinstance(definition, list) and bool(definition) and all(isinstance(text, str) for text in definition)
    )
    return is_text and isinstance(row.get("Instances"), list)


def _read_natural_task(row: Mapping[str, Any]) -> Iterator[ParsedChat | Drop]:
    """Read {Definition: [text], Instances: [{input, output: [texts]}]}: of several right answers the first one."""
    definition = row["Definition"]
    instruction = definition if isinstance(definition, str) else "\n".join(definition)
    rest = {name: content for name, content in row.items() if name not in ("Definition", "Instances")}
    if not row["Instances"]:
        yield Drop("no_answer")
    for instance in row["Instances"]:
        if not isinstance(instance, dict):
            yield Drop("other_format")
            continue
        output = instance.get("output")
        texts = output if isinstance(output, list) else [output]
        first = texts[0] if texts else None
        for chat in read_alpaca({**rest, **instance, "instruction": instruction, "output": first}):
            if isinstance(chat, Drop) or len(texts) < 2:
                yield chat
            else:
                yield replace(chat, unread=(*chat.unread, "output"))


def read_self_instruct(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {instruction, instances: [{input, output}]}: each instance is a conversation."""
    if isinstance(value, dict) and _is_natural_task(value):
        yield from _read_natural_task(value)
        return
    instances = value.get("instances") if isinstance(value, dict) else None
    if not isinstance(instances, list):
        yield Drop("other_format")
        return
    if not instances:
        yield Drop("no_answer")
    for instance in instances:
        if isinstance(instance, dict):
            yield from read_alpaca({**value, "instances": "", **instance})
        else:
            yield Drop("other_format")


def is_math(value: Any) -> bool:
    """Whether a row is a problem of Math23K."""
    return isinstance(value, dict) and all(name in value for name in ("original_text", "equation", "ans"))


def read_math(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read Math23K: the problem is the question, the equation and its result are the answer."""
    if not is_math(value):
        yield Drop("other_format")
        return
    answer = f"{value['equation']}\n答案：{value['ans']}" if str(value["ans"]).strip() else ""
    yield _read_question_answer(
        value, str(value["original_text"]), answer, ("original_text", "segmented_text", "equation", "ans")
    )
