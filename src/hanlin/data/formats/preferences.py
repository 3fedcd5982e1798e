"""Formats of preference pairs: a prompt, a chosen and a rejected answer.

All but `language_pairs` are read by one function: where the prompt and the answers are decides the name only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import (
    Format,
    collect_meta,
    find_own_id,
    find_unread_fields,
    is_filled,
    is_own_record,
    number_to_text,
    read_number,
    strip_turn,
)
from hanlin.data.formats.content.loss_flags import says_not_to_learn
from hanlin.data.formats.content.rendered import is_rendered, parse_rendered, read_rendered_prompt
from hanlin.data.formats.content.roles import CALL_ROLES, ROLE_NAMES, find_role_name
from hanlin.data.formats.content.tool_lists import Tools, find_row_tools
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.exports import is_oasst_tree
from hanlin.data.formats.history import find_history, find_unread_history_fields, read_history
from hanlin.data.formats.questions import add_side_reasoning, find_field, find_system, join_question
from hanlin.data.formats.tagged import are_tagged_turns, split_tagged_prompt
from hanlin.data.formats.trees.pair_names import WORSE_ANSWERS, may_name_worse, name_pair
from hanlin.data.formats.trees.ranked import find_ranked_pairs
from hanlin.data.formats.trees.retrieval import is_retrieval
from hanlin.data.formats.turns import (
    ParsedChat,
    finish_chat,
    join_turns,
    prepend_system,
    read_turn_tools,
)
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use


@dataclass(frozen=True, slots=True)
class ParsedPreference:
    """A prompt and two answers to it.

    Attributes:
        prompt: Turns that end with the user or a tool.
        chosen: The preferred answer.
        rejected: The other one.
        scores: Of (chosen, rejected), if the row has them.
        meta: The row's other fields.
        tools: The tools that the answers may call.
        unread: Names of the row's fields that are in none of these; no part of what makes two pairs equal.
    """

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    scores: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools = ()
    unread: tuple[str, ...] = field(default=(), compare=False)


SCORE_FIELDS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
_ZH_ANSWER_FIELDS = ("answer_zh", "zh", "chinese", "response_zh", "output_zh", "chosen_zh", "中文", "中文回答")
_EN_ANSWER_FIELDS = ("answer_en", "en", "english", "response_en", "output_en", "rejected_en", "英文", "英文回答")
_QUESTION_FIELDS = (
    *("prompt", "question", "query", "instruction", "input", "问题", "提问", "用户提问", "用户问题", "指令", "提示词"),
    *("题目", "提示", "问"),
)
_PROMPT_FIELDS = ("prompt", "prompt_messages", "context_messages", "context", "history", "trajectory")
_TURN_FIELDS = ("conversations", "messages", "conversation", *_PROMPT_FIELDS)
_CHOSEN_FIELDS = (
    *("chosen", "chosen_messages", "response_chosen", "chosen_response", "response_j", "preferred", "good"),
    *("accepted", "pos_resp", "positive", "preferred_output"),
    *("好回答", "好的回答", "优质回答", "优回答", "好答案", "优质答案", "好回复", "优质回复", "正例回答", "正例"),
)
_REJECTED_FIELDS = (
    *("rejected", "rejected_messages", "rejected_response", "response_rejected", "response_k", "dispreferred", "bad"),
    *("neg_resp", "negative", "non_preferred_output"),
    *(
        "坏回答",
        "坏的回答",
        "差回答",
        "劣质回答",
        "劣回答",
        "坏答案",
        "差答案",
        "劣质答案",
        "坏回复",
        "差回复",
        "劣质回复",
    ),
    *("负例回答", "负例"),
)
_AMBIGUOUS = frozenset(("good", "bad", "positive", "negative", "accepted", "正例", "负例"))
PAIRED_FIELDS = frozenset((*_CHOSEN_FIELDS, *_REJECTED_FIELDS, *WORSE_ANSWERS)) - _AMBIGUOUS
"""Names of fields that only pairs have."""
_ANSWER_FIELDS = ("response", "output", "answer", "completion", "target", "回答")
_NUMBERED_REJECTED = compile_on_use(r"(rejected(?:_response|_answer|_messages)?)_?(\d{1,3})")


# --- where the parts are ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a pair: of the prompt's turns, of the question, of the answers; empty ones are not there.

    Without `chosen`, the last turn of `turns` or the text `answer` is the chosen answer.
    """

    turns: str
    question: str
    chosen: str
    rejected: str
    answer: str = ""


