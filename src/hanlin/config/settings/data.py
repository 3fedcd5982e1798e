"""Settings of the stages that turn files into records: `corpus`, `conversations`, `preferences`, `unpaired_preferences`.

Owns the names of formats and cleaning rules, and every rule's default parameters. Does not own what they do: that is
`hanlin.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, field_validator, model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.rules import (
    ALL_TEXT_RULES,
    CHAT_RULES,
    CORPUS_RULES,
    PREFERENCE_RULES,
    TURN_RULES,
    Rule,
    read_rules,
)
from hanlin.config.settings.sources import (
    CHAT_FIELDS,
    CHAT_FORMAT_NAMES,
    DOCUMENT_FIELDS,
    DOCUMENT_FORMAT_NAMES,
    PREFERENCE_FIELDS,
    PREFERENCE_FORMAT_NAMES,
    UNPAIRED_FIELDS,
    UNPAIRED_FORMAT_NAMES,
    Source,
    check_sources,
)
from hanlin.core.i18n import say

"""Fields of a turn: they are renamed inside the list of turns."""


"""Parameters that list words, and the words that they may list."""

"""The rules on text of the default set with their default parameters, in the order in which it applies them."""

"""Further rules on text, which apply where they are named."""

"""Every rule on whole conversations with its default parameters."""


class Blocklist(Settings):
    """A list of words of the user's own, and what becomes of text that holds them."""

    path: str = ref("files", en="a file in UTF-8 with a word on each line", zh="UTF-8 文件，每行一词")
    action: Literal["drop", "mask"] = setting("drop", "drop the record, or mask the words", "丢弃该条，或遮盖这些词")
    least: int = setting(1, "drop records with at least so many mentions", "出现次数不少于此值才丢弃", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Decontaminate(Settings):
    """Which questions must not be learned, and how records that hold them are found."""

    against: tuple[str, ...] = ref(
        "files",
        en="evaluation sets: files of questions (JSON Lines), or folders of an exam (CSV)",
        zh="评测集：问题文件（JSON Lines）或考试文件夹（CSV）",
    )
    characters: int = setting(
        13, "length of a run of characters in Chinese questions", "中文题目按多少个连续字符比对", ge=4, le=64
    )
    words: int = setting(
        13, "length of a run of words in English questions", "英文题目按多少个连续单词比对", ge=3, le=64
    )
    share: float = setting(
        0.5,
        "a record holds a question when it has this share of its runs; 0: any one of them",
        "记录含有题目片段的比例达到此值即视为包含该题；0 表示任一片段",
        ge=0,
        le=1,
    )
    common: int = setting(
        10,
        "runs that stand in more than so many questions are phrases of the exam and do not count",
        "出现在超过这么多题目中的片段是套话，不计入",
        ge=1,
    )
    action: Literal["drop", "mark"] = setting(
        "drop", "drop such records, or keep them with the ids in `meta`", "丢弃，或保留并在 meta 中注明题号"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"against": value} if isinstance(value, str | list | tuple) else value


class Dedup(Settings):
    """How copies of a document are found; the first one is kept."""

    method: Literal["none", "exact", "minhash"] = setting(
        "minhash",
        "none, exact (same letters) or minhash (also near copies)",
        "none、exact（完全相同）或 minhash（近似）",
    )
    threshold: float = setting(
        0.8, "documents at least this similar (Jaccard) are copies", "相似度（Jaccard）不低于此值视为重复", gt=0, le=1
    )
    ngram_size: int = setting(5, "characters in an n-gram", "每个片段的字符数", ge=1, le=64)
    num_perm: int = setting(128, "length of a MinHash signature", "MinHash 签名长度", ge=16, le=1024)
    across_scripts: bool = setting(
        True,
        "one text in traditional and simplified writing is a copy",
        "同一文本的繁体与简体写法视为重复",
        unless_default=True,
    )
    clustering: Literal["greedy", "connected_components"] = setting(
        "greedy",
        "compare with kept texts only, or drop all but the first of a chain of similar ones (connected component)",
        "只与保留的文本比较，或相似链（连通分量）中只留第一份",
        unless_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value


class Identity(Settings):
    """Who the assistant says it is."""

    name: str = setting(..., "name of the assistant", "助手的名字", min_length=1)
    author: str = setting(..., "who made it", "开发者的名字", min_length=1)
    rewrite: bool = setting(
        True,
        "also replace other assistants' names where a turn speaks of itself",
        "同时替换助手自我介绍中其他助手的名字",
    )


class Reading(Settings):
    """What all of them share: where rows come from and what becomes of bad ones."""

    sources: tuple[Source, ...] = setting(..., "what to read, in this order", "要读取的来源，按此顺序", min_length=1)
    on_error: Literal["stop", "drop"] = setting(
        "stop",
        "stop at a line that is broken JSON or undecodable, or drop it (files of one record per line)",
        "遇到无法解析或解码的行时停止，或丢弃该行（仅限每行一条的文件）",
    )
    max_dropped: float = setting(
        0.5, "fail when more than this share is dropped, copies aside", "丢弃比例（重复除外）超过此值即报错", ge=0, le=1
    )

    lost_characters: Literal["drop", "guess"] = setting(
        "drop",
        "wrongly decoded text that lost bytes: drop it, or fill in the likeliest characters and say so in meta",
        "解码错误且已丢字节的文本：丢弃，或补入最可能的字并在 meta 中标记",
        unless_default=True,
    )

    blocklists: tuple[Blocklist, ...] = setting(
        (), "your own lists of unwanted words", "自备的屏蔽词表", unless_default=True
    )
    decontaminate: Decontaminate | None = setting(
        None,
        "evaluation sets whose questions must not be learned",
        "不可学到其题目的评测集",
        unless_default=True,
    )

    @field_validator("sources", "blocklists", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Mapping | BaseModel) else value


def _held_already(type_: str, zh: str) -> Any:
    """The setting that names stages or folders of the same type."""
    return ref(
        type_,
        default=(),
        en=f"also leave out copies of {type_} that these stages or folders already hold, held-out ones too",
        zh=f"同时去除与这些阶段或文件夹中已有{zh}（含留出部分）重复的内容",
    )


class Corpus(Reading):
    """Read, clean and deduplicate text; makes documents."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "cleaning rules; `default` stands for all, `{name: {...}}` sets parameters, `{name: false}` takes one out",
        "清洗规则；default 表示全部，`{名称: {...}}` 设置参数，`{名称: false}` 去掉一条",
        validate_default=True,
    )
    convert: Literal["none", "simplified", "traditional"] = setting(
        "none", "convert Chinese characters with OpenCC", "用 OpenCC 转换繁简"
    )
    min_chars: int = setting(5, "drop shorter documents", "丢弃更短的文档", ge=1)
    max_chars: int | None = setting(None, "drop longer documents", "丢弃更长的文档", ge=1)
    dedup: Dedup = setting(Dedup(), "how copies are found", "去重方式")
    dedup_against: tuple[str, ...] = _held_already("documents", "文档")
    validation_fraction: float = setting(
        0.01, "share kept out of training, chosen by content", "留出比例，按内容选取", ge=0, le=0.5
    )
    max_dropped: float = setting(
        0.9, "fail when more than this share is dropped, copies aside", "丢弃比例（重复除外）超过此值即报错", ge=0, le=1
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES, CORPUS_RULES)

    @model_validator(mode="after")
    def _known(self) -> Corpus:
        check_sources(self.sources, DOCUMENT_FORMAT_NAMES, DOCUMENT_FIELDS)
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(say("max_chars is smaller than min_chars", "max_chars 小于 min_chars"))
        return self


class Conversations(Reading):
    """Read and check conversations of any format; makes conversations."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "rules on turns and conversations; written like those of `corpus`",
        "针对每轮与整段对话的规则；写法同 corpus",
        validate_default=True,
    )
    identity: Identity | None = setting(None, "who the assistant says it is", "助手的身份")
    convert: Literal["none", "simplified", "traditional"] = setting(
        "none", "convert Chinese characters with OpenCC", "用 OpenCC 转换繁简"
    )
    max_chars: int | None = setting(None, "drop longer conversations", "丢弃更长的对话", ge=1)
    dedup: Literal["none", "exact", "minhash"] = setting(
        "exact",
        "drop equal conversations but the first; minhash: near copies too",
        "相同对话只留第一份；minhash：近似的也去除",
    )
    dedup_on: Literal["whole", "question"] = setting(
        "whole",
        "compare whole conversations, or what the user says in them",
        "比较整段对话，或只比较用户所说",
        unless_default=True,
    )
    dedup_against: tuple[str, ...] = _held_already("conversations", "对话")
    validation_fraction: float = setting(
        0.01, "share kept out of training, chosen by the first question", "留出比例，按首个问题选取", ge=0, le=0.5
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES | TURN_RULES, CHAT_RULES)

    @model_validator(mode="after")
    def _known(self) -> Conversations:
        check_sources(self.sources, CHAT_FORMAT_NAMES, CHAT_FIELDS)
        return self


class _Answers(Reading):
    """What the stages share that read answers to compare or to judge."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "rules on the text of turns; written like those of `corpus`",
        "针对每轮文本的规则；写法同 corpus",
        validate_default=True,
    )
    convert: Literal["none", "simplified", "traditional"] = setting(
        "none", "convert Chinese characters with OpenCC", "用 OpenCC 转换繁简"
    )
    max_chars: int | None = setting(None, "drop records with more characters", "丢弃更长的记录", ge=1)
    dedup: Literal["none", "exact"] = setting("exact", "drop equal records but the first", "相同记录只留第一份")
    validation_fraction: float = setting(
        0.0, "share kept out of training, chosen by the question", "留出比例，按问题选取", ge=0, le=0.5
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES, PREFERENCE_RULES)


class Preferences(_Answers):
    """Read and check preference pairs of any format; makes preferences."""

    keep_ties: bool = setting(False, "keep pairs whose two scores are equal", "保留两个得分相同的偏好对")
    dedup_against: tuple[str, ...] = _held_already("preferences", "偏好对")

    @model_validator(mode="after")
    def _known(self) -> Preferences:
        check_sources(self.sources, PREFERENCE_FORMAT_NAMES, PREFERENCE_FIELDS)
        return self


class UnpairedPreferences(_Answers):
    """Read and check single answers with a verdict, good or bad, of any format; makes unpaired_preferences."""

    dedup_against: tuple[str, ...] = _held_already("unpaired_preferences", "带评判回答")

    @model_validator(mode="after")
    def _known(self) -> UnpairedPreferences:
        check_sources(self.sources, UNPAIRED_FORMAT_NAMES, UNPAIRED_FIELDS)
        return self
