"""Settings of the stages that write a model in another form."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Self

from pydantic import field_validator, model_validator

from hanlin.config.settings.base import Settings, ref, setting

GgufType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S",
    "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS",
]  # fmt: skip


NEEDS_IMPORTANCE = ("IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
"""The types that are garbage without an importance matrix."""


class Condition(NamedTuple):
    """What a quantized file must reach: `kl<=0.02`."""

    figure: str
    sign: str
    bound: float

    def holds(self, value: float) -> bool:
        return {"<=": value <= self.bound, "<": value < self.bound, ">=": value >= self.bound, ">": value > self.bound}[
            self.sign
        ]

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.bound:g}"


FIGURES = ("kl", "perplexity_ratio", "same_top_token", "same_answers", "stop_rate", "bits_per_weight", "bytes")
"""What a quality_report says of a file that a choice may be made by; of both languages the worse counts."""


def conditions_of(text: str) -> tuple[Condition, ...]:
    """`kl<=0.02, same_top_token>=0.95` as conditions. Raises ValueError for anything else."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.]+(?:e-?\d+)?)\s*", part)
        if match is None or match[1] not in FIGURES:
            raise ValueError(f"'{part.strip()}' is no condition such as kl<=0.02; figures: {', '.join(FIGURES)}")
        found.append(Condition(match[1], match[2], float(match[3])))
    return tuple(found)


class QualityReport(Settings):
    """What each file is measured on, against the model it was made from."""

    held_out: tuple[str, ...] = ref(
        "documents",
        "conversations",
        en="what was held out, Chinese and English: documents, or conversations, whose questions are asked as well",
        zh="留出的中英文内容：文档，或对话（其中的问题也会被提问）",
    )
    window: int = setting(
        512,
        "tokens the model sees at once; of each window the second half is measured, as llama-perplexity does",
        "模型一次看到的词元数；与 llama-perplexity 相同，只计每个窗口的后半",
        ge=32,
    )
    tokens: int = setting(16_384, "measure about this many tokens of each language", "每种语言约测这么多词元", ge=64)
    prompts: int = setting(16, "ask this many of the held-out questions", "提问多少个留出问题", ge=0)
    max_new_tokens: int = setting(128, "an answer is cut after this many tokens", "回答达到这么多词元即截断", ge=1)


class Gguf(Settings):
    """Write GGUF files straight from a model's safetensors and prove each: same ids, same stop ids, close logits."""

    model: str = ref("model", en="the model to write", zh="要导出的模型")
    types: tuple[GgufType, ...] = setting(
        ("Q8_0", "Q4_K_M"), "one file for each of these types", "每种类型各写一个文件", min_length=1
    )
    importance: str | None = ref(
        "importance",
        "files",
        default=None,
        en="an importance matrix, from the stage kind `imatrix` or a file of llama.cpp's (`.gguf`, `.dat`); IQ2, "
        "IQ3_XXS, IQ3_XS and Q2_K_S need one",
        zh="重要性矩阵：来自 imatrix 阶段，或 llama.cpp 的文件（.gguf、.dat）；"
        "IQ2 各型、IQ3_XXS、IQ3_XS 与 Q2_K_S 必须有",
    )
    name: str = setting("hanlin", "what programs show as the model's name", "软件中显示的模型名称", min_length=1)
    license: str | None = setting(
        None, "license written into the files (`apache-2.0`, `llama3`)", "写入文件的许可证（如 apache-2.0、llama3）"
    )
    compare: bool = setting(
        True,
        "load the model itself as well and compare its next-token probabilities with each file's",
        "同时加载原模型，与每个文件比较下一词元的概率",
        affects_key=False,
    )

    quality_report: QualityReport | None = setting(
        None,
        "measure each file against the model on what was held out: perplexity, divergence, equal answers, speed",
        "用留出内容把每个文件与原模型比较：困惑度、散度、回答是否相同、速度",
        unless_default=True,
    )
    pick: str = setting(
        "",
        "keep only the smallest of `types` whose quality_report passes, such as `kl<=0.02` or `kl<=0.05,same_answers>=0.9`",
        "只保留 types 中通过条件的最小者，如 kl<=0.02 或 kl<=0.05,same_answers>=0.9",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _pick_can_be_decided(self) -> Self:
        if self.pick:
            conditions_of(self.pick)
            if self.quality_report is None:
                raise ValueError("`pick` chooses by the quality_report: set `quality_report.held_out`")
        return self

    @field_validator("types")
    @classmethod
    def _each_once(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(types)) < len(types):
            raise ValueError("a type is named twice")
        return types


class Imatrix(Settings):
    """Read a person's own data through a model and keep how strongly each column of its matrices was used.

    The quantizers then round the columns that matter more carefully.
    """

    model: str = ref("model", en="the model that will be quantized", zh="将要量化的模型")
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        en="what the model will be used for: conversations, rendered by its template, or documents, Chinese and "
        "English as they come",
        zh="模型将要用于的内容：对话（用其模板渲染）或文档，中英文按实际比例",
    )
    tokens: int = setting(100_000, "read about this many tokens", "大约读这么多词元", ge=32)
    window: int = setting(
        512, "the most tokens of a row; longer records are cut", "每行最多词元数；更长的记录会被切开", ge=16
    )
    format: Literal["gguf", "dat"] = setting(
        "gguf", "llama.cpp's file format: `gguf`, or the old `dat`", "llama.cpp 的文件格式：gguf，或旧的 dat"
    )


