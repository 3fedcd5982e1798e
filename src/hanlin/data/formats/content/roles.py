"""Names of roles in other tools, and the names that a recipe maps to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.core.records import Role

NAMED_ROLES = ("role", "speaker", "sender", "author", "角色", "说话人", "发言人")
"""Fields of a turn that hold its role, but for ShareGPT's `from`."""
ROLE_FIELDS = (NAMED_ROLES[0], "from", *NAMED_ROLES[1:])
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


ALL_OTHERS = "*"
"""The name in the setting `roles` that stands for every name which is neither in it nor a role by itself."""


def rename_roles(value: Any, roles: Mapping[str, str]) -> Any:
    """Rename the roles of a row's turns.

    Args:
        value: The row.
        roles: The setting `roles`: name in the file to our role.

    Returns:
        The row, in which every turn, alone or in a list, has the role that `roles` names for it. Texts that begin with
        the names of who says them become turns.
    """
    if not roles:
        return value
    if isinstance(value, dict):
        renamed = {
            name: (_may_be_said(str(name).lower(), content) and split_speakers(content, roles))
            or _rename_turns(content, roles)
            for name, content in value.items()
        }
        return _rename_turn(renamed, roles)
    return (isinstance(value, list) and split_speakers(value, roles)) or _rename_turns(value, roles)


def _may_be_said(field: str, content: Any) -> bool:
    """Whether a field may hold a dialogue: as a list of texts, or as one text in fewer fields."""
    return field in SAID_FIELDS if isinstance(content, str) else isinstance(content, list) and field in _SPOKEN_FIELDS


def _rename_turns(value: Any, roles: Mapping[str, str]) -> Any:
    return [_rename_turn(turn, roles) for turn in value] if isinstance(value, list) else _rename_turn(value, roles)


def _rename_turn(turn: Any, roles: Mapping[str, str]) -> Any:
    if not isinstance(turn, dict):
        return turn
    names = {
        field: role
        for field in ROLE_FIELDS
        if isinstance(turn.get(field), str | int) and (role := _find_role(str(turn[field]).strip(), roles))
    }
    return {**turn, **names} if names else turn


def _find_role(name: str, roles: Mapping[str, str], known: Mapping[str, Role] = ROLE_NAMES) -> str:
    """The role that `roles` names for a name, itself or as one of all others, none of which is `known`; or empty."""
    if name in roles:
        return roles[name]
    return "" if name.lower() in known else roles.get(ALL_OTHERS, "")


# --- texts that begin with the names of who says them -----------------------------------------------------------------

SAID_FIELDS = ("conversation", "conversations", "dialogue", "dialog", "chat", "对话", "对话内容")
"""Fields that may hold a dialogue as one text, a line for each turn."""
_SPOKEN_FIELDS = frozenset((*SAID_FIELDS, "messages", "turns", "data", "content", "history", "prompt"))
"""Those, and fields that may hold it as a list of texts."""
_USER: Role = "user"
_ASSISTANT: Role = "assistant"
SPEAKER_ROLES: dict[str, Role] = {
    **ROLE_NAMES,
    **dict.fromkeys(("q", "question", "问", "问题", "提问"), _USER),
    **dict.fromkeys(("a", "答", "答案", "回答"), _ASSISTANT),
}
"""Our role by the name before a colon or in a tag, in lower case."""
_SPEAKER = re.compile(
    r"\s*(?:\*\*)?([A-Z][\w.'’-]{0,19}(?: [A-Z0-9][\w.'’-]{0,19}){0,2}|[\u4e00-\u9fff·]{1,12}[A-Z0-9]?)"
    r"\s*[:：](?:\*\*)?\s*"
)


def list_speakers(said: Any, least: int = 2) -> list[tuple[str, str]]:
    r"""List who says what in texts, or in the lines of one text, that all begin with a name.

    Args:
        said: A list of texts, or one text; anything else has no speakers.
        least: How many different names there must be.

    Returns:
        (name, text) for each; empty unless all begin so and there are at least `least` names.

    Example:
        ["Ron: Anyone here?", "Harry: No."] and "Ron: Anyone here?\nHarry: No." give [("Ron", "Anyone here?"), ...].
    """
    texts = said.splitlines() if isinstance(said, str) else said
    if not isinstance(texts, list):
        return []
    found = []
    for text in texts:
        if isinstance(text, str) and not text.strip():
            continue
        match = _SPEAKER.match(text) if isinstance(text, str) else None
        if match is None:
            return []
        found.append((match[1].strip(), text[match.end() :].strip()))
    return found if len({name for name, _ in found}) >= least else []


def split_speakers(said: Any, roles: Mapping[str, str]) -> list[dict[str, str]]:
    """Split texts that begin with names into turns.

    Of several speakers with one role each text keeps its name, since nothing else says who speaks. What one role says
    in a row is one turn.

    Args:
        said: A list of texts, or one text with a line for each.
        roles: The setting `roles`: name to our role.

    Returns:
        The turns; empty if the texts name no speaker that `roles` knows.
    """
    spoken = list_speakers(said, least=1) if isinstance(said, str | list) else []
    known = {name: _find_role(name, roles, SPEAKER_ROLES) for name, _ in spoken}
    if not any(known.values()):
        return []
    role_of = {name: role or SPEAKER_ROLES.get(name.lower(), name) for name, role in known.items()}
    shared = {role for role in role_of.values() if list(role_of.values()).count(role) > 1}
    turns: list[dict[str, str]] = []
    for name, text in spoken:
        role = role_of[name]
        mark = ": " if name.isascii() else "："
        text = f"{name}{mark}{text}" if role in shared else text
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{text}"
        else:
            turns.append({"role": role, "content": text})
    return turns


_NAMELESS = re.compile(
    r"[A-D]|[甲乙丙丁]|(?:speaker|person|participant|agent|user)[ _]?[A-D0-9]|(?:说话人|发言人|讲话者)[A-D0-9一二]?",
    re.I,
)


def find_nameless_roles(speakers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The roles of two speakers that have letters or numbers for names: who begins asks; empty for any others."""
    names = list(dict.fromkeys(name for name, _ in speakers))
    if len(names) != 2 or not all(_NAMELESS.fullmatch(name) for name in names):
        return {}
    return {names[0]: "user", names[1]: "assistant"}
