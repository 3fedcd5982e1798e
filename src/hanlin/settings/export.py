"""Settings of the stages that write a model in another form."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from hanlin.settings.base import Settings, knob, ref

GgufType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S",
    "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS",
]  # fmt: skip


class Gguf(Settings):
    """Write GGUF files straight from a model's safetensors and prove each: same ids, same stop ids, close logits."""

    model: str = ref("model", en="the model to write", zh="要导出的模型")
    types: tuple[GgufType, ...] = knob(
        ("Q8_0", "Q4_K_M"), "one file for each of these types", "每种类型各写一个文件", min_length=1
    )
    importance: str | None = ref(
        "importance",
        "files",
        default=None,
        en="an importance matrix, from the stage kind `imatrix` or a file of llama.cpp's (`.gguf`, `.dat`); the types "
        "below three bits need one",
        zh="重要性矩阵：来自 imatrix 阶段，或 llama.cpp 的文件（.gguf、.dat）；3 比特以下的类型必须有",
    )
    name: str = knob("hanlin", "what programs show as the model's name", "软件中显示的模型名称", min_length=1)
    licence: str | None = knob(
        None, "licence written into the files (`apache-2.0`, `llama3`)", "写入文件的许可证（如 apache-2.0、llama3）"
    )
    compare: bool = knob(
        True,
        "load the model itself as well and compare its next-token probabilities with each file's",
        "同时加载原模型，与每个文件比较下一词元的概率",
        in_key=False,
    )

    @field_validator("types")
    @classmethod
    def _each_once(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(types)) < len(types):
            raise ValueError("a type is named twice")
        return types


class Imatrix(Settings):
    """Read a person's own data through a model and keep how strongly each column of its matrices was used.

    The quantisers then round the columns that matter more carefully.
    """

    model: str = ref("model", en="the model that will be quantised", zh="将要量化的模型")
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        en="what the model will be used for: conversations, rendered by its template, or documents, Chinese and "
        "English as they come",
        zh="模型将要用于的内容：对话（用其模板渲染）或文档，中英文按实际比例",
    )
    tokens: int = knob(100_000, "read about this many tokens", "大约读这么多词元", ge=32)
    window: int = knob(
        512, "the most tokens of a row; longer records are cut", "每行最多词元数；更长的记录会被切开", ge=16
    )
    format: Literal["gguf", "dat"] = knob(
        "gguf", "llama.cpp's file format: `gguf`, or the old `dat`", "llama.cpp 的文件格式：gguf，或旧的 dat"
    )
