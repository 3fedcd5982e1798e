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
"""A worker that has a model still to load: Python, torch, transformers, peft and what they link, for training too."""
FIRST_STEPS = 0.02e9
"""What of that comes with the first steps: code and work space of kernels."""
KERNELS, KERNELS_PASSES = 0.02e9, 20
"""What a CPU's library keeps in bfloat16 of kernels for shapes that had not occurred, for each pass after the second,
and the pass from which on most have occurred."""
FRAGMENTS = 1.25
"""Memory held on a CPU for what activations ask for: what is freed between pieces that stay is not given back,
and passes over other documents ask for other pieces."""
FRAGMENTS_OF_PAIRS = 1.4
"""The same where passes differ in length, as those of pairs and answers do and those of packed rows do not."""
PADDING = 1.1
"""Tokens that attention lays out for one of the data's (`train.attention` rounds documents up to common lengths)."""
SHARES_KEPT = {"float32": 96, "bfloat16": 1024}
"""On a CPU, tokens of the longest document of which attention keeps every probability: `MAX_MATMUL_LENGTH` of
`train.dataset.document_layout`."""
PACKED = {"nf4": 0.516, "int8": 1.004}
"""Bytes of a number that bitsandbytes packs, with its constants: 4 bits, a byte for 64 numbers and four for 16,384."""
TILE_TOKENS, TILE_LOGITS = 2048, 3 << 20
"""Tokens that a CPU computes a frozen head's loss of at a time, and logits of a tile (`train.compute.tiled_loss`)."""
PIECE_TOKENS, PIECE_LOGITS = 512, 1 << 22
"""Tokens of the pieces in which a CPU computes a trained head's loss; more where these are few logits."""
PIECE_LOGITS_GPU = 1 << 27

