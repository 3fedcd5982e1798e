"""The account of a data stage: rows in = rows kept + rows dropped by a named reason, every dropped row readable.

Owns reasons and their words, and the form of `ledger.json` and `dropped.jsonl`. Does not own why a row is dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.i18n import say


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that is not kept: the name of the reason, and what was found, in words that depend on no locale."""

    reason: str
    detail: str = ""


REASONS: dict[str, tuple[str, str]] = {
    "broken_json": ("the line is not JSON", "该行不是合法 JSON"),
    "undecodable": ("the bytes are not text in the file's encoding", "字节不符合文件编码"),
    "line_too_long": ("the line is too long for a record", "该行过长，不像一条记录"),
    "broken_csv": ("the row has more or fewer columns than the header", "列数与表头不符"),
    "broken_characters": ("it holds half a character (a lone surrogate)", "含有半个字符（孤立代理项）"),
    "other_format": ("it is not written like the rest of the file", "与文件其余记录的格式不同"),
    "no_text": ("it has no text", "没有正文"),
    "no_question": ("it has no question", "没有问题"),
    "no_answer": ("it has no answer", "没有回答"),
    "empty_turn": ("a turn is empty", "有一轮为空"),
    "turn_order": ("its turns do not alternate", "对话轮次不交替"),
    "unknown_role": ("a turn has an unknown role", "有未知角色"),
    "broken_tool_call": (
        "a tool call is not JSON with a name and arguments",
        "工具调用不是含 name 与 arguments 的 JSON",
    ),
    "broken_tools": ("the list of tools is not JSON", "工具列表不是合法 JSON"),
    "not_text": ("a turn holds something other than text", "有一轮含非文本内容"),
    "zero_weight_answer": ("it asks that an answer is not learned", "要求某个回答不参与学习"),
    "placeholder": ("{{name}} or {{author}} is not filled in", "{{name}} 或 {{author}} 未填写"),
    "refusal": ("an answer opens with a refusal", "回答以拒绝开头"),
    "unparsed_tags": ("text stands outside the Human and Assistant tags", "有文字在 Human 与 Assistant 标签之外"),
    "tie": ("the two answers score the same", "两个回答得分相同"),
    "chosen_scores_lower": ("the chosen answer scores lower", "被选中的回答得分更低"),
    "identical_answers": ("the two answers are the same", "两个回答相同"),
    "no_label": ("it does not say whether the answer is good", "没有说明回答好坏"),
    "has_tools": ("it offers tools, which judged answers do not carry", "带有工具列表，带评判的回答不支持"),
    "different_prompts": ("the two answers are to different prompts", "两个回答的提示不同"),
    "mojibake": ("it was decoded with the wrong encoding and cannot be repaired", "乱码且无法修复"),
    "replacement_characters": ("it holds too many replacement characters", "替换字符过多"),
    "too_short": ("it is too short", "过短"),
    "too_long": ("it is too long", "过长"),
    "repeated_lines": ("too much of it is repeated lines", "重复行过多"),
    "repeated_phrases": ("too much of it is repeated phrases", "重复片段过多"),
    "repeated_characters": ("too much of it is runs of one character", "连续相同字符过多"),
    "symbols": ("too much of it is symbols", "符号过多"),
    "other_language": ("it is neither Chinese nor English", "既非中文也非英文"),
    "advertisement": ("it is an advertisement", "广告"),
    "no_turns": ("it has no turns", "没有任何轮次"),
    "tool_turns": ("the target has no tool calls and results", "目标格式没有工具调用与结果"),
    "system_not_first": ("the target has one system text, at the start", "目标格式只有开头一条系统提示"),
    "not_alternating": ("the target has questions with answers only", "目标格式只有一问一答"),
    "empty_question_or_answer": ("the target takes an empty turn for none", "目标格式视空白轮次为缺失"),
    "round_trip_mismatch": ("it would be read back as something else", "写出后再读会变成别的内容"),
    "unwanted_language": ("it is in a language that is not wanted", "不是所要的语言"),
    "little_chinese": ("too little of it is Chinese", "中文比例过低"),
    "personal_data": ("it holds personal data", "含个人信息"),
    "blocklist": ("it holds words of a list", "含词表中的词"),
    "ocr_debris": ("it is a scan with too many misread characters", "扫描识别错误过多"),
    "truncated_answer": ("an answer breaks off", "回答被截断"),
    "answer_language": ("an answer is in another language than its question", "回答与提问的语言不同"),
    "contaminated": ("it holds questions of an evaluation", "含评测题目"),
    "over_budget": ("the mix has no room for it", "超出混合预算"),
    "duplicate": ("it is a copy", "重复"),
    "near_duplicate": ("it is a near copy", "近似重复"),
}
DUPLICATE_REASONS = frozenset({"duplicate", "near_duplicate"})


def describe_reason(reason: str) -> str:
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
    """JSON on one line; what UTF-8 cannot hold (half a character) is escaped."""
    line = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(data, allow_nan=False)
    return line


@dataclass(slots=True)
class FileStats:
    """What was read from one file and what became of it; `changed` counts the records that each rule altered."""

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
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "rows_validation": self.rows_validation,
            "rows_dropped": sum(self.dropped.values()),
            "characters": self.characters,
            "dropped": dict(sorted(self.dropped.items())),
            "changed": dict(sorted(self.changed.items())),
        }
