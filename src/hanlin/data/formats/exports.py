"""Formats of conversations with branches: trees of OASST, and what ChatGPT and Claude export.

One branch is read, the one that was judged best or shown last. What is left out is named among the unread fields.

    prompt ── answer (rank 1)
         └─── answer (rank 0) ── question ── answer        read: prompt, answer (rank 0), question, answer
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hanlin.data.formats.base import collect_meta, find_unread_fields
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.turns import ParsedChat, join_turns
from hanlin.data.ledger import Drop

Turn = dict[str, Any]
_TEXT_TYPES = ("text", "multimodal_text", "code", "execution_output")
_TOOL_ROLE = "tool"
TREE_FIELDS = frozenset({"replies", "rank", "deleted", "review_result"})
"""Fields of a message of OASST that say where it is in the tree, and whether it counts."""


# --- OASST ------------------------------------------------------------------------------------------------------------


def is_oasst_tree(value: Any) -> bool:
    """Whether a row is a tree of messages as OASST publishes it: `{prompt: {text, role, replies: [...]}}`."""
    root = value.get("prompt") if isinstance(value, dict) else None
    return isinstance(root, dict) and isinstance(root.get("replies"), list) and isinstance(root.get("text"), str)


def _oasst_branch(value: Mapping[str, Any]) -> tuple[list[Turn], list[str]]:
    """The branch of the best-ranked replies (rank 0 is best); replies without a rank come after those with one."""
    turns: list[Turn] = []
    left_out: list[str] = []
    node: Any = value["prompt"]
    while isinstance(node, dict):
        turns.append({name: content for name, content in node.items() if name not in TREE_FIELDS})
        replies = node.get("replies")
        node = min(list_replies(node), key=_rank, default=None)
        if isinstance(replies, list) and len(replies) > (node is not None):
            left_out.append("replies")
    return turns, left_out


def list_replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The replies to a message of a tree, without those that were deleted or that its reviewers refused."""
    replies = node.get("replies")
    replies = [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []
    return [
        reply for reply in replies if not _is_true(reply.get("deleted")) and not _is_false(reply.get("review_result"))
    ]


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _is_false(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.lower() == "false")


def _rank(reply: Mapping[str, Any]) -> tuple[bool, float]:
    rank = reply.get("rank")
    if isinstance(rank, (int, float)) and rank == rank:  # noqa: PLR0124 (NaN is not equal to itself)
        return False, rank
    return True, 0


# --- ChatGPT ----------------------------------------------------------------------------------------------------------


def is_chatgpt_export(value: Any) -> bool:
    """Whether a row is a conversation of ChatGPT's export: `{mapping: {id: {message, parent, children}}, ...}`."""
    nodes = value.get("mapping") if isinstance(value, dict) else None
    if not isinstance(nodes, dict) or not nodes:
        return False
    first = next(iter(nodes.values()))
    return isinstance(first, dict) and "message" in first and ("parent" in first or "children" in first)


def _chatgpt_branch(value: Mapping[str, Any]) -> tuple[list[Turn], list[str]]:
    """The branch that ends at `current_node`, or at the last node that has no children."""
    nodes: Mapping[str, Any] = value["mapping"]
    leaves = [key for key, node in nodes.items() if isinstance(node, dict) and not node.get("children")]
    key = str(value.get("current_node"))
    path = _walk_up(nodes, key if key in nodes else leaves[-1] if leaves else "", "parent")
    turns: list[Turn] = []
    left_out: list[str] = []
    for step in path:
        message = nodes[step].get("message")
        if isinstance(message, dict):
            turn = _chatgpt_turn(message, left_out)
            if turn is not None:
                turns.append(turn)
    on_path = set(path)
    if any(key not in on_path and isinstance(node, dict) and node.get("message") for key, node in nodes.items()):
        left_out.append("mapping")
    return turns, left_out


def _chatgpt_turn(message: Mapping[str, Any], left_out: list[str]) -> Turn | None:
    """A message as a turn; None if it is empty, hidden, or of a type that is left out."""
    author, content = message.get("author"), message.get("content")
    author = author if isinstance(author, dict) else {}
    content = content if isinstance(content, dict) else {}
    metadata = message.get("metadata")
    if isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation"):
        if _has_text(content):
            left_out.append("turn.hidden")
        return None
    role, kind = str(author.get("role") or ""), str(content.get("content_type") or "text")
    if kind == "thoughts":
        thoughts = content.get("thoughts") or []
        thoughts = thoughts if isinstance(thoughts, list) else [thoughts]
        texts = [thought.get("content") if isinstance(thought, dict) else None for thought in thoughts]
        if not all(isinstance(text, str) for text in texts):
            left_out.append("turn.content.thoughts")
        thinking = "\n\n".join(text for text in texts if isinstance(text, str) and text)
        return {"role": "assistant", "content": "", "reasoning": thinking} if thinking else None
    if kind not in _TEXT_TYPES:
        left_out.append(f"turn.content.{kind}"[:80])
        return None
    parts = content.get("parts")
    parts = parts if isinstance(parts, list) else [content.get("text") or ""]
    if all(isinstance(part, str) for part in parts):
        text: Any = "".join(parts)
        if not text.strip():
            return None
    else:  # pictures and files, by which the row is dropped
        text = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    recipient = message.get("recipient")
    if role == "assistant" and isinstance(recipient, str) and recipient not in ("", "all") and isinstance(text, str):
        call = {"name": recipient, "arguments": _read_object(text) or {"code" if kind == "code" else "input": text}}
        return {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    if role == _TOOL_ROLE:
        return {"role": role, "name": str(author.get("name") or ""), "content": text}
    return {"role": role, "content": text}


def _has_text(content: Mapping[str, Any]) -> bool:
    parts = content.get("parts")
    return bool(content.get("text")) or (isinstance(parts, list) and any(parts))


def _read_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- Claude -----------------------------------------------------------------------------------------------------------


def is_claude_export(value: Any) -> bool:
    """Whether a row is a conversation of Claude's export: `{chat_messages: [{sender, text, content}], ...}`."""
    messages = value.get("chat_messages") if isinstance(value, dict) else None
    return isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and "sender" in messages[0]


def _claude_branch(value: Mapping[str, Any]) -> tuple[list[Turn], list[str]]:
    """The branch that ends at `current_leaf_message_uuid`, or at the last message; without parents, all messages."""
    listed: list[Any] = value["chat_messages"]
    messages = [message for message in listed if isinstance(message, dict)]
    by_id = {str(message["uuid"]): message for message in messages if message.get("uuid")}
    left_out: list[str] = []
    if messages and any(str(message.get("parent_message_uuid")) in by_id for message in messages):
        leaf = str(value.get("current_leaf_message_uuid"))
        path = _walk_up(by_id, leaf if leaf in by_id else str(messages[-1].get("uuid")), "parent_message_uuid")
        if len(path) < len(messages):
            left_out.append("chat_messages")
        messages = [by_id[step] for step in path]
    turns = [turn for message in messages for turn in _claude_turns(message, left_out)]
    return turns, left_out


def _claude_turns(message: Mapping[str, Any], left_out: list[str]) -> Iterator[Turn]:
    """The turns of a message: what an answer gets back from a tool between two of its parts is a turn of its own."""
    sender = message.get("sender")
    content = message.get("content")
    parts = content if isinstance(content, list) and content else [{"type": "text", "text": message.get("text") or ""}]
    pending: list[Any] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_result":
            if pending:
                yield {"sender": sender, "content": pending}
            pending = []
            yield {"role": _TOOL_ROLE, "content": [{**part, "content": part.get("content") or ""}]}
        elif kind in ("text", "thinking", "tool_use"):
            names = {"text": ("text",), "thinking": ("thinking",), "tool_use": ("id", "name", "input")}[kind]
            pending.append({"type": kind, **{name: part[name] for name in names if part.get(name) is not None}})
        else:
            left_out.append(f"turn.content.{kind}"[:80])
    attachments = message.get("attachments")
    for attachment in attachments if isinstance(attachments, list) else []:
        text = attachment.get("extracted_content") if isinstance(attachment, dict) else None
        if isinstance(text, str) and text:  # what the answer is about
            pending.append({"type": "text", "text": f"\n\n{attachment.get('file_name') or ''}\n{text}"})
        else:
            left_out.append("turn.attachments")
    if message.get("files"):
        left_out.append("turn.files")
    if any(part.get("text") or part["type"] != "text" for part in pending):
        yield {"sender": sender, "content": pending}


# --- all of them ------------------------------------------------------------------------------------------------------


def _walk_up(nodes: Mapping[str, Any], key: Any, parent: str) -> list[str]:
    """The keys from the root down to a node; a node that is its own ancestor ends the walk."""
    path: dict[str, None] = {}
    while isinstance(key, str) and key in nodes and key not in path and isinstance(nodes[key], dict):
        path[key] = None
        key = nodes[key].get(parent)
    return list(reversed(path))


def _join_answers(turns: Sequence[Turn]) -> list[Turn]:
    """Join answers of text that follow one another: an answer that went on after a pause."""
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else {}
        if all(row.keys() == {"role", "content"} and row["role"] == "assistant" for row in (last, turn)) and all(
            isinstance(row["content"], str) for row in (last, turn)
        ):
            joined[-1] = {**last, "content": f"{last['content']}\n\n{turn['content']}"}
        else:
            joined.append(turn)
    return joined


def _make_reader(
    recognize: Callable[[Any], bool],
    branch: Callable[[Mapping[str, Any]], tuple[list[Turn], list[str]]],
    fields: tuple[str, ...],
) -> Callable[[Any], Iterator[ParsedChat | Drop]]:
    def read(value: Any) -> Iterator[ParsedChat | Drop]:
        if not recognize(value):
            yield Drop("other_format")
            return
        turns, left_out = branch(value)
        while turns and (turns[-1].get("role") or turns[-1].get("sender")) in ("user", "human", "prompter"):
            turns.pop()  # a question that nobody answered
            left_out.append("turn.unanswered")
        messages = join_turns(_join_answers(turns))
        if isinstance(messages, Drop):
            yield messages
            return
        if not messages:
            yield Drop("no_question")
            return
        unread = (*find_unread_fields(value, fields), *find_unread_turn_fields(turns), *left_out)
        yield ParsedChat(messages, (), collect_meta(value, fields), tuple(dict.fromkeys(unread)))

    return read


read_oasst_tree = _make_reader(is_oasst_tree, _oasst_branch, ("prompt",))
read_chatgpt_export = _make_reader(is_chatgpt_export, _chatgpt_branch, ("mapping", "current_node"))
read_claude_export = _make_reader(is_claude_export, _claude_branch, ("chat_messages", "current_leaf_message_uuid"))


# --- exports that hold all conversations in one object ----------------------------------------------------------------


def split_exported(value: Any) -> list[dict[str, Any]] | None:
    """Split an export of Claude or ChatGPT that is one object, and Grok's, into a row for each conversation.

    Returns:
        The rows; None for anything else.

    Example:
        {"conversations": [{"conversation": {"title": "a"}, "responses": [{"response": {"sender": "human", ...}}]}]}
        becomes [{"title": "a", "messages": [{"role": "human", ...}]}].
    """
    chats = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(chats, list) or not chats or not all(isinstance(chat, dict) for chat in chats):
        return None
    if not any(isinstance(chats[0].get(name), list | dict) for name in ("chat_messages", "mapping", "responses")):
        return None
    if all(is_claude_export(chat) or is_chatgpt_export(chat) for chat in chats):
        return chats
    rows = [_read_grok(chat) for chat in chats]
    return None if None in rows else [row for row in rows if row is not None]


def _read_grok(chat: Mapping[str, Any]) -> dict[str, Any] | None:
    """A conversation of Grok's export as messages: the branch of its last one; None for anything else."""
    responses = chat.get("responses")
    if not isinstance(responses, list) or not responses:
        return None
    inner = [item.get("response") if isinstance(item, dict) else None for item in responses]
    if not all(isinstance(item, dict) and isinstance(item.get("sender"), str) and "message" in item for item in inner):
        return None
    about = chat.get("conversation")
    named = {name: about[name] for name in ("id", "title") if about.get(name)} if isinstance(about, dict) else {}
    by_id = {str(item["_id"]): item for item in inner if isinstance(item, dict) and item.get("_id")}
    path = [item for item in inner if isinstance(item, dict)]
    if len(by_id) == len(path) and any(item.get("parent_response_id") in by_id for item in path):
        node: Any = path[-1]
        path = []
        while isinstance(node, dict) and len(path) <= len(by_id):
            path.insert(0, node)
            node = by_id.get(str(node.get("parent_response_id")))
    turns = [{"role": item["sender"], "content": item["message"]} for item in path]
    others = [item for item in inner if not any(item is read for read in path)]
    return {**named, "messages": turns, **({"other_branches": others} if others else {})}
