"""What an assistant thinks before its answer: fields that hold it, and marks around it at the start of the text."""

from __future__ import annotations

import re
from typing import Any

from hanlin.data.formats.base import strip_turn
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

TURN_REASONING_FIELDS = (
    *("reasoning_content", "reasoning", "reasoning_text", "thinking", "thinking_content", "think", "thought"),
    *("thoughts", "reasoning_trace", "reasoning_details", "thinking_blocks"),
)
"""Fields of a turn that hold its reasoning."""
ROW_REASONING_FIELDS = frozenset(
    (
        *TURN_REASONING_FIELDS,
        *("complex_cot", "cot", "chain_of_thought", "long_cot", "reasoning_process", "think_content"),
        *("reason_content", "deepseek_reasoning", "thinking_trajectory", "deepseek_thinking_trajectory"),
        *("thinking_trajectories", "inner_thoughts", "thought_process", "thinking_process", "think_process"),
        *("reasoning_chain", "reasoning_steps", "model_reasoning", "r1_reasoning", "cot_reasoning"),
        *("推理过程", "思考过程", "思维链", "推理", "思考", "推理链", "思考内容", "推理内容", "解题思路"),
    )
)
"""Fields of a row of question and answer that hold the reasoning of the answer, in lower case."""
REASONING_PARTS = frozenset({"reasoning", "thinking", "reasoning_content", "think", "thought"})
"""Types of typed parts that hold reasoning."""

_SWITCHES = frozenset({"on", "off", "yes", "no", "true", "false", "none", "low", "medium", "high", "minimal"})
"""Values that switch reasoning on or off and are none themselves."""

_CLOSED_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<|think|>", "<|/think|>"),
    ("<scratchpad>", "</scratchpad>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("[unused16]", "[unused17]"),
    ("<思考>", "</思考>"),
    ("<思考过程>", "</思考过程>"),
    ("<推理>", "</推理>"),
    ("<推理过程>", "</推理过程>"),
    ("【思考】", "【/思考】"),
    *(
        (f"【{thought}】", f"【{answer}】")
        for thought in ("思考", "思考过程", "推理过程")
        for answer in ("回答", "答案")
    ),
)
_NEVER_PLAIN = frozenset({"<think>", "<|begin_of_thought|>"})
"""Marks that are not the beginning of an ordinary text: without their end, the answer is cut off."""
_SOLUTION = compile_on_use(r"\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>\s*)?\Z", re.S)
_ANSWER = compile_on_use(
    r"\s*<(answer|final_answer|output|solution|response|回答|答案|最终答案)>"
    r"((?:(?!</?(?:answer|final_answer|output|solution|response|回答|答案|最终答案)>).)*)(?:</\1>\s*)?\Z",
    re.S | re.I,
)
"""The answer after the reasoning as R1-Zero and AM-DeepSeek-R1 mark it."""
_CHANNELS = compile_on_use(
    r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>(.*?)<\|end\|>"
    r"(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>(.*?)(?:<\|return\|>|<\|end\|>)?\s*\Z",
    re.S,
)
"""An answer of gpt-oss with its channels."""
_NOUNS = r"(?:标签|标记|标识|记号|符号|字样|令牌|词元|tags?\b|tokens?\b|blocks?\b|markers?\b|elements?\b|delimiters?\b)"
_SPOKEN_OF = compile_on_use(
    rf"[ \t]*(?:(?:这(?:个|一个|种|对|一对)|一对|特殊)?{_NOUNS}|用来|用于|用以|表示|代表|意味着|指的?是"
    r"|是(?:一[个种对]|用来|特殊|思考的?开|推理的?开)|(?:[与和及、/]|and\b|or\b)[ \t]*[`\"'“「]?</?\w"
    r"|is (?:the|a|an|used)\b|are\b|marks?\b|means?\b|indicates?\b|denotes?\b|opens?\b"
    r"|wraps?\b|encloses?\b|starts the\b)",
    re.I,
)
"""What follows a mark that the text speaks of: the noun for it, what it does, or its other end."""
_END_NAMED = compile_on_use(
    r"(?:[与和及到至、以用由写加]|输出|遇到|看到|出现|插入|补上|缺少|没有|标签是?|标记是?"
    r"|\b(?:and|to|with|by|or|the|a|until|write|emit|append|tag|token|is)|[\"'`“「『（(])[ \t]*\Z",
    re.I,
)
_END_SPOKEN_OF = compile_on_use(
    rf"[ \t]*(?:是?(?:这(?:个|一个|种|对|一对)|一对)?{_NOUNS}|之[间前后内]|两[个者]|(?:里|中|内)(?:的|面|间)"
    r"|包[裹住围]|括起)",
    re.I,
)
"""What stands before and behind an end mark within a sentence about it."""
_END_DEFINED = compile_on_use(
    r"[ \t]*(?:则?[是为]|则?(?:表示|代表|标志|用来|用于)|(?:is|means?|marks?|closes|ends)\b)", re.I
)
"""What follows an end mark behind a comma if a sentence says what both marks are: <think>是开始，</think>是结束。"""
_SENTENCE_ENDS = "\n。！？!?~～"
_CLOSE_ALONE = compile_on_use(r"(?:\A|\n)[ \t]*</think>|</think>[ \t]*(?=\n|\Z)")


