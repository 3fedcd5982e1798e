"""The ledger of a data stage: rows in = rows kept + rows dropped by named reason, every dropped row readable.

Holds the reasons, their descriptions, and the form of `ledger.json` and `dropped.jsonl`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.i18n import say


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that is dropped.

    Attributes:
        reason: A key of `REASONS`.
        detail: What was found in the row, the same text in every language.
    """

    reason: str
    detail: str = ""


REASONS: dict[str, tuple[str, str]] = {
    "broken_json": ("the line is not JSON", "该行不是合法 JSON"),
    "undecodable": ("the bytes are not text in the file's encoding", "字节不符合文件编码"),
    "line_too_long": ("the line is too long to be a record", "该行过长，不可能是一条记录"),
    "broken_csv": ("the row has more or fewer columns than the header", "列数与表头不符"),
    "broken_characters": ("it contains a lone surrogate, which is no character", "含有孤立的代理项（不完整的字符）"),
    "other_format": ("its format differs from the rest of the file", "格式与文件中其余记录不同"),
    "no_text": ("it has no text", "没有正文"),
    "no_question": ("it has no question", "没有问题"),
    "no_answer": ("it has no answer", "没有回答"),
    "empty_turn": ("a turn is empty", "有一轮为空"),
    "turn_order": ("its turns are not in order", "对话轮次顺序不对"),
    "unknown_role": ("a turn has an unknown role", "有未知角色"),
    "broken_tool_call": (
        "a tool call is not JSON with a name and arguments",
        "工具调用不是含 name 与 arguments 的 JSON",
    ),
    "broken_tools": ("the list of tools is not JSON", "工具列表不是合法 JSON"),
    "not_text": ("a turn holds something other than text", "有一轮含非文本内容"),
    "zero_weight_answer": ("an answer has a loss weight of 0", "某个回答的损失权重为 0"),
    "placeholder": ("{{name}} or {{author}} is not filled in", "{{name}} 或 {{author}} 未填写"),
    "refusal": ("an answer begins with a refusal", "回答以拒答开头"),
    "unparsed_tags": ("there is text outside the Human and Assistant tags", "Human 与 Assistant 标签之外还有文字"),
    "tie": ("both answers have the same score", "两个回答得分相同"),
    "chosen_scores_lower": ("the chosen answer has the lower score", "chosen 回答的得分反而更低"),
    "identical_answers": ("the two answers are the same", "两个回答相同"),
    "no_label": ("it has no label that says whether the answer is good", "缺少表示回答好坏的标签"),
    "has_tools": ("it has tools, which unpaired preferences do not support", "带有工具列表，非成对偏好数据不支持"),
    "different_prompts": ("the two answers have different prompts", "两个回答对应的提示不同"),
    "mojibake": ("it was decoded with the wrong encoding and cannot be repaired", "解码错误造成乱码，无法修复"),
    "replacement_characters": ("it has too many replacement characters (U+FFFD)", "替换字符（U+FFFD）过多"),
    "too_short": ("it is too short", "过短"),
    "too_long": ("it is too long", "过长"),
    "repeated_lines": ("too much of it is repeated lines", "重复行过多"),
    "repeated_phrases": ("too much of it is repeated phrases", "重复片段过多"),
    "repeated_characters": ("too much of it repeats one character", "单个字符连续重复过多"),
    "symbols": ("too much of it is symbols", "符号过多"),
    "other_language": ("it is neither Chinese nor English", "既非中文也非英文"),
    "advertisement": ("it is an advertisement", "广告"),
    "no_turns": ("it has no turns", "没有任何轮次"),
    "tool_turns": ("the output format has no tool calls or tool results", "目标格式不支持工具调用与工具结果"),
    "system_not_first": ("the output format allows one system turn, at the start", "目标格式只允许开头有一条系统提示"),
    "not_alternating": ("the output format only has question and answer pairs", "目标格式只支持一问一答"),
    "empty_question_or_answer": ("the output format treats an empty turn as missing", "目标格式会把空白轮次当作缺失"),
    "round_trip_mismatch": ("reading it back would give another record", "写出后再读回，内容会改变"),
    "unwanted_language": ("its language is not in the list to keep", "语言不在保留范围内"),
    "little_chinese": ("too little of it is Chinese", "中文比例过低"),
    "personal_data": ("it contains personal data", "含个人信息"),
    "blocklist": ("it contains words of a blocklist", "含屏蔽词表中的词"),
    "ocr_debris": ("it has too many OCR errors", "OCR 识别错误过多"),
    "truncated_answer": ("an answer is truncated", "回答被截断"),
    "answer_language": ("an answer is in another language than the question", "回答与提问的语言不同"),
    "contaminated": ("it contains questions of an evaluation set", "含评测集中的题目"),
    "over_budget": ("the token budget of the mix was used up", "超出混合数据的 token 预算"),
    "duplicate": ("it is a duplicate", "与另一条记录重复"),
    "near_duplicate": ("it is a near-duplicate", "与另一条记录近似重复"),
}
DUPLICATE_REASONS = frozenset({"duplicate", "near_duplicate"})


def describe_reason(reason: str) -> str:
    """Describe a reason of `REASONS` in the user's language."""
    return say(*REASONS[reason])


def format_dropped_row(drop: Drop, location: str, row: Any, duplicate_of: str = "") -> str:
    """Format a dropped row as one line of `dropped.jsonl`, without the line end.

    Args:
        drop: The reason and its detail.
        location: `file:line` of the row, lines from 1.
        row: The row as it was read, any JSON value.
        duplicate_of: Id of the kept record, if the row is a duplicate.
    """
    line: dict[str, Any] = {"reason": drop.reason, "location": location}
    if drop.detail:
        line["detail"] = drop.detail
    if duplicate_of:
        line["duplicate_of"] = duplicate_of
    line["row"] = row
    return dump_json_line(line)


def dump_json_line(data: Any) -> str:
    """Serialize to JSON on one line, characters as they are; lone surrogates, which UTF-8 cannot hold, are escaped."""
    line = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(data, allow_nan=False)
    return line


@dataclass(slots=True)
class FileStats:
    """Row counts of one input file.

    Attributes:
        dropped: Dropped rows by reason.
        changed: Records changed by each rule.
        characters: Characters of the records that are kept.
    """

    file: str
    format: str
    encoding: str
    license: str = ""
    rows_in: int = 0
    rows_kept: int = 0
    rows_validation: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def add(self, other: FileStats) -> None:
        """Add the counts of another part of the same file."""
        self.rows_in += other.rows_in
        self.rows_kept += other.rows_kept
        self.rows_validation += other.rows_validation
        self.characters += other.characters
        self.dropped.update(other.dropped)
        self.changed.update(other.changed)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"file": self.file, "format": self.format, "encoding": self.encoding}
        if self.license:
            row["license"] = self.license
        return row | self.counts()

    def counts(self) -> dict[str, Any]:
        """The counts without file name, format and encoding."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "rows_validation": self.rows_validation,
            "rows_dropped": sum(self.dropped.values()),
            "characters": self.characters,
            "dropped": dict(sorted(self.dropped.items())),
            "changed": dict(sorted(self.changed.items())),
        }
