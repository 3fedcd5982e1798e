"""Names of roles in other tools, and the names that a recipe maps to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.core.records import Role

ROLE_FIELDS = ("role", "from", "speaker", "sender", "author")
CALL_ROLES = frozenset(
    (
        *("function_call", "tool_call", "tool-call", "toolcall", "function call", "tool call", "tool_calls"),
        *("assistant_toolcall", "assistant_tool_call", "call", "工具调用", "函数调用"),
    )
)
"""Roles of turns that are a tool call."""
REASONING_ROLES = frozenset({"reasoning", "thought", "thinking", "思考", "推理"})
"""Roles of turns that are the reasoning before the next turn of the assistant."""

_NAMES: dict[Role, str] = {
    "system": "system developer system_prompt 系统 系统提示",
    "user": (
        "user human prompter customer client patient seeker "
        "用户 用戶 使用者 访客 訪客 人类 人類 顾客 顧客 客户 客戶 患者 病人 "
        "来访者 來訪者 提问者 提問者 求助者 咨询者 諮詢者 usr"
    ),
    "assistant": (
        "assistant gpt bot model chatgpt bard bing moss chatglm ai chatbot agent doctor counselor therapist supporter "
        "answer 助手 助理 智能助手 ai助手 ai助理 智能客服 机器人 機器人 客服 "
        "医生 醫生 醫師 医师 咨询师 諮詢師 回答者 支持者 律师 律師"
    ),
    "tool": (
        "tool observation function ipython tool_response tool_result tool_output tool-response tool_responses "
        "function_response function_result function-response environment result 工具 观察 工具结果 工具返回"
    ),
}
ROLE_NAMES: dict[str, Role] = {
    name: role for role, names in _NAMES.items() for name in names.split()
} | {
    "function response": "tool",
    **dict.fromkeys((*CALL_ROLES, *REASONING_ROLES), "assistant"),
}  # fmt: skip
"""Our role by the name in the data, in lower case."""


def find_role_name(turn: Mapping[str, Any]) -> str:
    """The name of a turn's role as the data writes it, in lower case; empty without any."""
    for field in ROLE_FIELDS:
        if turn.get(field) is not None:
            return str(turn[field]).strip().lower()
    return ""


def rename_roles(value: Any, roles: Mapping[str, str]) -> Any:
    """Rename the roles of a row's turns.

    Args:
        value: The row.
        roles: The setting `roles`: name in the file to our role.

    Returns:
        The row, in which every turn, alone or in a list, has the role that `roles` names for it.
    """
    if not roles:
        return value
    if isinstance(value, dict):
        renamed = {name: _rename_turns(content, roles) for name, content in value.items()}
        return _rename_turn(renamed, roles)
    return _rename_turns(value, roles)


def _rename_turns(value: Any, roles: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_rename_turn(turn, roles) for turn in value]
    return _rename_turn(value, roles)


def _rename_turn(turn: Any, roles: Mapping[str, str]) -> Any:
    if not isinstance(turn, dict):
        return turn
    names = {
        field: roles[name] for field in ROLE_FIELDS if field in turn and (name := str(turn[field]).strip()) in roles
    }
    return {**turn, **names} if names else turn
