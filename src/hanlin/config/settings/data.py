"""Settings of the kinds that turn files into records: `corpus`, `conversations`, `preferences` and
`unpaired_preferences`.

The names of the formats are in `sources`, the rules and their default parameters in `rules`.
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


class Blocklist(Settings):
    """A blocklist of your own, and what is done with text that holds its words."""

    path: str = ref("files", en="a UTF-8 file with one word on each line", zh="UTF-8 文件，每行一个词")
    action: Literal["drop", "mask"] = setting(
        "drop", "drop the record, or mask the words", "丢弃整条记录，或遮盖其中的词"
    )
    least: int = setting(1, "drop records that hold at least this many of the words", "命中次数不少于此值才丢弃", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Decontaminate(Settings):
    """Decontamination: evaluation sets whose questions must not be in the training data, and how they are found."""

    against: tuple[str, ...] = ref(
        "files",
        en="evaluation sets: files of questions (JSON Lines) or exam folders (CSV)",
        zh="评测集：问题文件（JSON Lines）或考试文件夹（CSV）",
    )
    characters: int = setting(
        13, "n-gram length in characters, for Chinese questions", "中文题目的 n-gram 长度（字符数）", ge=4, le=64
    )
    words: int = setting(
        13, "n-gram length in words, for English questions", "英文题目的 n-gram 长度（单词数）", ge=3, le=64
    )
    share: float = setting(
        0.5,
        "a record holds a question if it has this fraction of its n-grams; 0: any one of them",
        "记录含有题目 n-gram 的比例达到此值即视为包含该题；0 表示含任意一个即算",
        ge=0,
        le=1,
    )
    common: int = setting(
        10,
        "n-grams in more than this many questions are stock phrases of the exam and are ignored",
        "出现在超过这么多道题目中的 n-gram 视为套话，不计入",
        ge=1,
    )
    action: Literal["drop", "mark"] = setting(
        "drop",
        "drop such records, or keep them and list the questions in `meta`",
        "丢弃此类记录，或保留并在 meta 中注明题号",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"against": value} if isinstance(value, str | list | tuple) else value


class Dedup(Settings):
    """Deduplication: how duplicates of a document are found; the first one is kept."""

    method: Literal["none", "exact", "minhash"] = setting(
        "minhash",
        "none, exact (the same characters) or minhash (near-duplicates too)",
        "none（不去重）、exact（完全相同）或 minhash（近似重复也去除）",
    )
    threshold: float = setting(
        0.8,
        "documents at least this similar (Jaccard) are duplicates",
        "Jaccard 相似度不低于此值即视为重复",
        gt=0,
        le=1,
    )
    ngram_size: int = setting(5, "length of an n-gram in characters", "n-gram 的长度（字符数）", ge=1, le=64)
    num_perm: int = setting(128, "length of a MinHash signature", "MinHash 签名的长度", ge=16, le=1024)
    across_scripts: bool = setting(
        True,
        "treat one text in traditional and in simplified characters as duplicates",
        "同一文本的繁体与简体版本视为重复",
        unless_default=True,
    )
    clustering: Literal["greedy", "connected_components"] = setting(
        "greedy",
        "greedy: compare with kept documents only; connected_components: of documents connected by similarity keep the "
        "first",
        "greedy：只与已保留的文档比较；connected_components：以相似关系相连的文档（连通分量）只保留第一份",
        unless_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value


class Identity(Settings):
    """The identity of the assistant: who it says it is."""

    name: str = setting(..., "the assistant's name", "助手的名字", min_length=1)
    author: str = setting(..., "its developer", "开发者的名字", min_length=1)
    rewrite: bool = setting(
        True,
        "also replace the names of other assistants in self-introductions",
        "同时替换自我介绍中其他助手的名字",
    )


class Reading(Settings):
    """What the reading stages share: sources, and what is done with bad rows."""

    sources: tuple[Source, ...] = setting(
        ..., "what to read, in this order", "要读取的来源，按此顺序读取", min_length=1
    )
    on_error: Literal["stop", "drop"] = setting(
        "stop",
        "a line that is not valid JSON or cannot be decoded: stop, or drop the line (files with one record per line)",
        "遇到无法解析或解码的行：停止，或丢弃该行（仅限每行一条记录的文件）",
    )
    max_dropped: float = setting(
        0.5,
        "fail if more than this fraction is dropped, duplicates not counted",
        "丢弃比例（不计重复）超过此值即报错",
        ge=0,
        le=1,
    )

    lost_characters: Literal["drop", "guess"] = setting(
        "drop",
        "mojibake that has lost bytes: drop the record, or fill in the most likely characters and note it in `meta`",
        "已丢失字节的乱码：丢弃该记录，或补入最可能的字符并在 meta 中注明",
        unless_default=True,
    )

    blocklists: tuple[Blocklist, ...] = setting((), "blocklists of your own", "自备的屏蔽词表", unless_default=True)
    decontaminate: Decontaminate | None = setting(
        None,
        "evaluation sets whose questions must not be in the data",
        "数据中不得含有其题目的评测集",
        unless_default=True,
    )

    @field_validator("sources", "blocklists", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Mapping | BaseModel) else value


def _dedup_against(type_: str, zh: str) -> Any:
    """The setting that names stages or folders whose records count as duplicates."""
    return ref(
        type_,
        default=(),
        en=f"also drop duplicates of {type_} in these stages or folders, their validation splits included",
        zh=f"同时去除与这些阶段或文件夹中已有的{zh}（包括验证集）重复的内容",
    )


class Corpus(Reading):
    """Read, clean and deduplicate text into documents."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "cleaning rules; `default`: the default set, `{name: {...}}` sets parameters, `{name: false}` drops a rule",
        "清洗规则；default 表示默认的一组规则，`{名称: {...}}` 设置参数，`{名称: false}` 去掉该规则",
        validate_default=True,
    )
    convert: Literal["none", "simplified", "traditional"] = setting(
        "none", "convert Chinese characters with OpenCC", "用 OpenCC 做繁简转换"
    )
    min_chars: int = setting(5, "drop shorter documents", "丢弃字符数低于此值的文档", ge=1)
    max_chars: int | None = setting(None, "drop longer documents", "丢弃字符数超过此值的文档", ge=1)
    dedup: Dedup = setting(Dedup(), "deduplication", "去重方式")
    dedup_against: tuple[str, ...] = _dedup_against("documents", "文档")
    validation_fraction: float = setting(
        0.01,
        "fraction of the documents in the validation split, chosen by content",
        "验证集所占比例，按内容选取",
        ge=0,
        le=0.5,
    )
    max_dropped: float = setting(
        0.9,
        "fail if more than this fraction is dropped, duplicates not counted",
        "丢弃比例（不计重复）超过此值即报错",
        ge=0,
        le=1,
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES, CORPUS_RULES)

    @model_validator(mode="after")
    def _known(self) -> Corpus:
        check_sources(self.sources, DOCUMENT_FORMAT_NAMES, DOCUMENT_FIELDS)
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(say("max_chars is less than min_chars", "max_chars 不能小于 min_chars"))
        return self