def _first_answer(row: Mapping[str, Any], names: Sequence[str]) -> str:
    found = [name for name in names if isinstance(row.get(name), str | list | dict) and row[name] not in ([], {})]
    found = found or [name for name in names if isinstance(number_to_text(row.get(name)), str)]
    return next((name for name in found if is_filled(row[name])), found[0] if found else "")


def _find_fields(row: Any) -> _Fields | None:
    """Find where prompt and answers are; None if the row is no pair."""
    if not isinstance(row, dict):
        return None
    rejected = _first_answer(row, _REJECTED_FIELDS)
    if not rejected and may_name_worse(row):
        rejected = _first_answer(row, WORSE_ANSWERS)
    if not rejected or is_retrieval(row):
        return None
    turns = next((name for name in _TURN_FIELDS if _is_turn_list(row.get(name))), "")
    has_instruction = isinstance(row.get("instruction"), str) and is_filled(row["instruction"])
    question = "instruction" if has_instruction else find_field(row, _QUESTION_FIELDS) or ""
    chosen = _first_answer(row, _CHOSEN_FIELDS)
    if (turns in ("history", "context") and question) or (
        turns != "prompt" and chosen and _has_own_prompt(row[chosen]) and _has_own_prompt(row[rejected])
    ):
        turns = ""
    if chosen:
        has_prompt = turns or question or _has_own_prompt(row[chosen])
        return _Fields(turns, question, chosen, rejected) if has_prompt else None
    if turns:
        return _Fields(turns, question, "", rejected)
    answer = find_field(row, _ANSWER_FIELDS)
    return _Fields("", question, "", rejected, answer) if answer and question and question != answer else None


def _is_turn_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _has_own_prompt(answer: Any) -> bool:
    """Whether an answer begins with the prompt: as turns, or as text with tags."""
    if isinstance(answer, str):
        return split_tagged_prompt(answer) is not None or is_rendered(answer)
    if _is_turn_list(answer):
        return any(ROLE_NAMES.get(find_role_name(turn)) == "user" for turn in answer)
    return isinstance(answer, list) and bool(answer) and _has_own_prompt(answer[0])


def _join_rejected(row: dict[str, Any]) -> dict[str, Any]:
    """Write rejected answers in numbered fields, `rejected_1` and `rejected_2`, as a list in `rejected`."""
    row = name_pair(row)
    numbered = {
        name: int(match[2])
        for name in row
        if isinstance(name, str) and name[-1:].isdigit() and (match := _NUMBERED_REJECTED.fullmatch(name))
    }
    if not numbered:
        return row
    names = [name for name in (*_REJECTED_FIELDS, *sorted(numbered, key=numbered.__getitem__)) if row.get(name)]
    answers = [row[name] for name in names]
    if all(isinstance(answer, str) or _is_texts(answer) for answer in answers):
        answers = [text for answer in answers for text in (answer if isinstance(answer, list) else [answer])]
    if not answers or any(type(answer) is not type(answers[0]) for answer in answers):
        return row
    if isinstance(answers[0], list) and not all(map(_is_turn_list, answers)):
        return row
    return {**{name: item for name, item in row.items() if name not in (*names, *numbered)}, "rejected": answers}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _find_shape(row: Any) -> str:
    """The name of the format of a row; empty if it is no pair."""
    if not isinstance(row, dict):
        return ""
    row = _join_rejected(row)
    if isinstance(row.get("instruction"), str) and _find_ranked_output(row) is not None:
        return "paired_alpaca"
    fields = _find_fields(row)
    if fields is None:
        return ""
    if _is_turn_list(row[fields.rejected]) and (not fields.chosen or _is_turn_list(row[fields.chosen])):
        return "paired_messages"
    if fields.turns:
        return "paired_sharegpt"
    return "paired_alpaca" if fields.question == "instruction" else "paired_answers"


