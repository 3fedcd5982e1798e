"""Formats of conversations: lists of turns, and all formats in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.agents.glaive import is_glaive, read_glaive
from hanlin.data.formats.agents.moss import is_moss, read_moss
from hanlin.data.formats.agents.steps import has_steps, read_steps
from hanlin.data.formats.agents.xlam import is_xlam, read_xlam
from hanlin.data.formats.base import (
    Format,
    collect_meta,
    describe_value,
    find_own_id,
    find_unread_fields,
    is_nothing,
    is_own_record,
    number_to_text,
    strip_turn,
)
from hanlin.data.formats.content.api_shapes import is_turn_list
from hanlin.data.formats.content.labels import find_wrong_verdict, obey_turn_labels
from hanlin.data.formats.content.loss_flags import (
    LOSS_FIELDS,
    MASK_FIELDS,
    flag_answers,
    read_loss_flag,
    says_not_to_learn,
    spread_flags,
)
from hanlin.data.formats.content.reasoning import (
    TURN_REASONING_FIELDS,
    join_reasoning,
    read_reasoning,
    split_reasoning,
)
from hanlin.data.formats.content.rendered import read_rendered_prompt
from hanlin.data.formats.content.roles import NAMED_ROLES, ROLE_NAMES, find_role_name
from hanlin.data.formats.content.tool_lists import find_row_tools
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.documents import find_pretraining_text
from hanlin.data.formats.exports import (
    is_chatgpt_export,
    is_claude_export,
    is_oasst_tree,
    read_chatgpt_export,
    read_claude_export,
    read_oasst_tree,
)
from hanlin.data.formats.history import find_history, find_unread_history_fields, read_history
from hanlin.data.formats.questions import (
    ROLE_PAIRS,
    SYSTEM_FIELDS,
    find_row_reasoning,
    find_system,
    is_alpaca,
    is_math,
    is_prompt_response,
    is_self_instruct,
    place_system,
    read_alpaca,
    read_math,
    read_prompt_response,
    read_self_instruct,
)
from hanlin.data.formats.tagged import has_segments, is_dialogue, is_tagged, read_dialogue, read_segments, read_tagged
from hanlin.data.formats.turns import (
    ParsedChat,
    finish_chat,
    join_turns,
    mark_unlearned,
    read_turn_tools,
)
from hanlin.data.ledger import Drop

_TURN_LIST_FIELDS = (
    *("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "data", "items", "contents"),
    *("rounds", "dialogs", "对话", "会话", "多轮对话", "消息"),
)
_LOG_FIELDS = ("trajectory", "traj", "log")
"""Fields that hold turns if what they hold looks so, and no prompt does."""
_NESTED_FIELDS = (
    *("messages", "conversations", "conversation", "data", "dialogs", "dialogues", "chats", "samples", "对话", "会话"),
)
_TURN_LIST_ENDINGS = ("_messages", "_conversations", "_conversation", "_dialogue", "_dialog", "_turns")
"""Endings of other names of a list of turns, if it is the only one and no answer stands beside it."""
_PROMPT_LISTS = ("prompt", "input", "question", "context")
_COMPLETIONS = ("completion", "response", "output", "answer")


def _find_turn_list(value: Any) -> tuple[list[Any], tuple[str, ...]] | None:
    """Find the list of turns in a row: a field, the row itself, or a prompt that is a list and the answer to it.

    Returns:
        The turns, and the fields that they come from.
    """
    if isinstance(value, list):
        return value, ()
    if not isinstance(value, dict):
        return None
    lists = [name for name in _TURN_LIST_FIELDS if isinstance(value.get(name), list)]
    if lists:
        name = next((name for name in lists if value[name]), lists[0])
        return value[name], (name,)
    ending = [name for name in value if _ends_as_turn_list(str(name)) and is_turn_list(value[name])]
    if len(ending) == 1 and not any(isinstance(value.get(name), list | str) for name in _COMPLETIONS):
        return value[ending[0]], (ending[0],)
    prompt = next((name for name in _PROMPT_LISTS if isinstance(value.get(name), list)), None)
    if prompt is None or not value[prompt] or not isinstance(value[prompt][0], dict):
        logged = next((name for name in _LOG_FIELDS if _is_log(value.get(name))), None) or _find_only_chat(value)
        return (value[logged], (logged,)) if logged else None
    for name in _COMPLETIONS:
        answer = value.get(name)
        if name != prompt and answer and isinstance(answer, list | str | dict):
            turns = answer if isinstance(answer, list) else [answer]
            roles = [{"role": "assistant", "content": turn} if isinstance(turn, str) else turn for turn in turns]
            return [*value[prompt], *roles], (prompt, name)
    is_chat = prompt in ("prompt", "input") and any(key in value[prompt][0] for key in ("role", "from"))
    return (value[prompt], (prompt,)) if is_chat else None


def _find_only_chat(row: Mapping[str, Any]) -> str | None:
    """The field of the only list of a whole chat in a row, whatever its name, if no texts of a chat stand beside it."""
    if not any(type(content) is list for content in row.values()):
        return None
    names = [name for name in row if is_turn_list(row[name])]
    texts = [str(name).lower() for name, content in row.items() if isinstance(content, str)]
    if len(names) != 1 or any(word in name for name in texts for word in _SAID_BESIDE):
        return None
    words = str(names[0]).lower()
    if any(word in words for word in _OTHER_CHATS):
        return None
    roles = [ROLE_NAMES.get(find_role_name(turn)) for turn in row[names[0]]]
    is_complete = None not in roles and "user" in roles and roles[-1] == "assistant"
    return names[0] if is_complete else None


_OTHER_CHATS = (
    *("chosen", "reject", "prefer", "history", "example", "demo", "shot", "positive", "negative", "good", "bad"),
    *("query", "question", "prompt", "instruction", "input", "context", "chat_messages"),
    *("judg", "eval", "score", "rating", "review", "critique", "feedback", "verify", "grade", "评"),
)
"""Parts of names of lists of turns that are a part of a row's chat or pair, not the whole, or that judge it."""
_SAID_BESIDE = ("prompt", "question", "instruction", "query", *_COMPLETIONS, "chosen", "reject", "问题", "回答", "答案")
"""Parts of names of texts that are the row's own chat, so that a list beside them is about it."""


