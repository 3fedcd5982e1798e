"""Settings of the export kinds: GGUF, importance matrices, quantized model folders and packages."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Self

from pydantic import field_validator, model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import describe_name_problem

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
                tr(
                    "'{condition}' is not a condition such as kl<=0.02; figures: {figures}",
                    condition=condition,
                    figures=figures,
                )
            )
        conditions.append(Condition(match[1], match[2], float(match[3])))
    return tuple(conditions)


class QualityReport(Settings):
    """What each file is measured on, compared with the model it was made from."""

    held_out: tuple[str, ...] = ref(
        "documents",
        "conversations",
        description="validation data in Chinese and English: documents, or conversations, whose questions are asked "
        "as well",
        min_length=1,
    )
    window: int = setting(
        512,
        "window length in tokens; the second half of each window is measured, as llama-perplexity does",
        ge=32,
    )
    tokens: int = setting(16_384, "tokens to measure in each language, about", ge=64)
    prompts: int = setting(16, "number of held-out questions to ask", ge=0)
    max_new_tokens: int = setting(128, "maximum number of tokens of an answer", ge=1)


class Gguf(Settings):
    """Write GGUF files directly from a model's safetensors and verify each: same token ids, same stop ids, close
    logits.
    """

    model: str = ref("model", description="the model to export")
    types: tuple[GgufType, ...] = setting(("Q8_0", "Q4_K_M"), "write one file of each of these types", min_length=1)
    importance: str | None = ref(
        "importance",
        "files",
        default=None,
        description="an importance matrix, from an `imatrix` stage or a file of llama.cpp (`.gguf`, `.dat`); IQ2 "
        "types, "
        "IQ3_XXS, IQ3_XS and Q2_K_S need one",
    )
    name: str = setting("hanlin", "model name that programs show", min_length=1)
    license: str | None = setting(None, "license written into the files (`apache-2.0`, `llama3`)")
    compare: bool = setting(
        True,
        "also load the original model and compare its next-token probabilities with those of each file",
        affects_key=False,
    )

    quality_report: QualityReport | None = setting(
        None,
        "compare each file with the original model on validation data: perplexity, KL divergence, equal answers, speed",
        unless_default=True,
    )
    pick: str = setting(
        "",
        "keep only the smallest file whose quality report meets these conditions, such as `kl<=0.02` or "
        "`kl<=0.05,same_answers>=0.9`",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _pick_can_be_decided(self) -> Self:
        if self.pick:
            parse_conditions(self.pick)
            if self.quality_report is None:
                raise ValueError(tr("`pick` needs a quality report: set `quality_report.held_out`"))
        return self

    @field_validator("types")
    @classmethod
    def _each_once(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(types)) < len(types):
            raise ValueError(tr("a type is listed twice"))
        return types


class Imatrix(Settings):
    """Run your own data through a model and record how much each column of its matrices matters.

    Quantization then rounds the columns that matter more precisely.
    """

    model: str = ref("model", description="the model to be quantized")
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        description="data like what the model will be used for: conversations, rendered by its template, or "
        "documents, in both "
        "languages",
        min_length=1,
    )
    tokens: int = setting(100_000, "tokens to read, about", ge=32)
    window: int = setting(512, "sequence length in tokens; longer records are split", ge=16)
    format: Literal["gguf", "dat"] = setting("gguf", "llama.cpp's file format: `gguf`, or the older `dat`")


class Package(Settings):
    """Package a model as a folder that another program takes as it is, with its chat template checked."""

    model: str = ref(
        "model",
        "gguf",
        "quantized",
        description="what to package: a model, a quantized model, or GGUF files",
    )
    target: Literal["ollama", "lmstudio", "llama_cpp", "vllm", "huggingface"] = setting(
        ..., "the program that will use the folder, or the hub"
    )
    file: str = setting(
        "",
        "the GGUF file to use, by type (`Q8_0`) or name; empty: all for `lmstudio` and `huggingface`, the largest for "
        "the others",
    )
    name: str = setting(
        "hanlin",
        "model name in that program",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
    )
    publisher: str = setting(
        "hanlin",
        "publisher's name in LM Studio",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
    )
    license: str | None = setting(
        None,
        "license of the model (`apache-2.0`, `llama3`), written into the model card and the Modelfile",
    )
    system: str = setting("", "system prompt of every chat in Ollama")
    evaluations: tuple[str, ...] = ref(
        "evaluation",
        default=(),
        description="evaluations of this model to show in the model card",
    )

    @field_validator("name", "publisher")
    @classmethod
    def _check_file_name(cls, name: str) -> str:
        problem = describe_name_problem(name)
        if problem is not None:
            raise ValueError(problem)
        return name


class QuantizedModel(Settings):
    """Write a quantized model folder for transformers and vLLM, and measure the loss of quality."""

    model: str = ref("model", description="the model to quantize")
    method: Literal["gptq", "nf4", "int8"] = setting(
        "gptq",
        "`gptq`: 4 bits, calibrated on your own data; `nf4` and `int8`: bitsandbytes, without data",
    )
    data: tuple[str, ...] = ref(
        "conversations",
        "documents",
        default=(),
        description="calibration data of `gptq`: conversations, rendered by the model's template, or documents",
    )
    tokens: int = setting(65_536, "calibration tokens of `gptq`, about", ge=32)
    window: int = setting(512, "sequence length in tokens; longer records are split", ge=16)
    group_size: Literal[32, 64, 128] = setting(128, "group size: columns that share a scale")
    name: str = setting("hanlin", "model name in the model card", min_length=1)
    license: str | None = setting(None, "license written into the model card")
    quality_report: QualityReport | None = setting(
        None,
        "compare it with the original model on validation data: perplexity, KL divergence, equal answers, speed",
    )

    @model_validator(mode="after")
    def _gptq_reads_data(self) -> Self:
        if self.method == "gptq" and not self.data:
            raise ValueError(tr("`gptq` needs calibration data: set `data`"))
        return self