def _find_ranked_output(row: Mapping[str, Any]) -> list[str] | None:
    """Find the two answers of an older form of pairs: a list as output, the better one first."""
    output = row.get("output")
    both = isinstance(output, list) and len(output) == 2 and all(isinstance(text, str) for text in output)
    return output if both else None


# --- reading them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The turns before the answers, the fields that they are from, and whether they were written with tags."""

    turns: tuple[Message, ...]
    used: tuple[str, ...] = ()
    is_tagged: bool = False


def _read_prompt(row: Mapping[str, Any], fields: _Fields) -> _Prompt | Drop:
    if fields.turns:
        turns = join_turns(row[fields.turns])
        return turns if isinstance(turns, Drop) else _Prompt(turns, (fields.turns,))
    if not fields.question:
        return _Prompt(())
    more_fields = ("input", "context") if fields.question in ("prompt", "instruction") else ("context",)
    used = tuple(name for name in (fields.question, *more_fields) if isinstance(row.get(name), str))
    history = read_history(row)
    if isinstance(history, Drop):
        return history
    used += (find_history(row),) if history else ()
    question = join_question(row, fields.question, more_fields)
    tagged = split_tagged_prompt(question) if fields.question != "instruction" else None
    if tagged is not None:
        return _Prompt((*history, *tagged), used, is_tagged=True)
    return _Prompt((*history, *((Message("user", question),) if question.strip() else ())), used)


def _list_answers(value: Any) -> list[Any] | Drop:
    """List the answers in a field: one, or several as a list of texts, of lists of turns, or of answers' turns."""
    if not isinstance(value, list):
        return [number_to_text(value)]
    if not value:
        return Drop("no_answer")
    if all(isinstance(item, str) for item in value) or all(isinstance(item, list) for item in value):
        return ["\n\n".join(value)] if are_tagged_turns(value) else value
    if not _is_turn_list(value):
        return Drop("other_format", "an answer is neither text nor turns")
    names = [find_role_name(turn) for turn in value]
    is_one = any(ROLE_NAMES.get(name) != "assistant" or name in CALL_ROLES for name in names)
    return [value] if is_one or any("tool_calls" in turn for turn in value) else value


def _read_answer(value: Any, prompt: _Prompt) -> tuple[Message, ...] | Drop:
    """Read an answer, with the prompt before it if it has one of its own: text, a turn, or turns."""
    if isinstance(value, str):
        if not prompt.turns and is_rendered(value):
            return parse_rendered(value)
        tagged = split_tagged_prompt(value) if prompt.is_tagged or not prompt.turns else None
        return tagged or (Message("assistant", strip_turn(value)),)
    if isinstance(value, dict):
        if not find_role_name(value):
            value = {"role": "assistant", **value}
        elif ROLE_NAMES.get(find_role_name(value)) != "assistant":
            return Drop("unknown_role", find_role_name(value))
    return join_turns(value if isinstance(value, list) else [value])