def _is_log(value: Any) -> bool:
    """Whether a value is a list of turns with roles, or of questions with their answers."""
    return is_turn_list(value) or (isinstance(value, list) and bool(value) and _find_pair(value[0]) is not None)


def _ends_as_turn_list(name: str) -> bool:
    """Whether a field has another name of a list of turns, which is not that of another format."""
    return name.endswith(_TURN_LIST_ENDINGS) and name.partition("_")[0] not in ("chat", "prompt", "chosen", "rejected")


def _split_nested(value: Any) -> list[dict[str, Any]] | None:
    """Split a row whose field of turns holds several conversations; None for any other row."""
    if not isinstance(value, dict):
        return None
    for name in _NESTED_FIELDS:
        chats = value.get(name)
        if (
            isinstance(chats, list)
            and chats
            and isinstance(chats[0], list)
            and chats[0]
            and isinstance(chats[0][0], dict)
        ):
            field = name if name in _TURN_LIST_FIELDS else "messages"
            rest = {key: item for key, item in value.items() if key != name}
            return [{**rest, field: chat} for chat in chats]
    return None


def _has_chosen(row: Mapping[str, Any]) -> bool:
    """Whether a row has a chosen answer; a number or a truth value under that name is a label."""
    return "chosen" in row and not isinstance(row["chosen"], bool | int)


def _has_turn_keys(*keys: str) -> Callable[[Any], bool]:
    """Make a function that recognizes rows with turns that have one of these keys."""

    def recognize(value: Any) -> bool:
        if isinstance(value, dict) and (_has_chosen(value) or find_pretraining_text(value) is not None):
            return False
        found = _find_turn_list(value)
        first = found[0][0] if found and found[0] else None
        return isinstance(first, dict) and any(key in first for key in keys)

    return recognize


