"""Formats of conversations: how each writes turns, roles, system texts and tool calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import Format, collect_meta, strip_turn
from hanlin.data.formats.glaive import is_glaive, read_glaive
from hanlin.data.formats.moss import is_moss, read_moss
from hanlin.data.formats.turns import ROLE_NAMES, ParsedChat, alternate_roles, prepend_system, read_tools, read_turns
from hanlin.data.ledger import Drop

_QUESTION_FIELDS = ("prompt", "question", "query", "input", "ask", "q", "问题", "问")
_ANSWER_FIELDS = ("response", "answer", "target", "output", "completion", "reply", "a", "回答", "答")
_TURN_LIST_FIELDS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")


def _find_turn_list(value: Any) -> list[Any] | None:
    """Find the list of turns in a row: a field, the row itself, or a prompt and a completion that are both lists."""
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("prompt"), list) and isinstance(value.get("completion"), list):
        return [*value["prompt"], *value["completion"]]
    return next((value[name] for name in _TURN_LIST_FIELDS if isinstance(value.get(name), list)), None)


def _has_turn_keys(*keys: str) -> Callable[[Any], bool]:
    """Make a function that recognizes rows with turns that have these keys."""

    def recognize(value: Any) -> bool:
        if isinstance(value, Mapping) and "chosen" in value:
            return False
        turns = _find_turn_list(value)
        return bool(turns) and isinstance(turns[0], Mapping) and all(key in turns[0] for key in keys)  # type: ignore[index]

    return recognize


def read_messages(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read ShareGPT and OpenAI messages: a list of turns, perhaps with `system` and `tools` beside it."""
    turns = _find_turn_list(value)
    if turns is None:
        yield Drop("other_format")
        return
    if not turns:
        yield Drop("no_question")
        return
    row = value if isinstance(value, Mapping) else {}
    messages = read_turns(turns)
    tools = read_tools(row.get("tools") or row.get("functions") or "")
    if isinstance(messages, Drop) or isinstance(tools, Drop):
        yield messages if isinstance(messages, Drop) else tools  # type: ignore[misc]
        return
    yield ParsedChat(
        prepend_system(row.get("system"), messages), tools, collect_meta(row, ("system", "tools", "source", "id"))
    )


# --- questions with answers ---------------------------------------------------------------------------------------


def _first_key(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if isinstance(row.get(name), str)), None)


def join_question(row: Mapping[str, Any], field: str, more_fields: Sequence[str] = ("input", "context")) -> str:
    """Join the question and the material it is about, with line ends between.

    Args:
        row: A row.
        field: The field of the question.
        more_fields: Fields of the material; absent and blank ones are left out.
    """
    parts = [str(row[name]) for name in (field, *more_fields) if isinstance(row.get(name), str) and row[name].strip()]
    return "\n".join(strip_turn(part) for part in dict.fromkeys(parts))


def _read_history(row: Mapping[str, Any]) -> list[str] | Drop:
    turns = row.get("history") or []
    if not isinstance(turns, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in turns
    ):
        return Drop("other_format", "history is not a list of [question, answer]")
    return [text for pair in turns for text in pair]


def _read_question_answer(
    row: Mapping[str, Any], question: str, answer: Any, used: Sequence[str], convert: Callable[[str], str] = str
) -> Iterator[ParsedChat | Drop]:
    """Read a conversation of a question and its answer.

    Args:
        row: The row; its `history` and `system` come before the question.
        question: The question.
        answer: The answer, or a list of all turns after the question.
        used: Fields that do not go to `meta`.
        convert: Applied to the answer's texts.
    """
    history = _read_history(row)
    if isinstance(history, Drop):
        yield history
        return
    content = answer if isinstance(answer, list) else [answer]
    if not question.strip():
        yield Drop("no_question")
    elif not content or not isinstance(content[0], str) or not content[0].strip():
        yield Drop("no_answer")
    elif not all(isinstance(text, str) for text in content):
        yield Drop("not_text")
    else:
        messages = alternate_roles([*history, question, *map(convert, content)])
        yield ParsedChat(
            prepend_system(row.get("system"), messages), (), collect_meta(row, (*used, "history", "system", "id"))
        )


_ALPACA_ANSWER_FIELDS = ("output", "response", "answer", "completion")


def _is_alpaca(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("instruction"), str)
        and any(isinstance(value.get(name), str | list) for name in _ALPACA_ANSWER_FIELDS)
    )


