"""The peak memory of one process of a training stage, as a sum of named terms, in bytes.

Each term is a method of `TrainingSetup`. They follow what training keeps (`train.compute`, `train.distributed`). The
few constants that only a measurement can give are at the top, and `make bench-memory-estimate` measures the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from hanlin.config.settings.model import Projection
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.estimate.batch_plan import BatchPlan
from hanlin.estimate.shapes import ModelShape, TrainableCounts

PROCESS = 0.42e9
"""Bytes of a worker process before it loads a model: Python, torch, transformers, peft and their libraries."""
FIRST_STEPS = 0.02e9
"""The part of it that the first steps add: code and workspaces of kernels."""
KERNELS, KERNEL_MICRO_BATCHES = 0.02e9, 20
"""Bytes of kernels that a CPU's bfloat16 library caches for new shapes, for each micro-batch after the second, and the
number of micro-batches after which most shapes have occurred."""
GPU_CONTEXT = 0.8e9
"""Bytes that a GPU's driver and libraries hold beside what the allocator counts."""
FRAGMENTATION = 1.25
"""Memory of a CPU process for one byte of activations: the allocator does not return freed blocks between live ones,
and every micro-batch needs blocks of other sizes."""
UNPACKED_FRAGMENTATION = 1.4
"""The same if micro-batches differ in length: those of pairs and answers, not of packed rows."""
PADDING = 1.1
"""Padded tokens of attention for one token of the data (attention rounds documents up to common lengths)."""
MAX_KEPT_PROBS_LENGTH = {"float32": 96, "bfloat16": 1024}
"""Tokens of the longest document whose attention probabilities a CPU keeps for the backward pass: `MAX_MATMUL_LENGTH`
of `train.dataset.document_layout`."""
QUANTIZED_BYTES = {"nf4": 0.516, "int8": 1.004}
"""Bytes of a weight that bitsandbytes quantizes: with NF4 4 bits, a byte for 64 weights and four for 16,384."""
TILE_TOKENS, TILE_LOGITS = 2048, 3 << 20
"""Tokens of a chunk of the loss of a frozen head on a CPU, and logits of a tile (`train.compute.tiled_loss`)."""
LOSS_CHUNK_TOKENS, LOSS_CHUNK_LOGITS = 512, 1 << 22
"""Tokens of a chunk of the loss of a trained head on a CPU, and least logits of it if the vocabulary is small."""
GPU_LOSS_CHUNK_LOGITS = 1 << 27