def read_messages(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read ShareGPT and OpenAI messages: a list of turns, perhaps with `system` and `tools` beside it."""
    found = _find_turn_list(value)
    if found is None:
        yield Drop("other_format")
        return
    turns, fields = found
    if not turns:
        yield Drop("no_question")
        return
    row = value if isinstance(value, dict) else {}
    spread = spread_flags(row, turns)
    if isinstance(spread, Drop):
        yield spread
        return
    mask_field, turns = spread[0], obey_turn_labels(spread[1])
    messages, tools = join_turns(turns), read_turn_tools(turns)
    for part in (messages, tools):
        if isinstance(part, Drop):
            yield part
            return
    assert not isinstance(messages, Drop) and not isinstance(tools, Drop)
    history = () if find_history(row) in fields else read_history(row)
    if isinstance(history, Drop):
        history = ()
    messages = _join_history(history, messages)
    reasoning_field, messages = _add_row_reasoning(row, messages, is_last=len(fields) > 1)
    messages, system_field = place_system(row, messages)
    used = (*fields, system_field, reasoning_field, mask_field, find_row_tools(row)[0], *_own_fields(row, turns))
    used = (*used, find_history(row)) if history else used
    unread = (
        *find_unread_fields(row, used),
        *find_unread_turn_fields(turns),
        *(find_unread_history_fields(row) if history else ()),
    )
    yield ParsedChat(messages, tools, collect_meta(row, used), unread)


def _join_history(history: tuple[Message, ...], messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the turns of a row's history before its others, after their system text, unless they begin with them."""
    start = 1 if messages and messages[0].role == "system" else 0
    if not history or messages[start : start + len(history)] == history:
        return messages
    return (*messages[:start], *history, *messages[start:])


def _add_row_reasoning(
    row: Mapping[str, Any], messages: tuple[Message, ...], is_last: bool
) -> tuple[str, tuple[Message, ...]]:
    """Give the reasoning that a row has beside its turns to the only answer, or to the last if `is_last`.

    Returns:
        The field of the reasoning, empty if it is not read, and the turns.
    """
    if not messages or messages[-1].role != "assistant":
        return "", messages
    if not is_last and sum(message.role == "assistant" for message in messages) != 1:
        return "", messages
    field, reasoning = find_row_reasoning(row)
    if not reasoning:
        return "", messages
    answer = messages[-1]
    split = split_reasoning(answer.text)
    if isinstance(split, Drop):
        return "", messages
    reasoning = join_reasoning(join_reasoning(reasoning, answer.reasoning), split[0])
    return field, (*messages[:-1], replace(answer, text=strip_turn(split[1]), reasoning=reasoning))


def _own_fields(row: Mapping[str, Any], turns: Sequence[Any]) -> tuple[str, ...]:
    """Fields that say where a row comes from, which the record says anew: its id, and a record's own source."""
    is_record = isinstance(turns[0], dict) and "text" in turns[0] and "role" in turns[0]
    return ("id", "source") if is_record and is_own_record(row) else find_own_id(row)


# --- pairs of question and answer -------------------------------------------------------------------------------------

_PAIRS = (
    ("human", "assistant"),
    ("input", "output"),
    *ROLE_PAIRS[1:],
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("instruction", "output"),
    ("q", "a"),
    ("问", "答"),
    ("问题", "回答"),
    ("user utterance", "system response"),
)
"""Fields of a turn that holds a question and its answer."""
_PAIR_FIELDS = frozenset((*LOSS_FIELDS, *MASK_FIELDS, *TURN_REASONING_FIELDS, *SYSTEM_FIELDS))


def _find_pair(turn: Any) -> tuple[str, str] | None:
    if not isinstance(turn, dict) or "role" in turn or "from" in turn:
        return None
    return next((pair for pair in _PAIRS if all(name in turn for name in pair)), None)


def is_firefly(value: Any) -> bool:
    """Whether a row is a list of turns that hold a question and its answer each."""
    if isinstance(value, dict) and _has_chosen(value):
        return False
    found = _find_turn_list(value)
    if not found or not found[0]:
        return False
    pair = _find_pair(found[0][0])
    return pair is not None and (bool(found[1]) or pair in ROLE_PAIRS)  # a bare list of questions may be many chats


def read_firefly(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read Firefly's {system, conversation: [{human, assistant}]} and XTuner's {input, output, output_with_loss}."""
    found = _find_turn_list(value)
    pair = _find_pair(found[0][0]) if found and found[0] else None
    if found is None or pair is None or not all(isinstance(turn, dict) for turn in found[0]):
        yield Drop("other_format")
        return
    row = value if isinstance(value, dict) else {}
    spread = spread_flags(row, found[0])
    if isinstance(spread, Drop):
        yield spread
        return
    messages: list[Message] = []
    unread: dict[str, None] = {}
    for turn in spread[1]:
        question, answer = number_to_text(turn.get(pair[0])), number_to_text(turn.get(pair[1]))
        if not isinstance(question, str) or not isinstance(answer, str):
            wrong = next(name for name in pair if not isinstance(number_to_text(turn.get(name)), str))
            is_missing = is_nothing(turn.get(wrong))
            yield (
                Drop("no_answer", f"a turn without {pair[0]} or {pair[1]}")
                if is_missing
                else Drop("not_text", describe_value(wrong, turn[wrong]))
            )
            return
        train = read_loss_flag(turn)
        if isinstance(train, Drop):
            yield train
            return
        system = find_system(turn)[1]
        if system and system != next((turn.text for turn in reversed(messages) if turn.role == "system"), ""):
            messages.append(Message("system", system))
        if question.strip() or not messages:
            messages.append(Message("user", strip_turn(question)))
        reasoning = next((text for key in TURN_REASONING_FIELDS if (text := read_reasoning(turn.get(key)))), "")
        messages.append(Message("assistant", strip_turn(answer), reasoning=reasoning, train=train))
        for key, content in turn.items():
            if key not in pair and key not in _PAIR_FIELDS and content not in (None, "", [], {}):
                unread[f"turn.{key}"] = None
    placed, system_field = place_system(row, tuple(messages))
    used = (*found[1], system_field, spread[0], find_row_tools(row)[0], *find_own_id(row))
    yield ParsedChat(
        placed,
        (),
        collect_meta(row, used),
        (*find_unread_fields(row, used), *unread),
    )


# --- all formats ------------------------------------------------------------------------------------------------------


def _read_rendered(chat: ParsedChat | Drop) -> ParsedChat | Drop:
    """Read a prompt that a chat template has rendered into its turns."""
    messages = chat if isinstance(chat, Drop) else read_rendered_prompt(chat.messages)
    if isinstance(chat, Drop) or isinstance(messages, Drop):
        return messages if isinstance(messages, Drop) else chat
    return chat if messages is chat.messages else replace(chat, messages=messages)


def _flag_answers(row: Mapping[str, Any], chat: ParsedChat) -> ParsedChat | Drop:
    """Obey a list of flags that a row has beside its question and answer."""
    flagged = flag_answers(row, chat.messages)
    if isinstance(flagged, Drop):
        return flagged
    field, messages, is_question_flagged = flagged
    if not field:
        return chat
    unread = tuple(name for name in chat.unread if name != field)
    meta = {name: value for name, value in chat.meta.items() if name != field}
    return replace(
        chat, messages=messages, meta=meta, unread=(*unread, f"turn.{field}") if is_question_flagged else unread
    )


def _chat_format(
    name: str,
    recognize: Callable[[Any], bool],
    read: Callable[[Any], Iterator[ParsedChat | Drop]],
    is_of_turns: bool = False,
    spreads_flags: bool = False,
) -> Format[ParsedChat]:
    """Make a format whose rows are read alike: reasoning, calls and results in their texts, pictures, tools, flags.

    Args:
        name: Its name.
        recognize: Whether a row is in it.
        read: The conversations of a row.
        is_of_turns: Whether its rows have a list of turns, which may be a list of such lists.
        spreads_flags: Whether `read` itself gives each turn its flag from a list of the row.
    """
    spreads_flags = spreads_flags or is_of_turns

    def read_finished(value: Any) -> Iterator[ParsedChat | Drop]:
        nested = _split_nested(value) if is_of_turns else None
        if nested is not None:
            for inner in nested:
                yield from read_finished(inner)
            return
        row = value if isinstance(value, dict) else {}
        wrong, is_learned = find_wrong_verdict(row), not says_not_to_learn(row)
        for chat in map(_read_rendered, read(value)):
            chat = chat if spreads_flags or isinstance(chat, Drop) else _flag_answers(row, chat)
            finished = chat if isinstance(chat, Drop) else finish_chat(value, chat)
            if isinstance(finished, Drop):
                yield finished
            elif wrong is not None:
                yield Drop("marked_wrong", wrong)
            elif row.get("enable_thinking") is False and any(message.reasoning for message in finished.messages):
                named = replace(finished, unread=(*finished.unread, "enable_thinking"))
                yield named if is_learned else mark_unlearned(named)
            else:
                yield finished if is_learned else mark_unlearned(finished)

    def recognize_first(value: Any) -> bool:
        nested = _split_nested(value)
        return recognize(nested[0] if nested else value)

    return Format(name, recognize_first if is_of_turns else recognize, read_finished)


CHAT_FORMATS: tuple[Format[ParsedChat], ...] = (
    _chat_format("sharegpt", _has_turn_keys("from"), read_messages, is_of_turns=True),
    _chat_format("messages", _has_turn_keys(*NAMED_ROLES), read_messages, is_of_turns=True),
    _chat_format("oasst_tree", is_oasst_tree, read_oasst_tree),
    _chat_format("chatgpt_export", is_chatgpt_export, read_chatgpt_export),
    _chat_format("claude_export", is_claude_export, read_claude_export),
    _chat_format("moss", is_moss, read_moss),
    _chat_format("glaive", is_glaive, read_glaive),
    _chat_format("xlam", is_xlam, read_xlam),
    _chat_format("firefly", is_firefly, read_firefly, spreads_flags=True),
    _chat_format("agent_steps", has_steps, read_steps),
    _chat_format("self_instruct", is_self_instruct, read_self_instruct),
    _chat_format("alpaca", is_alpaca, read_alpaca),
    _chat_format("math", is_math, read_math),
    _chat_format("segments", has_segments, read_segments),
    _chat_format("tagged_text", is_tagged, read_tagged),
    _chat_format("dialogues", is_dialogue, read_dialogue),
    _chat_format("prompt_response", is_prompt_response, read_prompt_response),
)