def read_alpaca(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {instruction, input, output, history, system}; a list as output holds all turns after the question."""
    if not isinstance(value, Mapping):
        yield Drop("other_format")
        return
    answer = next((value[name] for name in _ALPACA_ANSWER_FIELDS if value.get(name)), None)
    used = ("instruction", "input", "context", *_ALPACA_ANSWER_FIELDS)
    messages = _parse_human_assistant_text(value, answer)
    if messages is not None:
        yield ParsedChat(
            prepend_system(value.get("system"), messages), (), collect_meta(value, (*used, "system", "id"))
        )
        return
    yield from _read_question_answer(value, join_question(value, "instruction"), answer, used)


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
    turns = zip(names, content, strict=True)
    return None if prefix.strip() else tuple(Message(ROLE_NAMES[name], strip_turn(text)) for name, text in turns)


def _is_prompt_response(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(
        _first_key(value, _QUESTION_FIELDS) and _first_key(value, _ANSWER_FIELDS)
    )


def read_prompt_response(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read a question and an answer under any of their usual names: prompt/response, input/target, ..."""
    if not isinstance(value, Mapping):
        yield Drop("other_format")
        return
    field, answer = _first_key(value, _QUESTION_FIELDS), _first_key(value, _ANSWER_FIELDS)
    if field is None or answer is None:
        yield Drop("no_question" if field is None else "no_answer")
        return
    more_fields = ("input",) if field == "prompt" and answer != "input" else ()
    yield from _read_question_answer(
        value, join_question(value, field, more_fields), value[answer], (field, answer, *more_fields)
    )


def _is_self_instruct(value: Any) -> bool:
    return isinstance(value, Mapping) and "instruction" in value and isinstance(value.get("instances"), list)


def read_self_instruct(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {instruction, instances: [{input, output}]}: each instance is a conversation."""
    instances = value.get("instances") if isinstance(value, Mapping) else None
    if not isinstance(instances, list):
        yield Drop("other_format")
        return
    if not instances:
        yield Drop("no_answer")
    for instance in instances:
        if isinstance(instance, Mapping):
            yield from read_alpaca({**value, "instances": "", **instance})
        else:
            yield Drop("other_format")


def _is_math(value: Any) -> bool:
    return isinstance(value, Mapping) and all(name in value for name in ("original_text", "equation", "ans"))


def read_math(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read Math23K: the problem is the question, the equation and its result are the answer."""
    if not _is_math(value):
        yield Drop("other_format")
        return
    answer = f"{value['equation']}\n答案：{value['ans']}" if str(value["ans"]).strip() else ""
    yield from _read_question_answer(
        value, str(value["original_text"]), answer, ("original_text", "segmented_text", "equation", "ans")
    )


# --- Firefly ------------------------------------------------------------------------------------------------------


def _is_firefly(value: Any) -> bool:
    return _has_turn_keys("human", "assistant")(value)


def read_firefly(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {system, conversation: [{human, assistant}, ...]}."""
    turns = _find_turn_list(value)
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        yield Drop("other_format")
        return
    texts = [turn.get(name) for turn in turns for name in ("human", "assistant")]
    if not all(isinstance(text, str) for text in texts):
        yield Drop("no_answer", "a turn without human or assistant")
        return
    yield ParsedChat(
        prepend_system(value.get("system"), alternate_roles(texts)), (), collect_meta(value, ("system", "id"))
    )


# --- text with tags, lists of texts ---------------------------------------------------------------------------------

_TAGGED = re.compile(r"\s*(?:<s>\s*)?(Human|Assistant|System)\s*[:：]", re.I)
_SENTENCES = re.compile(r"</s>\s*(?=<s>|\Z)")
_OPEN_TAG = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant)\s*[:：]")


def _is_tagged(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("text"), str) and bool(_TAGGED.match(value["text"]))


def read_tagged(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read one text of `<s>Human: ...</s><s>Assistant: ...</s>`, or of paragraphs that begin with `Human:` etc."""
    text = value.get("text") if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        yield Drop("no_text")
        return
    messages = parse_tagged_turns(text)
    yield messages if isinstance(messages, Drop) else ParsedChat(messages, (), collect_meta(value, ("text", "id")))


def parse_tagged_turns(text: str) -> tuple[Message, ...] | Drop:
    """Parse such a text into messages; a Drop if there is text outside the tags."""
    messages = []
    if "<s>" in text:
        pieces = [piece for piece in _SENTENCES.split(text) if piece.strip()]
        for piece in pieces:
            match = _TAGGED.match(piece)
            if match is None or not piece.lstrip().startswith("<s>"):
                return Drop("unparsed_tags", piece.strip()[:40])
            content = piece[match.end() :]
            if "<s>" in content:
                return Drop("unparsed_tags", content[content.index("<s>") :][:40])
            messages.append(Message(ROLE_NAMES[match[1].lower()], strip_turn(content)))
    else:
        prefix, *pieces = _OPEN_TAG.split(text)
        if prefix.strip() or not pieces:
            return Drop("unparsed_tags", prefix.strip()[:40])
        for name, content in zip(pieces[::2], pieces[1::2], strict=True):
            messages.append(Message(ROLE_NAMES[name.lower()], strip_turn(content)))
    return tuple(messages)


_BLANK_BESIDE_HAN = re.compile(
    r"(?<=[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]) (?=\S)|(?<=\S) (?=[\u3000-\u303f\u3400-\u9fff\uff00-\uffef])"
)


def _is_dialogue(value: Any) -> bool:
    turns = _find_turn_list(value)
    return bool(turns) and all(isinstance(text, str) for text in turns)  # type: ignore[union-attr]


def read_dialogue(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read LCCC: a list of texts said in turn. Words separated by blanks are joined: blanks beside Chinese go."""
    turns = _find_turn_list(value)
    if not turns or not all(isinstance(text, str) for text in turns):
        yield Drop("other_format")
        return
    if len(turns) < 2:
        yield Drop("no_answer")
        return
    blanks = sum(text.count(" ") for text in turns)
    if blanks * 6 > sum(map(len, turns)):
        turns = [_BLANK_BESIDE_HAN.sub("", text) for text in turns]
    yield ParsedChat(
        alternate_roles(turns),
        (),
        collect_meta(value, ("id", *_TURN_LIST_FIELDS)) if isinstance(value, Mapping) else {},
    )


CHAT_FORMATS: tuple[Format[ParsedChat], ...] = (
    Format("sharegpt", _has_turn_keys("from"), read_messages),
    Format("messages", _has_turn_keys("role"), read_messages),
    Format("moss", is_moss, read_moss),
    Format("glaive", is_glaive, read_glaive),
    Format("firefly", _is_firefly, read_firefly),
    Format("self_instruct", _is_self_instruct, read_self_instruct),
    Format("alpaca", _is_alpaca, read_alpaca),
    Format("math", _is_math, read_math),
    Format("tagged_text", _is_tagged, read_tagged),
    Format("dialogues", _is_dialogue, read_dialogue),
    Format("prompt_response", _is_prompt_response, read_prompt_response),
)