Part = Literal["process", "weights", "gradients", "optimizer", "activations", "logits", "checkpoint"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Sharding:
    """Number of processes that each part of training is sharded over: none with DDP, gradients and optimizer state with
    ZeRO-2, weights too with ZeRO-3 and FSDP.
    """

    weights: int = 1
    gradients: int = 1
    optimizer: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, as far as memory depends on it.

    Attributes:
        dtype: Number format of the computation.
        gpu: Whether it runs on a GPU; then main memory does not count.
        process: Bytes of an idle worker process.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    gpu: bool = False
    process: float = PROCESS

    @property
    def value_bytes(self) -> int:
        """Bytes of a value of `dtype`."""
        return 2 if self.dtype == "bfloat16" else 4


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by part at the moment of the peak."""

    parts: Mapping[Part, float]

    @property
    def peak(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class TrainingSetup:
    """A training stage: model, settings, batch, machine and sharding, and the memory that follows.

    The peak is at the turn from forward to backward pass, when all activations exist, at the end of the backward pass,
    when all gradients exist, or while the model is loaded.
    """

    shape: ModelShape
    settings: Training
    batch: BatchPlan
    machine: Machine = field(default_factory=Machine)
    sharding: Sharding = field(default_factory=Sharding)
    init_rows: frozenset[int] = frozenset()
    """Rows of the vocabulary that the adapter of `init_from` trains."""

    @property
    def trained(self) -> TrainableCounts:
        return TrainableCounts.of(self.shape, self.settings, self.init_rows)

    def memory(self) -> MemoryEstimate:
        moments = (self._at_backward_start(), self._at_backward_end(), self._while_loading())
        return MemoryEstimate(max(moments, key=lambda parts: sum(parts.values())))

    def _at_backward_start(self) -> dict[Part, float]:
        """The end of the forward pass: all activations, the accumulated gradients, and the loss of the head."""
        accumulated = self.gradients() if self.batch.accumulation_steps > 1 else 0.0
        return {
            **self._permanent_parts(),
            "gradients": accumulated + self.head_gradient(),
            "activations": (self.activations() + self.feed_forward_backward()) * self.fragmentation(),
            "logits": self.logits(),
        }

    def _at_backward_end(self) -> dict[Part, float]:
        """The end of the backward pass: all gradients; accumulating those of the vocabulary needs a second copy."""
        added_up = self.embedding_gradient() if self.batch.accumulation_steps > 1 else 0.0
        return {
            **self._permanent_parts(),
            "gradients": self.gradients() + added_up,
            "activations": self.hidden_state_bytes() * self.batch.micro_batch_tokens,
            "logits": 0.0,
        }

    def _while_loading(self) -> dict[Part, float]:
        """While the weights are loaded: their pages in the file cache come on top. In main memory every process loads
        all weights before it shards them. Without an adapter they are loaded in float32, and frozen ones are rounded
        later.
        """
        weights = self.weights()
        if not self.machine.gpu:
            loaded = 4.0 * self.shape.parameters if self.settings.lora is None else 0.0
            weights = max(weights * self.sharding.weights, loaded) + self.shape.file_bytes
        return {
            **dict.fromkeys(PARTS, 0.0),
            "process": 0.0 if self.machine.gpu else self.machine.process,
            "weights": weights,
        }

    def _permanent_parts(self) -> dict[Part, float]:
        gpu = self.machine.gpu
        return {
            "process": 0.0 if gpu else self.machine.process + self.kernels(),
            "weights": self.weights(),
            "optimizer": self.optimizer(),
            "checkpoint": 0.0 if gpu else self.checkpoint(),
        }

    # ---------------------------------------------------------------------------------------------------- terms

    def kernels(self) -> float:
        """Bytes of kernels that a CPU caches beyond those of the first micro-batches."""
        if self.machine.dtype == "float32":
            return 0.0
        steps = self.batch.steps or KERNEL_MICRO_BATCHES
        return KERNELS * max(0, min(steps * self.batch.accumulation_steps, KERNEL_MICRO_BATCHES) - 2)

    def weights(self) -> float:
        """Trainable weights in float32, and a copy of matrices in the compute dtype if that is another; frozen ones in
        the compute dtype or quantized. DoRA merges whole matrices for a micro-batch.
        """
        shape, trained, value_bytes = self.shape, self.trained, self.machine.value_bytes
        lora = self.settings.lora
        copy_bytes = value_bytes if value_bytes != 4 else 0
        body = shape.layers * shape.block_parameters
        frozen_value_bytes = (
            QUANTIZED_BYTES[lora.quantization]
            if lora is not None and lora.quantization is not None
            else float(value_bytes)
        )
        total = trained.matrices * (4 + copy_bytes) + (body - trained.matrices) * frozen_value_bytes
        tables = [trained.embeddings] if shape.tied else [trained.embeddings, trained.head]
        for index, table_size in enumerate(tables):
            is_head = index == 1 or shape.tied
            if not table_size:
                total += shape.embedding_parameters * value_bytes
            elif lora is None:
                total += table_size * (4 + (copy_bytes if is_head else 0))
            else:  # PEFT keeps the frozen one beside its trained copy
                total += table_size * (4 + value_bytes + (copy_bytes if is_head else 0))
        total += (trained.adapter + trained.rows + trained.magnitudes) * (4 + copy_bytes)
        total += (2 * shape.layers + 1) * shape.hidden_size * 4
        if lora is not None and lora.dora:
            target_parameters = sum(math.prod(shape.projections[name]) for name in lora.targets)
            total += shape.count_trained_layers(self.settings) * target_parameters * (8 + copy_bytes)
        return total / self.sharding.weights

    def gradients(self) -> float:
        """Gradients, in float32."""
        return 4 * self.trained.total / self.sharding.gradients

    def head_gradient(self) -> float:
        """The gradient of the output head in float32, which the loss computes before all others."""
        trained = self.trained
        has_gradient = trained.head or trained.rows or (self.shape.tied and trained.embeddings)
        return 4.0 * self.shape.embedding_parameters if has_gradient else 0.0

    def embedding_gradient(self) -> float:
        return 4.0 * self.trained.embeddings

    def optimizer(self) -> float:
        """Optimizer state: two moments of each trainable parameter in float32, or in 8 bits with a float32 constant for
        256 of them, but not of the vocabulary. GaLore and APOLLO keep those of a low-rank projection, and the
        projection.
        """
        trained, rank = self.trained, self.settings.galore_rank
        if self.settings.optimizer in ("galore", "apollo"):
            layers = self.shape.count_trained_layers(self.settings)
            low_rank_bytes = 0.0
            for matrix_shape in self.shape.projections.values():
                short, long = min(matrix_shape), max(matrix_shape)
                low_rank_bytes += layers * (4.0 * rank * (2 * long + short) if short > rank else 8.0 * short * long)
            return (low_rank_bytes + 8.0 * (trained.total - trained.matrices)) / self.sharding.optimizer
        if self.settings.optimizer == "adamw_8bit":
            unquantized = trained.embeddings + trained.head + trained.rows + trained.norms
            total = 8 * unquantized + 2 * (1 + 4 / 256) * (trained.total - unquantized)
        else:
            total = 8.0 * trained.total
        return total / self.sharding.optimizer

    def checkpoint(self) -> float:
        """Trainable weights and optimizer state, not sharded: the copy in main memory that a thread writes to disk. The
        first process keeps it from the first checkpoint on (`train.callbacks.checkpoint`).
        """
        return 4.0 * self.trained.total + self.optimizer() * self.sharding.optimizer

    def hidden_state_bytes(self) -> float:
        """Hidden states between two blocks, in float32, of one token."""
        return 4.0 * self.shape.hidden_size

    def attention_activations(self) -> float:
        """Activations of the attention of a block that the backward pass needs, of one token: the hidden states, and
        queries, keys, values and outputs, padded by documents.
        """
        shape = self.shape
        values = PADDING * 2 * (shape.heads + shape.kv_heads) * shape.head_dim + self.attention_probs()
        return self.hidden_state_bytes() + self.machine.value_bytes * (
            values + self._adapter_activations(("q_proj", "k_proj", "v_proj"))
        )

    def attention_probs(self) -> float:
        """Attention probabilities of all heads that a CPU keeps of one token, as a number of values, for short
        documents; the longest ones count, because documents of similar length share a row.
        """
        if self.machine.gpu:
            return 0.0
        max_length = MAX_KEPT_PROBS_LENGTH[self.machine.dtype]
        tokens_counted, probs = 0.0, 0.0
        for tokens in sorted((tokens for tokens in self.batch.documents if tokens <= max_length), reverse=True):
            if tokens_counted >= self.batch.micro_batch_tokens:
                break
            tokens_counted, probs = tokens_counted + tokens, probs + tokens * tokens
        return PADDING**2 * self.shape.heads * probs / max(tokens_counted, 1.0)

    def feed_forward_activations(self) -> float:
        """Activations of the second half of a block, of one token: the hidden states, the output of attention, and the
        outputs of the gate and up projections.
        """
        shape = self.shape
        values = shape.heads * shape.head_dim + 2 * shape.intermediate_size
        projections: tuple[Projection, ...] = ("o_proj", "gate_proj", "up_proj", "down_proj")
        return self.hidden_state_bytes() + self.machine.value_bytes * (values + self._adapter_activations(projections))

    def _adapter_activations(self, projections: Sequence[Projection]) -> float:
        """Values that adapters keep of one token: A x of each, and the inputs after dropout."""
        lora = self.settings.lora
        if lora is None or lora.dora:
            return 0.0
        targets = [name for name in projections if name in lora.targets]
        dropped_inputs = sum(self.shape.projections[name][1] for name in targets) if lora.dropout else 0
        return lora.rank * len(targets) + dropped_inputs

    def backward_layers(self) -> int:
        """Blocks that the gradient passes through: all, unless only the last or the new ones are trained."""
        trained, lora = self.trained, self.settings.lora
        trains_norms = lora is not None and "norm" in lora.modules_to_save
        if not self.settings.trains_some_blocks or trained.embeddings or trained.rows or trains_norms:
            return self.shape.layers
        if self.settings.train_blocks is not None:
            return self.shape.layers - min(self.shape.new_blocks, default=0)
        return self.shape.count_trained_layers(self.settings)

    def fragmentation(self) -> float:
        """Bytes of memory for one byte of activations."""
        if self.machine.gpu:
            return 1.0
        return FRAGMENTATION if isinstance(self.settings, Pretrain | Sft) else UNPACKED_FRAGMENTATION

    def activations(self) -> float:
        """Activations of all blocks. With gradient checkpointing: the hidden states between blocks, and twice those of
        one block, which is recomputed. The feed-forward part of the last block is computed for target positions only.
        """
        layers, tokens = self.backward_layers(), self.batch.micro_batch_tokens
        block = self.attention_activations() + self.feed_forward_activations()
        if self.settings.gradient_checkpointing:
            return tokens * ((layers + 1) * self.hidden_state_bytes() + min(2, layers) * block)
        skipped = (1 - self.batch.learned) * self.feed_forward_activations()
        return tokens * (layers * block - skipped + self.hidden_state_bytes())

    def feed_forward_backward(self) -> float:
        """Temporary tensors of the backward pass of a feed-forward part: four of the intermediate size, three of the
        hidden size, and a dequantized weight if the base is quantized.
        """
        value_bytes, lora = self.machine.value_bytes, self.settings.lora
        is_quantized = lora is not None and lora.quantization is not None
        dequantized_weight = (
            self.shape.hidden_size * self.shape.intermediate_size * (4 + value_bytes) if is_quantized else 0
        )
        return (
            self.batch.micro_batch_tokens
            * (4 * value_bytes * self.shape.intermediate_size + 3 * self.hidden_state_bytes())
            + dequantized_weight
        )

    def loss_chunk_tokens(self) -> int:
        """Tokens whose logits are computed at once."""
        vocab_size = self.shape.vocab_size
        if self.machine.gpu:
            return max(16, GPU_LOSS_CHUNK_LOGITS // vocab_size)
        return max(LOSS_CHUNK_TOKENS, LOSS_CHUNK_LOGITS // vocab_size) if self.head_gradient() else TILE_TOKENS

    def logits(self) -> float:
        """The logits of a chunk; on a CPU their softmax overwrites them, on a GPU it is a second tensor in float32. For
        a frozen head on a CPU: the logits of a tile, once more in float32, and three gradients of hidden states.
        """
        learned = max(1, round(self.batch.micro_batch_tokens * self.batch.learned))
        value_bytes = self.machine.value_bytes
        if not (self.machine.gpu or self.head_gradient()):
            tokens = min(self.loss_chunk_tokens(), learned)
            tile = min(TILE_LOGITS, tokens * self.shape.vocab_size)
            return float(
                tile * (value_bytes + 4 * (value_bytes < 4)) + tokens * self.shape.hidden_size * (4 + 2 * value_bytes)
            )
        bytes_per_logit = value_bytes + (4 if self.machine.gpu else 0)
        return float(bytes_per_logit * min(self.loss_chunk_tokens(), learned) * self.shape.vocab_size)
