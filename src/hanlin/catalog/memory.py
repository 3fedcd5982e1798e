"""Memory that a model of the catalog needs to run and to be trained, from its dimensions by `estimate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hanlin.catalog.schema import Shape
from hanlin.config.settings.train import Sft
from hanlin.estimate.batch_plan import BatchPlan
from hanlin.estimate.memory import GPU_CONTEXT, Machine, TrainingSetup
from hanlin.estimate.shapes import ModelShape

Method = Literal["full", "lora", "qlora"]
METHODS: tuple[Method, ...] = get_args(Method)
Form = Literal["bfloat16", "Q8_0", "Q4_K_M"]
FORMS: tuple[Form, ...] = get_args(Form)

SEQUENCE = 2048
"""Tokens of the sequence that training is reckoned with, one at a time, with gradient checkpointing."""
RUN_CONTEXT = 4096
"""Tokens of the conversation that running is reckoned with, keys and values in 16 bits."""
RANK = 64
SETTINGS: dict[Method, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"rank": RANK, "alpha": 2 * RANK}},
    "qlora": {"lora": {"rank": RANK, "alpha": 2 * RANK, "quantization": "nf4"}, "optimizer": "adamw_8bit"},
}
"""What distinguishes the methods, as settings of `sft`."""
BITS = {"Q8_0": 8.5, "Q4_K": 4.5, "Q6_K": 6.5625}
"""Bits of a weight with its share of the scales of its block (llama.cpp's ggml-common.h)."""


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Bytes to run a model in each form, bytes of GPU memory to train it by each method, and bytes on disk."""

    parameters: int
    disk: dict[Form, float]
    run: dict[Form, float]
    train: dict[Method, float]


def model_shape(shape: Shape) -> ModelShape:
    """The shape that `estimate` works with."""
    return ModelShape(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.hidden_size // shape.heads,
        tied=shape.tied,
        dtype=shape.dtype,
    )


def estimate_needs(shape: Shape) -> MemoryNeeds:
    """The memory that a model of a shape needs; on a GPU with what its driver takes (`GPU_CONTEXT`)."""
    model = model_shape(shape)
    disk = {form: _file_bytes(model, form) for form in FORMS}
    cache = 2 * 2.0 * model.layers * model.kv_heads * model.head_dim * RUN_CONTEXT
    return MemoryNeeds(
        model.parameters,
        disk,
        {form: size + cache + GPU_CONTEXT for form, size in disk.items()},
        {method: estimate_training_bytes(model, method) for method in METHODS},
    )


def estimate_training_bytes(model: ModelShape, method: Method, max_seq_length: int = SEQUENCE) -> float:
    """Peak bytes of one GPU that trains a model on conversations, one sequence at a time."""
    settings = Sft.model_validate(
        {
            "model": "./model",
            "data": ["./data"],
            "max_seq_length": max_seq_length,
            "micro_batch_tokens": max_seq_length,
            "batch_tokens": max(32_768, max_seq_length),
            "precision": "bfloat16",
            "gradient_checkpointing": True,
            **SETTINGS[method],
        }
    )
    setup = TrainingSetup(model, settings, BatchPlan.of(settings, None), Machine("bfloat16", gpu=True))
    return setup.memory().peak + GPU_CONTEXT


def _file_bytes(model: ModelShape, form: Form) -> float:
    if form == "bfloat16":
        return 2.0 * model.parameters
    if form == "Q8_0":
        return model.parameters * BITS["Q8_0"] / 8
    return _q4_k_m_bytes(model)


def _q4_k_m_bytes(model: ModelShape) -> float:
    """Q4_K_M: Q6_K for the output head, and for values and `down_proj` of half the layers; Q4_K for the rest.

    The first and last eighth of the layers and every third between them get more bits (llama.cpp's `use_more_bits`).
    """
    eighth = model.layers // 8
    more = [
        index < eighth or index >= 7 * model.layers // 8 or (index - eighth) % 3 == 2 for index in range(model.layers)
    ]
    shapes = model.projections
    finer = sum(more) * (math.prod(shapes["v_proj"]) + math.prod(shapes["down_proj"])) + model.embedding_parameters
    return (finer * BITS["Q6_K"] + (model.parameters - finer) * BITS["Q4_K"]) / 8