def _join_prompt(prompt: _Prompt, answer: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt and an answer, which may begin with it; a question that the answer holds itself is not repeated."""
    if len(answer) > 1 and answer[: len(prompt.turns)] == prompt.turns:
        return answer
    questions = {turn.text for turn in answer[:-1] if turn.role == "user"}
    if len(prompt.turns) == 1 and prompt.turns[0].text in questions:
        return answer
    return prompt.turns + answer


def read_pairs(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read a prompt and two answers to it wherever a row has them; of several rejected answers each makes a pair.

    The prompt is a list of turns, a question with the turns before it in `history`, or the beginning of both answers.
    Without a chosen answer, the last turn of the list or the answer of the question is it.
    """
    if not isinstance(value, dict):
        yield Drop("other_format")
        return
    if says_not_to_learn(value):
        yield Drop("nothing_to_learn")
        return
    value = _join_rejected(value)
    ranked = _find_ranked_output(value) if isinstance(value.get("instruction"), str) else None
    fields = _Fields("", "instruction", "output", "output") if ranked else _find_fields(value)
    if fields is None:
        yield Drop("no_answer")
        return
    prompt = _read_prompt(value, fields)
    if isinstance(prompt, Drop):
        yield prompt
        return
    chosen = [ranked[0]] if ranked else _find_chosen(value, fields, prompt)
    rejected = [ranked[1]] if ranked else _list_answers(value[fields.rejected])
    for part in (chosen, rejected):
        if isinstance(part, Drop):
            yield part
            return
    assert not isinstance(chosen, Drop) and not isinstance(rejected, Drop)
    if not fields.chosen and fields.turns:
        prompt = replace(prompt, turns=prompt.turns[:-1])
    used = (*prompt.used, fields.chosen, fields.rejected, fields.answer)
    for chosen_answer in chosen:
        for rejected_answer in rejected:
            yield _read_pair(value, prompt, chosen_answer, rejected_answer, used)


def _find_chosen(row: Mapping[str, Any], fields: _Fields, prompt: _Prompt) -> list[Any] | Drop:
    if fields.chosen:
        return _list_answers(row[fields.chosen])
    if fields.answer:
        return [row[fields.answer]]
    if not prompt.turns or prompt.turns[-1].role != "assistant":
        return Drop("no_answer")
    return [prompt.turns[-1]]


def _read_pair(
    row: Mapping[str, Any], prompt: _Prompt, chosen: Any, rejected: Any, used: Sequence[str]
) -> ParsedPreference | Drop:
    chats = []
    for answer in (chosen, rejected):
        turns = (answer,) if isinstance(answer, Message) else _read_answer(answer, prompt)
        if isinstance(turns, Drop):
            return turns
        joined = read_rendered_prompt(_join_prompt(prompt, turns))
        chat = joined if isinstance(joined, Drop) else _finish(row, joined)
        if isinstance(chat, Drop):
            return chat
        chats.append(chat)
    first, second = chats
    if first.messages[:-1] != second.messages[:-1]:
        return Drop("different_prompts")
    if any(chat.messages[-1].role != "assistant" for chat in chats):
        return Drop("no_answer")
    before = first.messages[:-1]
    if not before or before[-1].role not in ("user", "tool") or not before[-1].text.strip():
        return Drop("no_question")
    history = find_history(row)
    names = [name for name in dict.fromkeys(used) if name != history]
    sides = [
        add_side_reasoning(row, side, chat.messages[-1])
        for side, chat in zip(("chosen", "rejected"), chats, strict=True)
    ]
    for side in sides:
        if isinstance(side, Drop):
            return side
    (chosen_field, best), (rejected_field, worse) = [side for side in sides if not isinstance(side, Drop)]
    used = (*used, chosen_field, rejected_field)
    lists = [row[name] for name in names if isinstance(row.get(name), list | dict)]
    turns_unread = find_unread_turn_fields(_flatten(lists)) if lists else ()
    if history in used:
        turns_unread += find_unread_history_fields(row)
    used = (*used, *(name for name in _TURN_FIELDS if name in row and row[name] == row.get("chosen")))
    system_field, system = find_system(row)
    is_carried = before[0].role == "system" and before[0].text.startswith(system)
    used = (*used, system_field if is_carried else "", find_row_tools(row)[0], *_own_fields(row))
    if best.train is False:
        return Drop("nothing_to_learn")
    meta, scores = collect_meta(row, used), _read_scores(row)
    if scores is not None:
        meta |= {name: number for name, number in zip(*scores, strict=True) if isinstance(meta.get(name), str)}
    return ParsedPreference(
        before,
        replace(best, train=None),
        replace(worse, train=None),
        None if scores is None else scores[1],
        meta,
        first.tools,
        (*find_unread_fields(row, used), *dict.fromkeys((*turns_unread, *first.unread))),
    )


def _finish(row: Mapping[str, Any], turns: tuple[Message, ...]) -> ParsedChat | Drop:
    """Put the system text before turns, and read what is inside their texts and the tools of the row."""
    tools: Tools | Drop = ()
    for name in _TURN_FIELDS:
        if _is_turn_list(row.get(name)):
            tools = read_turn_tools(row[name])
            break
    if isinstance(tools, Drop):
        return tools
    return finish_chat(row, ParsedChat(prepend_system(find_system(row)[1], turns), tools))


def _flatten(values: Sequence[Any]) -> list[Any]:
    """The turns in some fields, which may be nested in lists of answers."""
    turns: list[Any] = []
    for value in values:
        turns += _flatten(value) if isinstance(value, list) else [value]
    return [turn for turn in turns if isinstance(turn, dict)]


def _own_fields(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields that say where a row comes from, which the record says anew: its id, and a record's own source."""
    is_record = isinstance(row.get("chosen"), dict) and "text" in row["chosen"]
    return ("id", "source") if is_record and is_own_record(row) else find_own_id(row)


def _read_scores(row: Mapping[str, Any]) -> tuple[tuple[str, str], tuple[float, float]] | None:
    """The fields of the scores of a pair, and the scores of (chosen, rejected); None without any."""
    for fields in SCORE_FIELDS:
        chosen, rejected = (read_number(row.get(field)) for field in fields)
        if chosen is not None and rejected is not None:
            return fields, (chosen, rejected)
    return None


# --- ranked replies in a tree -----------------------------------------------------------------------------------------


def read_ranked_tree(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read OASST's tree: for each question with ranked answers the best one, and each of the others as rejected."""
    if not is_oasst_tree(value):
        yield Drop("other_format")
        return
    row = {name: item for name, item in value.items() if name != "prompt"}
    is_empty = True
    for before, best, other in find_ranked_pairs(value["prompt"]):
        is_empty = False
        turns = join_turns(before)
        if isinstance(turns, Drop):
            yield turns
            continue
        pair = _read_pair(row, _Prompt(turns), best, other, ())
        if not isinstance(pair, Drop):
            unread = find_unread_turn_fields([*before, best, other])
            pair = replace(pair, unread=tuple(dict.fromkeys((*pair.unread, *unread))))
        yield pair
    if is_empty:
        yield Drop("no_answer", "no ranked replies")


# --- a Chinese and an English answer ----------------------------------------------------------------------------------


def _is_language_pair(value: Any) -> bool:
    return isinstance(value, dict) and all(
        find_field(value, names) for names in (_QUESTION_FIELDS, _ZH_ANSWER_FIELDS, _EN_ANSWER_FIELDS)
    )


def read_language_pair(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read a question with a Chinese answer, which is chosen, and an English one, which is rejected."""
    if not isinstance(value, dict):
        yield Drop("other_format")
        return
    question, chosen, rejected = (
        find_field(value, names) for names in (_QUESTION_FIELDS, _ZH_ANSWER_FIELDS, _EN_ANSWER_FIELDS)
    )
    if question is None or chosen is None or rejected is None:
        yield Drop("no_question" if question is None else "no_answer")
        return
    prompt = _read_prompt(value, _Fields("", question, chosen, rejected))
    if isinstance(prompt, Drop):
        yield prompt
        return
    yield _read_pair(value, prompt, value[chosen], value[rejected], (*prompt.used, chosen, rejected))


def _has_shape(name: str) -> Callable[[Any], bool]:
    return lambda value: _find_shape(value) == name


PREFERENCE_FORMATS: tuple[Format[ParsedPreference], ...] = (
    Format("paired_messages", _has_shape("paired_messages"), read_pairs),
    Format("paired_sharegpt", _has_shape("paired_sharegpt"), read_pairs),
    Format("paired_alpaca", _has_shape("paired_alpaca"), read_pairs),
    Format("language_pairs", _is_language_pair, read_language_pair),
    Format("paired_answers", _has_shape("paired_answers"), read_pairs),
    Format("ranked_tree", is_oasst_tree, read_ranked_tree, is_second_use=True),
)