class Package(Settings):
    """Put a model into the folder that another program takes as it stands, checked by the chat contract."""

    model: str = ref(
        "model",
        "gguf",
        "quantized",
        en="what to package: a model, one in fewer bits, or GGUF files",
        zh="要打包的模型、低比特模型或 GGUF 文件",
    )
    target: Literal["ollama", "lmstudio", "llama_cpp", "vllm", "huggingface"] = setting(
        ..., "the program that takes the folder, or the hub", "使用该文件夹的软件或模型站"
    )
    file: str = setting(
        "",
        "which GGUF file, by type (`Q8_0`) or name; none: all for `lmstudio` and `huggingface`, the largest for others",
        "选哪个 GGUF 文件（按类型如 Q8_0 或文件名）；不填：lmstudio 与 huggingface 取全部，其余取最大者",
    )
    name: str = setting(
        "hanlin", "the model's name there", "模型在其中的名称", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96
    )
    publisher: str = setting(
        "hanlin",
        "whose folder it is in LM Studio",
        "在 LM Studio 中的发布者名",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
    )
    license: str | None = setting(
        None,
        "license of the model (`apache-2.0`, `llama3`), written into the card and the Modelfile",
        "模型的许可证（如 apache-2.0、llama3），写入模型卡片与 Modelfile",
    )
    system: str = setting("", "system text of every chat in Ollama", "Ollama 中每次对话的系统提示")
    evaluations: tuple[str, ...] = ref(
        "evaluation",
        default=(),
        en="measurements of this model, shown in the card",
        zh="该模型的评测结果，写入模型卡片",
    )


class QuantizedModel(Settings):
    """Write a model folder in fewer bits that transformers and vLLM load, and measure what that cost."""

    model: str = ref("model", en="the model to write", zh="要量化的模型")
    method: Literal["gptq", "nf4", "int8"] = setting(
        "gptq",
        "`gptq`: 4 bits, rounded on your own data; `nf4` and `int8`: bitsandbytes, without data",
        "gptq：4 比特，用自己的数据校准；nf4 与 int8：bitsandbytes，无需数据",
    )
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        default=(),
        en="what `gptq` reads: conversations, rendered by the model's template, or documents",
        zh="gptq 校准所读的内容：对话（用模型的模板渲染）或文档",
    )
    tokens: int = setting(65_536, "`gptq` reads about this many tokens", "gptq 大约读这么多词元", ge=32)
    window: int = setting(
        512, "the most tokens of a row; longer records are cut", "每行最多词元数；更长的记录会被切开", ge=16
    )
    group_size: Literal[32, 64, 128] = setting(128, "columns that share a scale", "共用一个缩放系数的列数")
    name: str = setting("hanlin", "what the card calls the model", "卡片中的模型名称", min_length=1)
    license: str | None = setting(None, "license written into the card", "写入卡片的许可证")
    quality_report: QualityReport | None = setting(
        None,
        "measure it against the model on what was held out: perplexity, divergence, equal answers, speed",
        "用留出内容与原模型比较：困惑度、散度、回答是否相同、速度",
    )

    @model_validator(mode="after")
    def _gptq_reads_data(self) -> Self:
        if self.method == "gptq" and not self.data:
            raise ValueError("`gptq` rounds on data: set `data`")
        return self
