"""The order of turns that every conversation must have, whatever its template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.core.records import CALLING, NEXT_ROLES, ROLES, Message
from hanlin.core.text import check_text, is_valid_unicode


def check_order(messages: Sequence[Message], prompt: bool, where: str | None = None) -> None:
    """Raise UserError unless the turns alternate as they must.

    A prompt ends with the user or a tool, everything else with the assistant. In a prompt the user may also write twice
    in a row, as people do.
    """
    before: str | None = None
    for place, message in enumerate(messages, start=1):
        allowed = NEXT_ROLES[before]
        if prompt and before == "user":
            allowed += ("user",)
        if message.role not in allowed or not isinstance(message.text, str) or not is_valid_unicode(message.text):
            _refuse(message, before, allowed, _seat(where, place))
        before = CALLING if message.tool_calls else message.role
    last = messages[-1].role if messages else None
    if last not in (("user", "tool") if prompt else ("assistant",)):
        raise _wrong_end(last, prompt, _seat(where, len(messages)))


def _refuse(message: Message, before: str | None, allowed: tuple[str, ...], seat: str) -> NoReturn:
    if message.role not in ROLES:
        what = say(f"there is no role {message.role!r}", f"没有 {message.role!r} 这种角色")
        raise UserError(what, seat, did_you_mean(str(message.role), ROLES))
    if not isinstance(message.text, str):
        kind = type(message.text).__name__
        what = say(f"the text of a turn must be text, not {kind}", f"消息内容必须是文本，而不是 {kind}")
        raise UserError(what, seat, say("write several turns as several messages", "多轮内容请写成多条消息"))
    check_text(message.text, seat)
    raise _out_of_order(message.role, before, allowed, seat)


def _seat(where: str | None, place: int) -> str:
    seat = say(f"message {place}", f"第 {place} 条消息")
    return seat if where is None else f"{where}: {seat}"


def _out_of_order(role: str, before: str | None, allowed: tuple[str, ...], seat: str) -> UserError:
    if role == "system":
        hint = say("keep one system text and put it first", "只保留一条 system，并放在最前")
        return UserError(say("a second or late system text", "system 重复或不在开头"), seat, hint)
    after = say("at the beginning", "在开头") if before is None else say(f"after {before}", f"在 {before} 之后")
    if role == "assistant" and before == "assistant":
        hint = say("join the two answers into one", "请把两个回答合并为一个")
    elif before == CALLING:
        hint = say("give the result of the call as a `tool` turn", "请以 tool 轮给出调用结果")
    else:
        hint = say(f"here may stand: {', '.join(allowed)}", f"此处可以是：{'、'.join(allowed)}")
    return UserError(say(f"a turn of {role} {after}", f"{role} 出现{after}"), seat, hint)


def _wrong_end(last: str | None, prompt: bool, seat: str) -> UserError:
    if last is None:
        return UserError(say("there are no turns", "没有任何轮次"), seat)
    if prompt:
        hint = say("end with the user's question or a tool's result", "请以用户的问题或工具结果结尾")
        return UserError(say(f"a prompt ends with {last}", f"提示以 {last} 结尾"), seat, hint)
    hint = say(
        "drop the last turn or add its answer: only answers are learned", "请删去最后一轮或补上回答：只有回答会被学习"
    )
    return UserError(say(f"the conversation ends with {last}", f"对话以 {last} 结尾"), seat, hint)
