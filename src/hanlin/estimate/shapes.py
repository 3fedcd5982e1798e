"""The shape of a Llama model, and how many of its parameters a training stage trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self

from hanlin.config.settings.model import InitModel, Projection
from hanlin.config.settings.train import Training
from hanlin.models.folder.blocks import list_untrained_blocks, source_blocks
from hanlin.models.folder.layout import NEW_BLOCKS, ModelFiles
from hanlin.models.folder.shapes import llama_shapes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a Llama model, named as in its `config.json`.

    Attributes:
        vocab_size: Rows of the embedding matrix.
        hidden_size: Width of the hidden states.
        intermediate_size: Width of the feed-forward layers.
        layers: Decoder blocks.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        tied: Whether the output head is the embedding matrix.
        dtype: Number format of the weight files.
        new_blocks: Indices of the blocks that `expand_blocks` added, which `train_blocks: new` trains.
        untrained_blocks: Those of them that add nothing yet, and stay new when the model is expanded again.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool = False
    dtype: str = "bfloat16"
    new_blocks: tuple[int, ...] = ()
    untrained_blocks: tuple[int, ...] = ()

    @classmethod
    def of_files(cls, files: ModelFiles) -> Self:
        """Read the shape of a checked model folder."""
        return replace(cls.of_config(files.config, files.dtype), untrained_blocks=tuple(list_untrained_blocks(files)))

    @classmethod
    def of_config(cls, config: Mapping[str, Any], dtype: str) -> Self:
        """Read the shape from a checked `config.json`; `dtype` is that of the weight files."""
        hidden_size, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return cls(
            vocab_size=int(config["vocab_size"]),
            hidden_size=hidden_size,
            intermediate_size=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden_size // heads),
            tied=bool(config.get("tie_word_embeddings")),
            dtype=dtype,
            new_blocks=tuple(config.get(NEW_BLOCKS) or ()),
        )

    @classmethod
    def of_settings(cls, settings: InitModel, vocab_size: int) -> Self:
        """Compute the shape of a model that `init_model` makes for a tokenizer of `vocab_size` entries."""
        multiple = settings.vocabulary_multiple
        return cls(
            vocab_size=-(-vocab_size // multiple) * multiple,
            hidden_size=settings.hidden_size,
            intermediate_size=settings.feed_forward,
            layers=settings.layers,
            heads=settings.heads,
            kv_heads=settings.key_value_heads or settings.heads,
            head_dim=settings.hidden_size // settings.heads,
            tied=settings.tie_embeddings,
            dtype=settings.dtype,
        )

    def with_new_blocks(self, positions: Sequence[int]) -> ModelShape:
        """The model with new blocks at these indices, as `expand_blocks` makes it."""
        sources = source_blocks(self.layers, positions)
        new = tuple(sorted([*positions, *(sources.index(index) for index in self.untrained_blocks)]))
        return replace(self, layers=self.layers + len(positions), new_blocks=new, untrained_blocks=new)

    def after_training(self, settings: Training) -> ModelShape:
        """The model that training makes: new blocks whose output it trains are old ones for a further expansion."""
        lora, rows = settings.lora, settings.trainable_tokens is not None
        if (lora is not None and not {"o_proj", "down_proj"} & set(lora.targets)) or (
            lora is None and rows and not settings.trains_some_blocks
        ):
            return self
        first = self.layers - self.count_trained_layers(settings) if settings.train_blocks is None else 0
        return self.keep_untrained(index for index in self.untrained_blocks if index < first)

    def keep_untrained(self, indices: Iterable[int]) -> ModelShape:
        """The shape with these new blocks alone counted as untrained, if they were before."""
        return replace(self, untrained_blocks=tuple(sorted(set(self.untrained_blocks) & set(indices))))

    def count_trained_layers(self, settings: Training) -> int:
        """Blocks that are trained, or get the adapter."""
        if settings.train_blocks is not None:
            return len(self.new_blocks)
        return min(settings.train_last_layers or self.layers, self.layers)

    def with_vocab_size(self, vocab_size: int) -> ModelShape:
        return replace(self, vocab_size=vocab_size)

    @property
    def projections(self) -> dict[Projection, tuple[int, int]]:
        """Shape [out_features, in_features] of each projection of a block."""
        inner, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (inner, self.hidden_size),
            "k_proj": (shared, self.hidden_size),
            "v_proj": (shared, self.hidden_size),
            "o_proj": (self.hidden_size, inner),
            "gate_proj": (self.intermediate_size, self.hidden_size),
            "up_proj": (self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding matrix; the output head has as many if it is not tied."""
        return self.vocab_size * self.hidden_size

    @property
    def block_parameters(self) -> int:
        """Parameters of the projections of one block."""
        return sum(math.prod(shape) for shape in self.projections.values())

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        config = {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tied,
        }
        return sum(math.prod(shape) for shape in llama_shapes(config).values())

    @property
    def file_bytes(self) -> int:
        """Bytes of the model's weight files."""
        return self.parameters * BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TrainableCounts:
    """Trainable parameters of a stage.

    Attributes:
        matrices: Projections of the blocks.
        norms: Norms.
        embeddings: The embedding matrix, trained fully (with an adapter, a copy beside the frozen one); if the model is
            tied, the output head, too.
        head: The output head, trained fully, if it is not tied.
        rows: Single rows of both (`trainable_tokens`).
        adapter: LoRA's A and B.
        magnitudes: DoRA's magnitudes.
    """

    matrices: int = 0
    norms: int = 0
    embeddings: int = 0
    head: int = 0
    rows: int = 0
    adapter: int = 0
    magnitudes: int = 0

    @classmethod
    def of(cls, shape: ModelShape, settings: Training, init_rows: Set[int] = frozenset()) -> Self:
        """What the settings train; rows that depend on the data (`trainable_tokens: untrained`) are few, not counted.

        Args:
            shape: The model.
            settings: The settings of the stage.
            init_rows: Rows of the vocabulary that the adapter of `init_from` trains: they are trained on.
        """
        layers = shape.count_trained_layers(settings)
        norms = (2 * layers + (not settings.trains_some_blocks)) * shape.hidden_size
        row_ids = set(init_rows)
        if isinstance(settings.trainable_tokens, int):
            row_ids.update(range(settings.trainable_tokens, shape.vocab_size))
        rows = len(row_ids) * shape.hidden_size * (1 if shape.tied else 2)
        lora = settings.lora
        if lora is None:
            if not settings.trains_some_blocks and settings.trainable_tokens is None:
                head = 0 if shape.tied else shape.embedding_parameters
                return cls(layers * shape.block_parameters, norms, shape.embedding_parameters, head)
            if not settings.trains_some_blocks:
                return cls(rows=rows)
            return cls(layers * shape.block_parameters, norms, rows=rows)
        target_shapes = [shape.projections[name] for name in lora.targets]
        full_modules = set(lora.modules_to_save)
        embeddings = (
            shape.embedding_parameters
            if full_modules & ({"embed_tokens", "lm_head"} if shape.tied else {"embed_tokens"})
            else 0
        )
        return cls(
            adapter=layers * sum(lora.rank * (rows + columns) for rows, columns in target_shapes),
            magnitudes=layers * sum(rows for rows, _ in target_shapes) if lora.dora else 0,
            norms=(2 * shape.layers + 1) * shape.hidden_size if "norm" in full_modules else 0,
            embeddings=embeddings,
            head=shape.embedding_parameters if "lm_head" in full_modules and not shape.tied else 0,
            rows=rows,
        )

    @property
    def total(self) -> int:
        return self.matrices + self.norms + self.embeddings + self.head + self.rows + self.adapter + self.magnitudes
