"""The order of turns that every conversation must have, whatever its template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import CALLING, NEXT_ROLES, ROLES, Message
from hanlin.core.text import check_text, is_valid_unicode


def check_order(messages: Sequence[Message], prompt: bool, where: str | None = None) -> None:
    """Raise UserError unless the turns alternate as they must.

    A prompt ends with the user or a tool, everything else with the assistant. In a prompt the user may also write twice
    in a row, as people do. A greeting of the assistant may come first.
    """
    previous: str | None = None
    for index, message in enumerate(messages, start=1):
        allowed = NEXT_ROLES[previous]
        if prompt and previous == "user":
            allowed += ("user",)
        if message.role not in allowed or not isinstance(message.text, str) or not is_valid_unicode(message.text):
            _refuse(message, previous, allowed, _format_location(where, index))
        previous = CALLING if message.tool_calls else message.role
    last = messages[-1].role if messages else None
    if last not in (("user", "tool") if prompt else ("assistant",)):
        raise _wrong_end(last, prompt, _format_location(where, len(messages)))


def check_texts(messages: Sequence[Message], where: str | None = None) -> None:
    """Raise UserError unless every turn has a role that there is, and a text that can be encoded."""
    for index, message in enumerate(messages, start=1):
        if message.role not in ROLES or not isinstance(message.text, str) or not is_valid_unicode(message.text):
            _check_turn(message, _format_location(where, index))


def order_tool_results(messages: Sequence[Message]) -> Sequence[Message]:
    """The same turns, the results of each turn's calls in the order of the calls, and each with the name of its tool.

    Results are matched by the ids of the calls; without ids their order is taken as it is.
    """
    ordered = list(messages)
    for index, message in enumerate(messages):
        if not message.tool_calls:
            continue
        end = index + 1
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        places = {call.id: place for place, call in enumerate(message.tool_calls) if call.id}
        results = sorted(messages[index + 1 : end], key=lambda turn: places.get(turn.tool_call_id, len(places)))
        for place, result in enumerate(results, start=index + 1):
            known = not result.name and result.tool_call_id in places
            name = message.tool_calls[places[result.tool_call_id]].name if known else result.name
            ordered[place] = replace(result, name=name)
    return ordered


def _refuse(message: Message, before: str | None, allowed: tuple[str, ...], location: str) -> NoReturn:
    _check_turn(message, location)
    raise _out_of_order(message.role, before, allowed, location)


def _check_turn(message: Message, location: str) -> None:
    if message.role not in ROLES:
        what = tr("there is no role {role!r}", role=message.role)
        raise UserError(what, location, did_you_mean(str(message.role), ROLES))
    if not isinstance(message.text, str):
        kind = type(message.text).__name__
        what = tr("the text of a turn must be text, not {kind}", kind=kind)
        raise UserError(what, location, tr("write several turns as several messages"))
    check_text(message.text, location)


def _format_location(where: str | None, index: int) -> str:
    location = tr("message {index}", index=index)
    return location if where is None else f"{where}: {location}"


def _out_of_order(role: str, before: str | None, allowed: tuple[str, ...], location: str) -> UserError:
    if role == "system":
        hint = tr("keep one system text and put it first")
        return UserError(tr("a second or late system text"), location, hint)
    after = tr("at the beginning") if before is None else tr("after {before}", before=before)
    if role == "assistant" and before == "assistant":
        hint = tr("join the two answers into one")
    elif before == CALLING:
        hint = tr("give the result of the call as a `tool` turn")
    else:
        hint = tr("allowed here: {allowed}", allowed=join_list(allowed))
    return UserError(tr("a turn of {role} {after}", role=role, after=after), location, hint)


def _wrong_end(last: str | None, prompt: bool, location: str) -> UserError:
    if last is None:
        return UserError(tr("there are no turns"), location)
    if prompt:
        hint = tr("end with the user's question or a tool's result")
        return UserError(tr("a prompt ends with {last}", last=last), location, hint)
    hint = tr("drop the last turn or add its answer: only answers are learned")
    return UserError(tr("the conversation ends with {last}", last=last), location, hint)
