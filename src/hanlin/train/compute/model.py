"""The model as training computes it: hidden states of a micro-batch, the output head, and the dtypes of both.

This is the forward pass in training over the weights of transformers' Llama and PEFT's adapters. Their modules, names
and files are in `hanlin.models`; that both compute the same is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.integrations import dequantize_bnb_weight
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.adapters import get_trainable_tokens_layer
from hanlin.train.compute.attention import grouped_attention
from hanlin.train.compute.block import (
    RMSNorm,
    add_projection,
    apply_rotary,
    feed_forward,
    norm_and_project,
    rms_norm,
)
from hanlin.train.compute.embeddings import Embeddings, Head, PartialHead, neftune_noise
from hanlin.train.compute.experts import Experts, balance_loss, expert_feed_forward
from hanlin.train.compute.kernels import Kernel, choose_kernel, flex_document_attention, varlen_attention
from hanlin.train.compute.linear import DoraLinear, Linear, QuantizedLinear
from hanlin.train.compute.lm_head_loss import cross_entropy_sum, padded_length, token_logprobs
from hanlin.train.compute.runtime import keep_freed_memory
from hanlin.train.dataset.document_layout import DocumentLayout
from hanlin.train.dataset.packed import MicroBatch, PackedDataset

Precision = Literal["float32", "bfloat16"]
Result = TypeVar("Result")
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, DocumentLayout], torch.Tensor]
KERNELS: dict[Kernel, Attention] = {
    "grouped": grouped_attention,
    "varlen": varlen_attention,
    "flex": flex_document_attention,
}
SCORING_CHUNK = 256
"""Positions whose logits exist at once in `logprobs_and_argmax`."""


class _Block(NamedTuple):
    """One decoder block, of the module `layer`."""

    layer: nn.Module
    input_norm: RMSNorm
    qkv_proj: tuple[Linear, Linear, Linear]
    o_proj: Linear
    post_attention_norm: RMSNorm
    gate_up_down_proj: tuple[Linear, ...]
    experts: Experts | None = None

    def refresh(self, dtype: torch.dtype) -> None:
        for linear in (*self.qkv_proj, self.o_proj, *self.gate_up_down_proj):
            linear.refresh(dtype)


@dataclass(frozen=True, slots=True)
class ShardedCalls:
    """How to call a model whose weights are sharded over processes (FSDP, ZeRO-3).

    The calls of the modules themselves gather the shards, so every process has to make equally many.

    Attributes:
        call_model: Calls the model with a function and its arguments, with the weights outside the blocks gathered.
        backward: Goes back from a loss that such a call returned.
        all_reduce_max: The greatest count of all processes.
    """

    call_model: Callable[..., Any]
    backward: Callable[[torch.Tensor], Any]
    all_reduce_max: Callable[[int], int]


def call_inside(function: Callable[..., Result], *args: Any) -> Result:
    """The `forward` of a module whose call gathers its weights: `function` runs while they are there."""
    return function(*args)


class TrainModel:
    """A Llama model on its device, with its own forward pass over documents end to end.

    In bfloat16, trained weights are kept in float32 and cast once for each step (Micikevicius et al. 2018,
    arXiv:1710.03740, section 3.1), frozen ones are kept in bfloat16, and hidden states between blocks, norms, rotations
    and losses are float32.

    Attributes:
        hf_model: The transformers or PEFT model that holds the weights.
        device: Where micro-batches go.
        dtype: What matrix products are computed in.
        gradient_checkpointing: Whether activations are recomputed in the backward pass instead of being kept.
        untrained_tokens: Special tokens of the data whose rows nobody had trained; they are trained now.
        adapter_init: What an adapter started with, if that was taken out of its base (PiSSA).
        neftune_alpha: Strength of the noise on embeddings in training; 0 for none.
        attention: The attention kernel.
        sharded_calls: How to call the model if its weights are sharded.
        layers: The modules of the decoder blocks.
        router_metrics: Of a model of experts, sums over the targets of the last micro-batch: `router_loss`, the balance
            loss of a block (see `balance_loss`), and `busiest_expert`, how busy it is.
    """

    def __init__(self, hf_model: PreTrainedModel | PeftModel, device: torch.device, precision: Precision) -> None:
        """Move the model to `device` and its frozen weights to `precision`."""
        if device.type == "cpu":
            keep_freed_memory()
        self.hf_model = hf_model
        self.device = device
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.gradient_checkpointing = False
        self.untrained_tokens: tuple[str, ...] = ()
        self.adapter_init: dict[str, torch.Tensor] | None = None
        self.neftune_alpha = 0.0
        self.attention: Attention = grouped_attention
        self.sharded_calls: ShardedCalls | None = None
        for parameter in hf_model.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(self.dtype)
        hf_model.to(device)  # type: ignore[arg-type]
        causal_lm = cast(Any, hf_model.get_base_model() if isinstance(hf_model, PeftModel) else hf_model)
        self._causal_lm, body = causal_lm, causal_lm.model
        config = causal_lm.config
        self._head_dim = int(config.head_dim or config.hidden_size // config.num_attention_heads)
        self._router_loss_coef = float(getattr(config, "router_aux_loss_coef", 0.0))
        self._router_logits: list[torch.Tensor] = []
        self.router_metrics: dict[str, torch.Tensor] = {}
        self._rotary = body.rotary_emb
        self._blocks = [_block(layer) for layer in body.layers]
        self._read_ends()
        self.refresh()

    @property
    def layers(self) -> list[nn.Module]:
        return [block.layer for block in self._blocks]

    @property
    def has_experts(self) -> bool:
        return any(block.experts is not None for block in self._blocks)

    def _read_ends(self) -> None:
        """Take embeddings, last norm and head from the modules."""
        body = self._causal_lm.model
        self._embeddings = _embeddings(body.embed_tokens)
        self._norm = _norm(body.norm)
        self._head = _head(self._causal_lm.get_output_embeddings())

    def refresh(self) -> None:
        """Cast the weights as the last step left them; called once before the micro-batches of a step."""
        if self.sharded_calls is not None:  # they are cast when they have been gathered
            return
        self._head.refresh(self.dtype)
        for block in self._blocks:
            block.refresh(self.dtype)

    def shard(self, calls: ShardedCalls) -> None:
        """Compute from now on with weights that are sharded over all processes."""
        self.sharded_calls = calls
        for module in (self.hf_model, *self.layers):
            module.forward = call_inside

    def micro_batches(
        self, dataset: PackedDataset, indices: Sequence[int] | np.ndarray, micro_batch_tokens: int
    ) -> Iterator[MicroBatch]:
        """Samples of this process in micro-batches, on the device.

        If weights are sharded, all processes have to go through the model equally often: one with fewer micro-batches
        than others then goes through it with a sample that does not count.

        Args:
            dataset: The samples.
            indices: Which of them.
            micro_batch_tokens: The most tokens of a micro-batch, unless a single sample has more.
        """
        if self.sharded_calls is None:
            for batch in dataset.micro_batches(indices, micro_batch_tokens):
                yield batch.to(self.device)
            return
        # the number has to be agreed on before the first
        batches = list(dataset.micro_batches(indices, micro_batch_tokens))
        missing = self.sharded_calls.all_reduce_max(len(batches)) - len(batches)
        for batch in batches:
            yield batch.to(self.device)
        for _ in range(missing):
            zero = self.loss_sum(next(dataset.micro_batches([0], micro_batch_tokens)).to(self.device)) * 0.0
            if zero.requires_grad:
                self.backward(zero)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a micro-batch's loss to those of the step."""
        if self.sharded_calls is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.sharded_calls.backward(loss)

    def set_attention(self, requested: Literal["auto", "grouped", "varlen", "flex"]) -> None:
        """Choose the attention kernel. Raises UserError if it cannot run."""
        self.attention = KERNELS[choose_kernel(requested, self.device, self.dtype, self._head_dim)]

    def hidden_states(self, batch: MicroBatch) -> torch.Tensor:
        """The last hidden states [n, hidden_size] at the batch's target positions, in the model's dtype."""
        return self._padded_hidden_states(batch)[: len(batch.targets)]

    def _padded_hidden_states(self, batch: MicroBatch) -> torch.Tensor:
        """The same, padded by repeating the last one to a length that occurs again (`padded_length`)."""
        hidden_states = self._embeddings.lookup(batch.input_ids[0])
        if self.neftune_alpha and self.hf_model.training:
            noise = neftune_noise(batch.position_ids[0], hidden_states.shape[1], self.neftune_alpha)
            hidden_states = hidden_states + noise
        if self.sharded_calls is not None and torch.is_grad_enabled() and not hidden_states.requires_grad:
            hidden_states.requires_grad_()  # or the first block's shards are not freed after its backward pass
        positions = batch.target_positions
        vocab_size, head_is_trained = self._head.weight.shape[0], self._head.weight.requires_grad
        length = padded_length(len(positions), vocab_size, head_is_trained, self.device.type != "cpu")
        positions = torch.cat([positions, positions[-1:].expand(length - len(positions))])
        angles = self._rotary(hidden_states, batch.position_ids)
        cos, sin = (part[0, :, None, : self._head_dim // 2] for part in angles)
        run_block = self._run_block if self.sharded_calls is None else self._run_sharded_block
        self._router_logits = []
        for block in self._blocks:
            is_last = block is self._blocks[-1]
            args = (hidden_states, cos, sin, batch.documents, positions if is_last else None)
            if block.experts is not None:
                hidden_states, router_logits = self._run_experts(block, *args)
                at_targets = router_logits if is_last else router_logits.index_select(0, batch.target_positions)
                self._router_logits.append(at_targets[: len(batch.targets)])
            elif self.gradient_checkpointing and torch.is_grad_enabled():
                hidden_states = checkpoint(run_block, block, *args, use_reentrant=False)
            else:
                hidden_states = run_block(block, *args)
        return rms_norm(hidden_states, self._norm, self.dtype)

    def loss_sum(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of -log p(target) over a batch's targets, a float32 scalar."""
        return self._with_weights(self._loss_sum, batch)

    def _loss_sum(self, batch: MicroBatch) -> torch.Tensor:
        hidden = self._padded_hidden_states(batch)
        loss = cross_entropy_sum(hidden, self._head.weight, batch.targets, self._head.compute_weight)
        return loss + self._router_loss(batch) if self._router_logits else loss

    def _router_loss(self, batch: MicroBatch) -> torch.Tensor:
        """What the balance of the experts adds to the loss in training: the mean over the blocks, weighted by the
        coefficient of the configuration. It does not count in evaluation, whose loss is that of the targets alone.
        """
        top_k = next(block.experts.top_k for block in self._blocks if block.experts is not None)
        losses, busiest = zip(
            *(balance_loss(logits, batch.target_counts, top_k) for logits in self._router_logits), strict=True
        )
        self._router_logits = []
        loss = torch.stack(losses).mean()
        self.router_metrics = {
            "router_loss": loss.detach(),
            "busiest_expert": torch.stack(busiest).mean() * len(batch.targets),
        }
        return loss * (self._router_loss_coef if self.hf_model.training else 0.0)

    def token_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """Log p of each of a batch's targets, float32 [n]."""
        return self._with_weights(self._token_logprobs, batch)

    def _token_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        hidden = self._padded_hidden_states(batch)
        return token_logprobs(hidden, self._head.weight, batch.targets, self._head.compute_weight)

    def logprobs_and_argmax(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log p of each of a batch's targets, float32 [n], and the most likely token there, which greedy decoding
        would choose, int64 [n]. Without gradients.
        """
        return self._with_weights(self._logprobs_and_argmax, batch)

    @torch.no_grad()
    def _logprobs_and_argmax(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs, most_likely = [], []
        chunks = zip(self.hidden_states(batch).split(SCORING_CHUNK), batch.targets.split(SCORING_CHUNK), strict=True)
        for hidden, targets in chunks:
            log_probs = (hidden @ self._head.compute_weight.T).float().log_softmax(-1)
            logprobs.append(log_probs.gather(1, targets[:, None])[:, 0])
            most_likely.append(log_probs.argmax(-1))
        return torch.cat(logprobs), torch.cat(most_likely)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters by name, in the model's order."""
        return ((name, parameter) for name, parameter in self.hf_model.named_parameters() if parameter.requires_grad)

    def _with_weights(self, compute: Callable[[MicroBatch], Result], batch: MicroBatch) -> Result:
        """Call `compute` while the weights at both ends of the model are there."""
        if self.sharded_calls is None:
            return compute(batch)
        result: Result = self.sharded_calls.call_model(self._with_gathered_ends, compute, batch)
        return result

    def _with_gathered_ends(self, compute: Callable[[MicroBatch], Result], batch: MicroBatch) -> Result:
        self._read_ends()
        self._head.refresh(self.dtype)
        return compute(batch)

    def _run_sharded_block(self, block: _Block, hidden_states: torch.Tensor, *args: Any) -> torch.Tensor:
        output: torch.Tensor = block.layer(self._run_gathered_layer, block.layer, hidden_states, *args)
        return output

    def _run_gathered_layer(self, layer: nn.Module, hidden_states: torch.Tensor, *args: Any) -> torch.Tensor:
        block = _block(layer, gathered=True)
        block.refresh(self.dtype)
        return self._run_block(block, hidden_states, *args)

    def _run_block(
        self,
        block: _Block,
        hidden_states: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        documents: DocumentLayout,
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run a decoder block.

        Args:
            block: The block.
            hidden_states: [tokens, hidden_size].
            cos: [tokens, 1, head_dim / 2].
            sin: The same shape.
            documents: The documents of the micro-batch.
            positions: In the last block, the positions that are needed; None for all.

        Returns:
            [tokens, hidden_size], or [len(positions), hidden_size].
        """
        training = self.hf_model.training
        hidden_states = self._attend(block, hidden_states, cos, sin, documents, positions)
        return feed_forward(hidden_states, block.post_attention_norm, block.gate_up_down_proj, training)

    def _run_experts(self, block: _Block, hidden_states: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a block of experts; the same, and the router's logits [tokens or positions, experts]."""

        def run(hidden_states: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
            assert block.experts is not None
            attended = self._attend(block, hidden_states, *args)
            return expert_feed_forward(attended, block.post_attention_norm, block.experts, self.dtype)

        if self.gradient_checkpointing and torch.is_grad_enabled():
            result: tuple[torch.Tensor, torch.Tensor] = checkpoint(run, hidden_states, *args, use_reentrant=False)
            return result
        return run(hidden_states, *args)

    def _attend(
        self,
        block: _Block,
        hidden_states: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        documents: DocumentLayout,
        positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """The first half of a block, see `_run_block`."""
        training = self.hf_model.training
        projected = norm_and_project(hidden_states, block.input_norm, block.qkv_proj, training)
        query, key, value = (part.view(len(part), -1, self._head_dim) for part in projected)
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        attended = self.attention(query, key, value, documents).flatten(1)
        if positions is not None:
            hidden_states, attended = hidden_states.index_select(0, positions), attended.index_select(0, positions)
        return add_projection(hidden_states, attended, block.o_proj, training)


def _unwrap(module: nn.Module) -> Any:
    """The module itself, or the trained copy that PEFT keeps of it."""
    if isinstance(module, ModulesToSaveWrapper):
        return cast(Any, module.modules_to_save)[module.active_adapters[0]]
    return module


def _embeddings(module: nn.Module) -> Embeddings:
    rows = get_trainable_tokens_layer(module)
    if rows is None:
        table = _unwrap(module)
        return Embeddings(table.weight)
    base = cast(nn.Embedding, rows.get_base_layer())
    (name,) = rows.active_adapters
    return Embeddings(base.weight, rows.token_indices[name], rows.trainable_tokens_delta[name])


def _head(module: nn.Module) -> Head:
    rows = get_trainable_tokens_layer(module)
    if rows is None:
        return Linear(_unwrap(module).weight)
    (name,) = rows.active_adapters
    base = cast(nn.Linear, rows.get_base_layer())
    return PartialHead(base.weight, rows.token_indices[name], rows.trainable_tokens_delta[name])


def _norm(module: nn.Module) -> RMSNorm:
    norm = _unwrap(module)
    return RMSNorm(norm.weight, norm.variance_epsilon)


def _linear(module: nn.Module, gathered: bool) -> Linear:
    if not isinstance(module, LoraLayer):
        return _base_linear(module, {}, gathered)
    (name,) = module.active_adapters
    lora_A, lora_B = (cast(nn.Linear, parts[name]).weight for parts in (module.lora_A, module.lora_B))
    dropout_module = module.lora_dropout[name]
    dropout = dropout_module.p if isinstance(dropout_module, nn.Dropout) else 0.0
    adapter = {"lora_A": lora_A, "lora_B": lora_B, "scaling": module.scaling[name], "dropout": dropout}
    linear = _base_linear(module.get_base_layer(), adapter, gathered)
    if name not in module.lora_magnitude_vector:
        return linear
    if dropout:
        raise UserError(
            tr("DoRA is not supported with dropout"),
            "lora.dropout",
            tr("set dropout to 0"),
        )
    return DoraLinear(linear, cast(Any, module.lora_magnitude_vector[name]).weight)


def _base_linear(module: nn.Module, adapter: dict[str, Any], gathered: bool) -> Linear:
    """A linear layer as it is or quantized by bitsandbytes, with the tensors of its adapter. A `gathered` weight exists
    for a while only, in each direction: nothing of it may be kept from one to the other.
    """
    weight, bias = cast(nn.Parameter, module.weight), cast("nn.Parameter | None", module.bias)
    if gathered:
        return QuantizedLinear(weight, lambda dtype: weight.detach().to(dtype), bias, **adapter)
    if weight.is_floating_point():
        return Linear(weight, bias, **adapter)
    state = getattr(module, "state", None)

    def dequantize(dtype: torch.dtype) -> torch.Tensor:
        with torch.no_grad():
            return dequantize_bnb_weight(weight, state=state).to(dtype)

    return QuantizedLinear(weight, dequantize, bias, **adapter)


def _block(layer: Any, gathered: bool = False) -> _Block:
    attention, mlp = layer.self_attn, layer.mlp

    def linears(*modules: nn.Module) -> Any:
        return tuple(_linear(module, gathered) for module in modules)

    experts = Experts.of(mlp) if hasattr(mlp, "experts") else None
    return _Block(
        layer,
        _norm(layer.input_layernorm),
        linears(attention.q_proj, attention.k_proj, attention.v_proj),
        _linear(attention.o_proj, gathered),
        _norm(layer.post_attention_layernorm),
        () if experts is not None else linears(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
        experts,
    )
