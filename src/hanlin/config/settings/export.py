"""Settings of the export kinds: GGUF, importance matrices, quantized model folders and packages."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Self

from pydantic import field_validator, model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import join_list, say

GgufType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S",
    "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS",
]  # fmt: skip


NEEDS_IMPORTANCE = ("IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
"""The types that are unusable without an importance matrix."""


class Condition(NamedTuple):
    """A condition on a quantized file, such as `kl<=0.02`."""

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
"""The figures of a quality report that `pick` may use; of the two languages the worse counts."""


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """The conditions in a text such as `kl<=0.02, same_top_token>=0.95`. Raises ValueError for anything else."""
    conditions = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.]+(?:e-?\d+)?)\s*", part)
        if match is None or match[1] not in FIGURES:
            condition, figures = part.strip(), join_list(FIGURES)
            raise ValueError(
                say(
                    f"'{condition}' is not a condition such as kl<=0.02; figures: {figures}",
                    f"“{condition}”不是 kl<=0.02 这样的条件；可用的指标：{figures}",
                )
            )
        conditions.append(Condition(match[1], match[2], float(match[3])))
    return tuple(conditions)


class QualityReport(Settings):
    """What each file is measured on, compared with the model it was made from."""

    held_out: tuple[str, ...] = ref(
        "documents",
        "conversations",
        en="validation data in Chinese and English: documents, or conversations, whose questions are asked as well",
        zh="中英文的验证数据：文档，或对话（其中的问题也会拿来提问）",
    )
    window: int = setting(
        512,
        "window length in tokens; the second half of each window is measured, as llama-perplexity does",
        "窗口长度（词元数）；与 llama-perplexity 相同，只计每个窗口的后半部分",
        ge=32,
    )
    tokens: int = setting(16_384, "tokens to measure in each language, about", "每种语言大约测量的词元数", ge=64)
    prompts: int = setting(16, "number of held-out questions to ask", "提问的留出问题数", ge=0)
    max_new_tokens: int = setting(128, "maximum number of tokens of an answer", "回答的最大词元数", ge=1)


class Gguf(Settings):
    """Write GGUF files directly from a model's safetensors and verify each: same token ids, same stop ids, close
    logits."""

    model: str = ref("model", en="the model to export", zh="要导出的模型")
    types: tuple[GgufType, ...] = setting(
        ("Q8_0", "Q4_K_M"), "write one file of each of these types", "每种类型各写一个文件", min_length=1
    )
    importance: str | None = ref(
        "importance",
        "files",
        default=None,
        en="an importance matrix, from an `imatrix` stage or a file of llama.cpp (`.gguf`, `.dat`); IQ2 types, "
        "IQ3_XXS, IQ3_XS and Q2_K_S need one",
        zh="重要性矩阵：来自 imatrix 阶段，或 llama.cpp 的文件（.gguf、.dat）；"
        "IQ2 各类型、IQ3_XXS、IQ3_XS 与 Q2_K_S 必须提供",
    )
    name: str = setting("hanlin", "model name that programs show", "软件中显示的模型名称", min_length=1)
    license: str | None = setting(
        None, "license written into the files (`apache-2.0`, `llama3`)", "写入文件的许可证（如 apache-2.0、llama3）"
    )
    compare: bool = setting(
        True,
        "also load the original model and compare its next-token probabilities with those of each file",
        "同时加载原模型，与每个文件比较下一词元的概率",
        affects_key=False,
    )

    quality_report: QualityReport | None = setting(
        None,
        "compare each file with the original model on validation data: perplexity, KL divergence, equal answers, speed",
        "用验证数据把每个文件与原模型比较：困惑度、KL 散度、回答是否相同、速度",
        unless_default=True,
    )
    pick: str = setting(
        "",
        "keep only the smallest file whose quality report meets these conditions, such as `kl<=0.02` or "
        "`kl<=0.05,same_answers>=0.9`",
        "只保留质量报告满足这些条件的最小文件，如 kl<=0.02 或 kl<=0.05,same_answers>=0.9",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _pick_can_be_decided(self) -> Self:
        if self.pick:
            parse_conditions(self.pick)
            if self.quality_report is None:
                raise ValueError(
                    say(
                        "`pick` needs a quality report: set `quality_report.held_out`",
                        "pick 依据质量报告选择：请设置 quality_report.held_out",
                    )
                )
        return self

    @field_validator("types")
    @classmethod
    def _each_once(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(types)) < len(types):
            raise ValueError(say("a type is listed twice", "类型重复"))
        return types


class Imatrix(Settings):
    """Run your own data through a model and record how much each column of its matrices matters.

    Quantization then rounds the columns that matter more precisely.
    """

    model: str = ref("model", en="the model to be quantized", zh="将要量化的模型")
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        en="data like what the model will be used for: conversations, rendered by its template, or documents, in both "
        "languages",
        zh="与模型实际用途相近的数据：对话（用其模板渲染）或文档，中英文按实际比例",
    )
    tokens: int = setting(100_000, "tokens to read, about", "大约读取的词元数", ge=32)
    window: int = setting(
        512, "sequence length in tokens; longer records are split", "序列长度（词元数）；更长的记录会被切分", ge=16
    )
    format: Literal["gguf", "dat"] = setting(
        "gguf", "llama.cpp's file format: `gguf`, or the older `dat`", "llama.cpp 的文件格式：gguf，或旧格式 dat"
    )


class Package(Settings):
    """Package a model as a folder that another program takes as it is, with its chat template checked."""

    model: str = ref(
        "model",
        "gguf",
        "quantized",
        en="what to package: a model, a quantized model, or GGUF files",
        zh="要打包的模型、量化模型或 GGUF 文件",
    )
    target: Literal["ollama", "lmstudio", "llama_cpp", "vllm", "huggingface"] = setting(
        ..., "the program that will use the folder, or the hub", "使用该文件夹的软件或模型站"
    )
    file: str = setting(
        "",
        "the GGUF file to use, by type (`Q8_0`) or name; empty: all for `lmstudio` and `huggingface`, the largest for "
        "the others",
        "使用哪个 GGUF 文件，填类型（如 Q8_0）或文件名；为空时 lmstudio 与 huggingface 取全部，其余取最大的一个",
    )
    name: str = setting(
        "hanlin",
        "model name in that program",
        "模型在该软件中的名称",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
    )
    publisher: str = setting(
        "hanlin",
        "publisher's name in LM Studio",
        "在 LM Studio 中的发布者名称",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
    )
    license: str | None = setting(
        None,
        "license of the model (`apache-2.0`, `llama3`), written into the model card and the Modelfile",
        "模型的许可证（如 apache-2.0、llama3），写入模型卡片与 Modelfile",
    )
    system: str = setting("", "system prompt of every chat in Ollama", "Ollama 中每次对话的系统提示")
    evaluations: tuple[str, ...] = ref(
        "evaluation",
        default=(),
        en="evaluations of this model to show in the model card",
        zh="写入模型卡片的评测结果",
    )


class QuantizedModel(Settings):
    """Write a quantized model folder for transformers and vLLM, and measure the loss of quality."""

    model: str = ref("model", en="the model to quantize", zh="要量化的模型")
    method: Literal["gptq", "nf4", "int8"] = setting(
        "gptq",
        "`gptq`: 4 bits, calibrated on your own data; `nf4` and `int8`: bitsandbytes, without data",
        "gptq：4 位，用自己的数据校准；nf4 与 int8：bitsandbytes 格式，无需数据",
    )
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        default=(),
        en="calibration data of `gptq`: conversations, rendered by the model's template, or documents",
        zh="gptq 的校准数据：对话（用模型的模板渲染）或文档",
    )
    tokens: int = setting(65_536, "calibration tokens of `gptq`, about", "gptq 校准所用的词元数（约）", ge=32)
    window: int = setting(
        512, "sequence length in tokens; longer records are split", "序列长度（词元数）；更长的记录会被切分", ge=16
    )
    group_size: Literal[32, 64, 128] = setting(
        128, "group size: columns that share a scale", "分组大小：共用一个缩放系数的列数"
    )
    name: str = setting("hanlin", "model name in the model card", "模型卡片中的模型名称", min_length=1)
    license: str | None = setting(None, "license written into the model card", "写入模型卡片的许可证")
    quality_report: QualityReport | None = setting(
        None,
        "compare it with the original model on validation data: perplexity, KL divergence, equal answers, speed",
        "用验证数据与原模型比较：困惑度、KL 散度、回答是否相同、速度",
    )

    @model_validator(mode="after")
    def _gptq_reads_data(self) -> Self:
        if self.method == "gptq" and not self.data:
            raise ValueError(say("`gptq` needs calibration data: set `data`", "gptq 需要校准数据：请设置 data"))
        return self
