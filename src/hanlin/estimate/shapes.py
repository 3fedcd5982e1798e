"""The shape of a Llama model, and how many of its parameters a training stage trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from hanlin.config.settings.model import InitModel, Projection
from hanlin.config.settings.train import Training
from hanlin.models.folder.shapes import llama_shapes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model's configuration decides its size. `entries` are rows of the vocabulary, `wide` is the width of
    the feed-forward layers, `stored` the number format of its files.
    """

    entries: int
    hidden: int
    wide: int
    layers: int
    heads: int
    key_heads: int
    head: int
    tied: bool = False
    stored: str = "bfloat16"

    @classmethod
    def of_config(cls, config: Mapping[str, Any], stored: str) -> Self:
        """Of a `config.json` whose folder was checked."""
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return cls(
            entries=int(config["vocab_size"]),
            hidden=hidden,
            wide=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            head=int(config.get("head_dim") or hidden // heads),
            tied=bool(config.get("tie_word_embeddings")),
            stored=stored,
        )

    @classmethod
    def of_settings(cls, settings: InitModel, entries: int) -> Self:
        """Of a model that is still to be made over a tokenizer of so many entries."""
        multiple = settings.vocabulary_multiple
        return cls(
            entries=-(-entries // multiple) * multiple,
            hidden=settings.hidden_size,
            wide=settings.feed_forward,
            layers=settings.layers,
            heads=settings.heads,
            key_heads=settings.key_value_heads or settings.heads,
            head=settings.hidden_size // settings.heads,
            tied=settings.tie_embeddings,
            stored=settings.dtype,
        )

    def with_entries(self, entries: int) -> ModelShape:
        return replace(self, entries=entries)

    @property
    def projections(self) -> dict[Projection, tuple[int, int]]:
        """Rows and columns of each projection of a block."""
        inner, shared = self.heads * self.head, self.key_heads * self.head
        return {
            "q_proj": (inner, self.hidden),
            "k_proj": (shared, self.hidden),
            "v_proj": (shared, self.hidden),
            "o_proj": (self.hidden, inner),
            "gate_proj": (self.wide, self.hidden),
            "up_proj": (self.wide, self.hidden),
            "down_proj": (self.hidden, self.wide),
        }

    @property
    def table(self) -> int:
        """Numbers of the embeddings, and of the head where that is another matrix."""
        return self.entries * self.hidden

    @property
    def matrices(self) -> int:
        """Numbers of the projections of one block."""
        return sum(math.prod(shape) for shape in self.projections.values())

    @property
    def parameters(self) -> int:
        """Numbers of the whole model."""
        config = {
            "hidden_size": self.hidden,
            "intermediate_size": self.wide,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head,
            "num_hidden_layers": self.layers,
            "vocab_size": self.entries,
            "tie_word_embeddings": self.tied,
        }
        return sum(math.prod(shape) for shape in llama_shapes(config).values())

    @property
    def files(self) -> int:
        """Bytes of the model's weight files."""
        return self.parameters * BYTES[self.stored]


@dataclass(frozen=True, slots=True)
class TrainableCounts:
    """How many numbers a stage trains, by what they are. `matrices` and `norms` are the model's own, `embeddings` and
    `head` whole matrices (copies of the frozen ones beside an adapter), `rows` single rows of both, `adapter` the
    matrices A and B, and `lengths` what DoRA adds. A tied model has its table in `embeddings` alone.
    """

    matrices: int = 0
    norms: int = 0
    embeddings: int = 0
    head: int = 0
    rows: int = 0
    adapter: int = 0
    lengths: int = 0

    @classmethod
    def of(cls, shape: ModelShape, settings: Training) -> Self:
        """What the settings train; rows that depend on the data (`trainable_tokens: untrained`) are few, not
        counted.
        """
        layers = min(settings.train_last_layers or shape.layers, shape.layers)
        norms = (2 * layers + (settings.train_last_layers is None)) * shape.hidden
        rows = 0
        if isinstance(settings.trainable_tokens, int):
            rows = max(0, shape.entries - settings.trainable_tokens) * shape.hidden * (1 if shape.tied else 2)
        lora = settings.lora
        if lora is None:
            if settings.train_last_layers is None and settings.trainable_tokens is None:
                head = 0 if shape.tied else shape.table
                return cls(layers * shape.matrices, norms, shape.table, head)
            if settings.train_last_layers is None:
                return cls(rows=rows)
            return cls(layers * shape.matrices, norms, rows=rows)
        taken = [shape.projections[name] for name in lora.targets]
        whole = set(lora.modules_to_save)
        embeddings = shape.table if whole & ({"embed_tokens", "lm_head"} if shape.tied else {"embed_tokens"}) else 0
        return cls(
            adapter=layers * sum(lora.rank * (rows + columns) for rows, columns in taken),
            lengths=layers * sum(rows for rows, _ in taken) if lora.dora else 0,
            norms=(2 * shape.layers + 1) * shape.hidden if "norm" in whole else 0,
            embeddings=embeddings,
            head=shape.table if "lm_head" in whole and not shape.tied else 0,
            rows=rows,
        )

    @property
    def total(self) -> int:
        return self.matrices + self.norms + self.embeddings + self.head + self.rows + self.adapter + self.lengths