class Conversations(Reading):
    """Read and check conversations in any supported format."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "rules on turns and whole conversations, written as those of `corpus`",
        "针对每轮及整段对话的规则，写法与 corpus 相同",
        validate_default=True,
    )
    identity: Identity | None = setting(None, "who the assistant says it is", "助手自称的身份")
    convert: Literal["none", "simplified", "traditional"] = setting(
        "none", "convert Chinese characters with OpenCC", "用 OpenCC 做繁简转换"
    )
    max_chars: int | None = setting(None, "drop longer conversations", "丢弃字符数超过此值的对话", ge=1)
    dedup: Literal["none", "exact", "minhash"] = setting(
        "exact",
        "exact: of equal conversations keep the first; minhash: of near-duplicates too",
        "exact：相同的对话只保留第一份；minhash：近似重复也只保留一份",
    )
    dedup_on: Literal["whole", "question"] = setting(
        "whole",
        "compare whole conversations, or the user's turns only",
        "比较整段对话，或只比较用户的内容",
        unless_default=True,
    )
    dedup_against: tuple[str, ...] = _dedup_against("conversations", "对话")
    validation_fraction: float = setting(
        0.01,
        "fraction of the conversations in the validation split, chosen by the first question",
        "验证集所占比例，按首个问题选取",
        ge=0,
        le=0.5,
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES | TURN_RULES, CHAT_RULES)

    @model_validator(mode="after")
    def _known(self) -> Conversations:
        check_sources(self.sources, CHAT_FORMAT_NAMES, CHAT_FIELDS)
        return self


class PreferenceReading(Reading):
    """What the stages that read preferences share."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "rules on the text of turns, written as those of `corpus`",
        "针对每轮文本的规则，写法与 corpus 相同",
        validate_default=True,
    )
    convert: Literal["none", "simplified", "traditional"] = setting(
        "none", "convert Chinese characters with OpenCC", "用 OpenCC 做繁简转换"
    )
    max_chars: int | None = setting(None, "drop records with more characters", "丢弃字符数超过此值的记录", ge=1)
    dedup: Literal["none", "exact"] = setting(
        "exact", "exact: of equal records keep the first", "exact：相同的记录只保留第一份"
    )
    validation_fraction: float = setting(
        0.0,
        "fraction of the records in the validation split, chosen by the question",
        "验证集所占比例，按问题选取",
        ge=0,
        le=0.5,
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES, PREFERENCE_RULES)


class Preferences(PreferenceReading):
    """Read and check preference pairs in any supported format."""

    keep_ties: bool = setting(False, "keep pairs whose scores are equal", "保留两个回答得分相同的偏好对")
    dedup_against: tuple[str, ...] = _dedup_against("preferences", "偏好对")

    @model_validator(mode="after")
    def _known(self) -> Preferences:
        check_sources(self.sources, PREFERENCE_FORMAT_NAMES, PREFERENCE_FIELDS)
        return self


class UnpairedPreferences(PreferenceReading):
    """Read and check single answers labeled good or bad, in any supported format."""

    dedup_against: tuple[str, ...] = _dedup_against("unpaired_preferences", "带好坏标注的回答")

    @model_validator(mode="after")
    def _known(self) -> UnpairedPreferences:
        check_sources(self.sources, UNPAIRED_FORMAT_NAMES, UNPAIRED_FIELDS)
        return self