Part = Literal["process", "weights", "gradients", "optimizer", "activations", "logits", "checkpoint"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Sharding:
    """Over how many processes each part of training is sharded: DDP divides none, ZeRO-2 gradients and optimizer,
    ZeRO-3 and FSDP weights too.
    """

    weights: int = 1
    gradients: int = 1
    optimizer: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """What memory depends on besides settings: the number format of the computation, whether it runs on a GPU (then
    main memory does not count) and the bytes of an idle worker process.
    """

    number_format: Literal["float32", "bfloat16"] = "float32"
    gpu: bool = False
    process: float = PROCESS

    @property
    def number(self) -> int:
        return 2 if self.number_format == "bfloat16" else 4


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

    @property
    def trained(self) -> TrainableCounts:
        return TrainableCounts.of(self.shape, self.settings)

    def memory(self) -> MemoryEstimate:
        moments = (self._turn(), self._end(), self._loading())
        return MemoryEstimate(max(moments, key=lambda parts: sum(parts.values())))

    def _turn(self) -> dict[Part, float]:
        """The end of the forward pass: every activation, the gradients of the passes before, and the head's loss."""
        before = self.gradients() if self.batch.accumulation_steps > 1 else 0.0
        return {
            **self._standing(),
            "gradients": before + self.head_gradient(),
            "activations": (self.activations() + self.backward_of_a_block()) * self.fragments(),
            "logits": self.logits(),
        }

    def _end(self) -> dict[Part, float]:
        """The end of the backward pass: every gradient, and those of the vocabulary twice where they are added up."""
        twice = self.embedding_gradient() if self.batch.accumulation_steps > 1 else 0.0
        return {
            **self._standing(),
            "gradients": self.gradients() + twice,
            "activations": self.stream() * self.batch.micro_batch_tokens,
            "logits": 0.0,
        }

    def _loading(self) -> dict[Part, float]:
        """The weights as they come from their files, a file's pages beside them; into the machine's own memory every
        process reads them whole, and divides them then. Without an adapter they are read in float32, and what is frozen
        is rounded afterwards.
        """
        weights = self.weights()
        if not self.machine.gpu:
            read = 4.0 * self.shape.parameters if self.settings.lora is None else 0.0
            weights = max(weights * self.sharding.weights, read) + self.shape.files
        return {
            **dict.fromkeys(PARTS, 0.0),
            "process": 0.0 if self.machine.gpu else self.machine.process,
            "weights": weights,
        }

    def _standing(self) -> dict[Part, float]:
        gpu = self.machine.gpu
        return {
            "process": 0.0 if gpu else self.machine.process + self.kernels(),
            "weights": self.weights(),
            "optimizer": self.optimizer(),
            "checkpoint": 0.0 if gpu else self.checkpoint(),
        }

    # ---------------------------------------------------------------------------------------------------- terms

    def kernels(self) -> float:
        """Kernels that are kept beside those of the first passes."""
        if self.machine.number_format == "float32":
            return 0.0
        steps = self.batch.steps or KERNELS_PASSES
        return KERNELS * max(0, min(steps * self.batch.accumulation_steps, KERNELS_PASSES) - 2)

    def weights(self) -> float:
        """Of what is trained four bytes a number, and of matrices a copy in the number format where that is another;
        of what is frozen the number format, or few bits; DoRA puts whole matrices together for a pass.
        """
        shape, trained, number = self.shape, self.trained, self.machine.number
        lora = self.settings.lora
        copies = number if number != 4 else 0
        body = shape.layers * shape.matrices
        packed = PACKED[lora.quantization] if lora is not None and lora.quantization is not None else float(number)
        kept = trained.matrices * (4 + copies) + (body - trained.matrices) * packed
        tables = [trained.embeddings] if shape.tied else [trained.embeddings, trained.head]
        for index, table in enumerate(tables):
            is_head = index == 1 or shape.tied
            if not table:
                kept += shape.table * number
            elif lora is None:
                kept += table * (4 + (copies if is_head else 0))
            else:  # PEFT keeps the frozen one beside its trained copy
                kept += table * (4 + number + (copies if is_head else 0))
        kept += (trained.adapter + trained.rows + trained.lengths) * (4 + copies)
        kept += (2 * shape.layers + 1) * shape.hidden * 4
        if lora is not None and lora.dora:
            taken = sum(math.prod(shape.projections[name]) for name in lora.targets)
            kept += min(self.settings.train_last_layers or shape.layers, shape.layers) * taken * (8 + copies)
        return kept / self.sharding.weights

    def gradients(self) -> float:
        """Four bytes of each number that is trained."""
        return 4 * self.trained.total / self.sharding.gradients

    def head_gradient(self) -> float:
        """The head's gradient, whole and in float32, is there with its loss, before any other."""
        trained = self.trained
        whole = trained.head or trained.rows or (self.shape.tied and trained.embeddings)
        return 4.0 * self.shape.table if whole else 0.0

    def embedding_gradient(self) -> float:
        return 4.0 * self.trained.embeddings

    def optimizer(self) -> float:
        """Two averages of each number trained, in four bytes each, or in one and a 64th where 8 bits are asked for:
        not of the vocabulary. Of low rank they are those of a matrix seen through some directions, kept as well.
        """
        trained, rank = self.trained, self.settings.galore_rank
        if self.settings.optimizer in ("galore", "apollo"):
            layers = min(self.settings.train_last_layers or self.shape.layers, self.shape.layers)
            low = 0.0
            for sides in self.shape.projections.values():
                short, long = min(sides), max(sides)
                low += layers * (4.0 * rank * (2 * long + short) if short > rank else 8.0 * short * long)
            return (low + 8.0 * (trained.total - trained.matrices)) / self.sharding.optimizer
        if self.settings.optimizer == "adamw_8bit":
            exact = trained.embeddings + trained.head + trained.rows + trained.norms
            held = 8 * exact + 2 * (1 + 4 / 256) * (trained.total - exact)
        else:
            held = 8.0 * trained.total
        return held / self.sharding.optimizer

    def checkpoint(self) -> float:
        """What is trained and its averages, whole: the copy in the machine's own memory that a thread writes, which
        stays from a run's first checkpoint on (`train.checkpoint`). Of a group the first process holds it.
        """
        return 4.0 * self.trained.total + self.optimizer() * self.sharding.optimizer

    def stream(self) -> float:
        """What a block leaves to the next, in float32, of one token."""
        return 4.0 * self.shape.hidden

    def of_attention(self) -> float:
        """What the first half of a block keeps of one token for its backward pass: the stream, and queries, keys,
        values and what attention makes of them, laid out by documents.
        """
        shape = self.shape
        numbers = PADDING * 2 * (shape.heads + shape.key_heads) * shape.head + self.of_shares()
        return self.stream() + self.machine.number * (numbers + self._of_adapters(("q_proj", "k_proj", "v_proj")))

    def of_shares(self) -> float:
        """Numbers: for each head the shares of all tokens of its document, where documents are short and the machine
        is a CPU; of the longest that fill a pass, since documents of like length come into one row.
        """
        if self.machine.gpu:
            return 0.0
        longest = SHARES_KEPT[self.machine.number_format]
        filled, shares = 0.0, 0.0
        for tokens in sorted((tokens for tokens in self.batch.documents if tokens <= longest), reverse=True):
            if filled >= self.batch.micro_batch_tokens:
                break
            filled, shares = filled + tokens, shares + tokens * tokens
        return PADDING**2 * self.shape.heads * shares / max(filled, 1.0)

    def of_feed_forward(self) -> float:
        """What the second half keeps: the stream, attention's result put back in line, and the two inner values of the
        feed-forward part.
        """
        shape = self.shape
        numbers = shape.heads * shape.head + 2 * shape.wide
        rest: tuple[Projection, ...] = ("o_proj", "gate_proj", "up_proj", "down_proj")
        return self.stream() + self.machine.number * (numbers + self._of_adapters(rest))

    def _of_adapters(self, projections: Sequence[Projection]) -> float:
        """Numbers: an adapter's inner values, and what dropout left of its inputs."""
        lora = self.settings.lora
        if lora is None or lora.dora:
            return 0.0
        taken = [name for name in projections if name in lora.targets]
        dropped = sum(self.shape.projections[name][1] for name in taken) if lora.dropout else 0
        return lora.rank * len(taken) + dropped

    def layers_back(self) -> int:
        """The blocks that a gradient goes back through: all, unless nothing before the last ones is trained."""
        last, trained, lora = self.settings.train_last_layers, self.trained, self.settings.lora
        whole = lora is not None and "norm" in lora.modules_to_save
        if last is None or trained.embeddings or trained.rows or whole:
            return self.shape.layers
        return min(last, self.shape.layers)

    def fragments(self) -> float:
        """How much memory is held for one byte of activations."""
        if self.machine.gpu:
            return 1.0
        return FRAGMENTS if isinstance(self.settings, Pretrain | Sft) else FRAGMENTS_OF_PAIRS

    def activations(self) -> float:
        """Of all blocks, or, when they are computed again, the stream between them and one block's, which is held once
        more by what makes it. The second half of the last block sees only what is learned.
        """
        layers, tokens = self.layers_back(), self.batch.micro_batch_tokens
        block = self.of_attention() + self.of_feed_forward()
        if self.settings.gradient_checkpointing:
            return tokens * ((layers + 1) * self.stream() + min(2, layers) * block)
        unseen = (1 - self.batch.learned) * self.of_feed_forward()
        return tokens * (layers * block - unseen + self.stream())

    def backward_of_a_block(self) -> float:
        """What the backward pass of a feed-forward part needs beside what was kept: four inner values, three streams,
        and of a packed base a whole matrix.
        """
        number, lora = self.machine.number, self.settings.lora
        packed = lora is not None and lora.quantization is not None
        whole = self.shape.hidden * self.shape.wide * (4 + number) if packed else 0
        return self.batch.micro_batch_tokens * (4 * number * self.shape.wide + 3 * self.stream()) + whole

    def piece_tokens(self) -> int:
        """Tokens that the head is worked through with at once."""
        entries = self.shape.entries
        if self.machine.gpu:
            return max(16, PIECE_LOGITS_GPU // entries)
        return max(PIECE_TOKENS, PIECE_LOGITS // entries) if self.head_gradient() else TILE_TOKENS

    def logits(self) -> float:
        """The logits of a piece; on a CPU their softmax takes their place, elsewhere it stands beside in float32. Of a
        frozen head on a CPU, those of a tile, once more in float32, and three gradients of hidden states.
        """
        learned = max(1, round(self.batch.micro_batch_tokens * self.batch.learned))
        number = self.machine.number
        if not (self.machine.gpu or self.head_gradient()):
            tokens = min(self.piece_tokens(), learned)
            tile = min(TILE_LOGITS, tokens * self.shape.entries)
            return float(tile * (number + 4 * (number < 4)) + tokens * self.shape.hidden * (4 + 2 * number))
        each = number + (4 if self.machine.gpu else 0)
        return float(each * min(self.piece_tokens(), learned) * self.shape.entries)