def read_reasoning(value: Any) -> str | None:
    """Read the value of a field that may hold reasoning; None if it holds something else.

    Args:
        value: A text, a list of one text, a list of typed parts of one reasoning, or null.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict):
        texts = [_find_text(item) for item in (value if isinstance(value, list) else [value])]
        value = _join_parts([text for text in texts if text]) if None not in texts else None
    if not isinstance(value, str) or value.strip().lower() in _SWITCHES:
        return None
    text = strip_turn(value)
    for opening, closing in _CLOSED_MARKS:
        if text[: len(opening)].lower() == opening and text.endswith(closing):
            return strip_turn(text[len(opening) : -len(closing)])
    return text


def _find_text(item: Any) -> str | None:
    """The text of an item in a list of reasoning; empty for one without text, such as a signature."""
    if isinstance(item, dict):
        fields = [name for name in ("text", "content", "value", "summary", "thinking") if item.get(name) is not None]
        return item[fields[0]] if fields and isinstance(item[fields[0]], str) else ""
    return item if isinstance(item, str) else None


def split_reasoning(text: str) -> tuple[str, str] | Drop:
    """Split the text of an answer into the reasoning that it begins with, without the marks around it, and the rest.

    `<think>a</think>b` gives ("a", "b"); a text that only ends its reasoning, since the prompt began it, likewise. An
    empty block gives no reasoning. A Drop if `<think>` has no end.
    """
    head = text.lstrip()
    if head[:1] == "<" and (channels := _CHANNELS.match(head)) is not None:
        return strip_turn(channels[1]), channels[2]
    if head[:1] not in ("<", "[", "◁", "【") and "</think>" not in text:
        return "", text
    if head.startswith("<|channel|>") and "<|channel|>commentary" in head:
        return Drop("broken_tool_call", head[:40])
    parts: list[str] = []
    while split := _split_block(head):
        if isinstance(split, Drop):
            return split
        inner, rest = split
        parts.append(inner)
        head = rest.lstrip()
    if parts:
        return _join_parts(parts), _strip_solution(rest)
    end = _CLOSE_ALONE.search(text)
    if end is not None and "<think>" not in text[: end.start()] and not _is_named(text, end.start(), end.end()):
        return strip_turn(text[: end.start()]), _strip_solution(text[end.end() :])
    return "", text


def _split_block(head: str) -> tuple[str, str] | Drop | None:
    """Split off a block of reasoning; None if the text begins with none."""
    for opening, closing in _CLOSED_MARKS:
        if head[: len(opening)].lower() != opening:
            continue
        end = _find_end(head, opening, closing)
        if end is not None and end >= 0:
            return strip_turn(head[len(opening) : end]), head[end + len(closing) :]
        if opening in _NEVER_PLAIN and end is not None:
            return Drop("unclosed_reasoning", head[:40])
        return None
    return None


def _find_end(head: str, opening: str, closing: str) -> int | None:
    """Where the block that a text begins with ends; -1 if it has no end, None if the text speaks of the marks."""
    lowered = head.lower()
    is_spoken_of = _SPOKEN_OF.match(head, len(opening)) is not None
    first = end = lowered.find(closing, len(opening))
    while end >= 0:
        if is_spoken_of and opening in lowered[len(opening) : end]:
            return None  # an example further down
        inner = head[len(opening) : end].rstrip(" \t")
        if inner[-1:] in tuple(",，、;；") and _END_DEFINED.match(head, end + len(closing)):
            return None
        if not inner.strip(".…"):
            is_end = _END_SPOKEN_OF.match(head, end + len(closing)) is None
        else:
            is_end = inner[-1] in _SENTENCE_ENDS or not (is_spoken_of or _is_named(head, end, end + len(closing)))
        if is_end:
            return end
        end = lowered.find(closing, end + len(closing))
    if is_spoken_of:
        return None
    return first if first < 0 or head[len(opening) : first].strip(" .…") else None


def _is_named(text: str, start: int, end: int) -> bool:
    """Whether an end mark is part of a sentence about it."""
    before = text[max(0, start - 20) : start]
    if before.rstrip(" \t")[-1:] in ("", *_SENTENCE_ENDS):
        return False
    return _END_NAMED.search(before) is not None or _END_SPOKEN_OF.match(text, end) is not None


def _strip_solution(text: str) -> str:
    """The answer between the marks of a solution or an answer, if it has them."""
    match = _SOLUTION.match(text) or _ANSWER.match(text)
    return str(match[match.lastindex or 0]) if match else text


def join_reasoning(first: str, second: str) -> str:
    """Join reasoning that a row gives twice, in a field and in the text: once if one holds the other, else both."""
    one, two = "".join(first.split()), "".join(second.split())
    if two in one:
        return first
    return second if one in two else _join_parts([first, second])


def is_doubled(reasoning: str, text: str) -> bool:
    """Whether a field gives the answer's own text as its reasoning, as agents' logs do with a `thought`."""
    return bool(reasoning) and "".join(reasoning.split()) == "".join(text.split())


def _join_parts(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part)
