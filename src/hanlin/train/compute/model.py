"""The model as training computes it: hidden states of a pass, the output head, and the number format of both.

Owns the forward pass in training, over the weights of transformers' Llama and PEFT's adapters. Does not own those
modules, their names or their files (`model/`); that both compute the same is a test.
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
from hanlin.core.i18n import say
from hanlin.models.adapters import get_trainable_tokens_layer
from hanlin.train.compute.attention import documents_attention
from hanlin.train.compute.block import Norm, added, feed_forward, normalized, projected, rotated
from hanlin.train.compute.embeddings import Embeddings, Head, PartialHead, noise
from hanlin.train.compute.kernels import Kernel, flex_documents_attention, kernel_for, varlen_attention
from hanlin.train.compute.linear import DoraLinear, Linear, QuantizedLinear
from hanlin.train.compute.lm_head_loss import cross_entropy_sum, filled, token_logprobs
from hanlin.train.compute.runtime import keep_freed_memory
from hanlin.train.dataset.document_layout import DocumentLayout
from hanlin.train.dataset.packed import MicroBatch, PackedDataset

NumberFormat = Literal["float32", "bfloat16"]
Found = TypeVar("Found")
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, DocumentLayout], torch.Tensor]
KERNELS: dict[Kernel, Attention] = {
    "grouped": documents_attention,
    "varlen": varlen_attention,
    "flex": flex_documents_attention,
}
PIECE = 256
"""Positions whose logits are there at once where a pass is only read."""


class _Block(NamedTuple):
    """One decoder block, of the module `layer`."""

    layer: nn.Module
    before_attention: Norm
    query_key_value: tuple[Linear, Linear, Linear]
    output: Linear
    before_feed_forward: Norm
    gate_up_down: tuple[Linear, Linear, Linear]

    def refresh(self, number_format: torch.dtype) -> None:
        for matrix in (*self.query_key_value, self.output, *self.gate_up_down):
            matrix.refresh(number_format)


@dataclass(frozen=True, slots=True)
class ShardedCalls:
    """How a model computes whose weights lie in parts with all processes (`placement`).

    The modules' own calls bring the parts together, so each process has to make them equally often: `most` is the
    greatest of all processes' counts. `whole` calls the model, `backward` goes back through what it made.
    """

    call_model: Callable[..., Any]
    backward: Callable[[torch.Tensor], Any]
    all_reduce_max: Callable[[int], int]


def run(work: Callable[..., Found], *given: Any) -> Found:
    """What stands in for `forward` of a module whose call brings its weights together: the work is done inside."""
    return work(*given)


class TrainModel:
    """A model on its device. In bfloat16, what is trained is kept in float32 and cast once for each step (Micikevicius
    et al. 2018, arXiv:1710.03740, section 3.1), what is frozen is kept in bfloat16, and the stream between blocks,
    norms, rotations and losses are float32."""

    def __init__(self, model: PreTrainedModel | PeftModel, device: torch.device, number_format: NumberFormat) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.hf_model = model
        self.device = device
        self.dtype = torch.bfloat16 if number_format == "bfloat16" else torch.float32
        self.gradient_checkpointing = False
        """Whether activations are computed again in the backward pass instead of being kept."""
        self.untrained_tokens: tuple[str, ...] = ()
        """Special tokens of the data whose rows nobody had trained; they are trained now."""
        self.adapter_init: dict[str, torch.Tensor] | None = None
        """What an adapter started with, where that was taken out of its base."""
        self.neftune_alpha = 0.0
        """How strong the noise on embeddings is in training (`vocabulary.noise`)."""
        self.attention: Attention = documents_attention
        """The kernel that tokens attend by within their documents."""
        self.sharded_calls: ShardedCalls | None = None
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(self.dtype)
        model.to(device)  # type: ignore[arg-type]
        causal = cast(Any, model.get_base_model() if isinstance(model, PeftModel) else model)
        self.causal, body = causal, causal.model
        self.head_size = int(causal.config.head_dim)
        self._rotary = body.rotary_emb
        self._blocks = [_block(layer) for layer in body.layers]
        self._take_ends()
        self.refresh()

    @property
    def layers(self) -> list[nn.Module]:
        return [block.layer for block in self._blocks]

    def _take_ends(self) -> None:
        body = self.causal.model
        self._embeddings = _embeddings(body.embed_tokens)
        self._norm = _norm(body.norm)
        self._head = _head(self.causal.get_output_embeddings())

    def refresh(self) -> None:
        """Take over the weights as the last step left them; called once before the passes of a step."""
        if self.sharded_calls is not None:  # they are taken over when they have been brought together
            return
        self._head.refresh(self.dtype)
        for block in self._blocks:
            block.refresh(self.dtype)

    def shard(self, calls: ShardedCalls) -> None:
        """Compute from now on with weights that lie in parts with all processes."""
        self.sharded_calls = calls
        for module in (self.hf_model, *self.layers):
            module.forward = run

    def micro_batches(
        self, rows: PackedDataset, units: Sequence[int] | np.ndarray, micro_batch_tokens: int
    ) -> Iterator[MicroBatch]:
        """The units of this process in passes, on the device. Where all processes have to go through the model equally
        often, one with fewer passes than others does so with a unit that does not count."""
        if self.sharded_calls is None:
            for batch in rows.micro_batches(units, micro_batch_tokens):
                yield batch.to(self.device)
            return
        batches = list(rows.micro_batches(units, micro_batch_tokens))  # the number has to be agreed on before the first
        more = self.sharded_calls.all_reduce_max(len(batches)) - len(batches)
        for batch in batches:
            yield batch.to(self.device)
        for _ in range(more):
            nothing = self.loss_sum(next(rows.micro_batches([0], micro_batch_tokens)).to(self.device)) * 0.0
            if nothing.requires_grad:
                self.backward(nothing)

    def backward(self, total: torch.Tensor) -> None:
        """Add the gradients of a pass's loss to those of the step."""
        if self.sharded_calls is None:
            total.backward()  # type: ignore[no-untyped-call]
        else:
            self.sharded_calls.backward(total)

    def set_attention(self, wished: Literal["auto", "grouped", "varlen", "flex"]) -> None:
        """Take a kernel. Raises UserError where it cannot run."""
        self.attention = KERNELS[kernel_for(wished, self.device, self.dtype, self.head_size)]

    def hidden_states(self, batch: MicroBatch) -> torch.Tensor:
        """Hidden states [n, width], in the network's number format, at the positions whose next token is learned."""
        return self._filled(batch)[: len(batch.targets)]

    def _filled(self, batch: MicroBatch) -> torch.Tensor:
        """The same, and what fills them up to a size that occurs again (`losses.filled`)."""
        stream = self._embeddings.read(batch.input_ids[0])
        if self.neftune_alpha and self.hf_model.training:
            stream = stream + noise(batch.position_ids[0], stream.shape[1], self.neftune_alpha)
        if self.sharded_calls is not None and torch.is_grad_enabled() and not stream.requires_grad:
            stream.requires_grad_()  # or the first block's parts are not let go of when its backward pass is done
        entries, trained = self._head.weight.shape[0], self._head.weight.requires_grad
        more = filled(len(batch.target_positions), entries, trained, self.device.type != "cpu") - len(
            batch.target_positions
        )
        learned = torch.cat([batch.target_positions, batch.target_positions[-1:].expand(more)])
        cosine, sine = (
            angles[0, :, None, : self.head_size // 2] for angles in self._rotary(stream, batch.position_ids)
        )
        for block in self._blocks:
            wanted = learned if block is self._blocks[-1] else None
            through = self._through if self.sharded_calls is None else self._through_gathered
            if self.gradient_checkpointing and torch.is_grad_enabled():
                stream = checkpoint(through, block, stream, cosine, sine, batch.documents, wanted, use_reentrant=False)
            else:
                stream = through(block, stream, cosine, sine, batch.documents, wanted)
        return normalized(stream, self._norm, self.dtype)

    def loss_sum(self, batch: MicroBatch) -> torch.Tensor:
        """Minus the summed log-probability of a pass's targets."""
        return self._within(self._loss_sum, batch)

    def _loss_sum(self, batch: MicroBatch) -> torch.Tensor:
        return cross_entropy_sum(self._filled(batch), self._head.weight, batch.targets, self._head.cast)

    def token_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """The log-probability of each of a pass's targets, float32 [n]."""
        return self._within(self._token_logprobs, batch)

    def _token_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        return token_logprobs(self._filled(batch), self._head.weight, batch.targets, self._head.cast)

    def logprobs_and_argmax(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-probability of each of a pass's targets, float32 [n], and the likeliest token in its place, int64
        [n]: what greedy writing puts there. Without gradients."""
        return self._within(self._logprobs_and_argmax, batch)

    @torch.no_grad()
    def _logprobs_and_argmax(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        found, likeliest = [], []
        for piece, targets in zip(self.hidden_states(batch).split(PIECE), batch.targets.split(PIECE), strict=True):
            shares = (piece @ self._head.cast.T).float().log_softmax(-1)
            found.append(shares.gather(1, targets[:, None])[:, 0])
            likeliest.append(shares.argmax(-1))
        return torch.cat(found), torch.cat(likeliest)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are trained, by name, in the model's order."""
        return ((name, parameter) for name, parameter in self.hf_model.named_parameters() if parameter.requires_grad)

    def _within(self, work: Callable[[MicroBatch], Found], batch: MicroBatch) -> Found:
        """Do the work with the weights at both ends of the model there."""
        if self.sharded_calls is None:
            return work(batch)
        found: Found = self.sharded_calls.call_model(self._with_ends, work, batch)
        return found

    def _with_ends(self, work: Callable[[MicroBatch], Found], batch: MicroBatch) -> Found:
        self._take_ends()
        self._head.refresh(self.dtype)
        return work(batch)

    def _through_gathered(self, block: _Block, stream: torch.Tensor, *rest: Any) -> torch.Tensor:
        found: torch.Tensor = block.layer(self._with_block, block.layer, stream, *rest)
        return found

    def _with_block(self, layer: nn.Module, stream: torch.Tensor, *rest: Any) -> torch.Tensor:
        block = _block(layer, passing=True)
        block.refresh(self.dtype)
        return self._through(block, stream, *rest)

    def _through(
        self,
        block: _Block,
        stream: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        documents: DocumentLayout,
        wanted: torch.Tensor | None,
    ) -> torch.Tensor:
        """The stream behind a block; behind the last, only at the positions that are wanted."""
        training = self.hf_model.training
        found = projected(stream, block.before_attention, block.query_key_value, training)
        query, key, value = (part.view(len(part), -1, self.head_size) for part in found)
        query, key = rotated(query, cosine, sine), rotated(key, cosine, sine)
        attended = self.attention(query, key, value, documents).flatten(1)
        if wanted is not None:
            stream, attended = stream.index_select(0, wanted), attended.index_select(0, wanted)
        stream = added(stream, attended, block.output, training)
        return feed_forward(stream, block.before_feed_forward, block.gate_up_down, training)


def _own(module: nn.Module) -> Any:
    """The module itself, or the trained copy that PEFT keeps of it."""
    if isinstance(module, ModulesToSaveWrapper):
        return cast(Any, module.modules_to_save)[module.active_adapters[0]]
    return module


def _embeddings(module: nn.Module) -> Embeddings:
    rows = get_trainable_tokens_layer(module)
    if rows is None:
        table = _own(module)
        return Embeddings(table.weight, table.padding_idx)
    base = cast(nn.Embedding, rows.get_base_layer())
    (name,) = rows.active_adapters
    return Embeddings(base.weight, base.padding_idx, rows.token_indices[name], rows.trainable_tokens_delta[name])


def _head(module: nn.Module) -> Head:
    rows = get_trainable_tokens_layer(module)
    if rows is None:
        return Linear(_own(module).weight)
    (name,) = rows.active_adapters
    base = cast(nn.Linear, rows.get_base_layer())
    return PartialHead(base.weight, rows.token_indices[name], rows.trainable_tokens_delta[name])


def _norm(module: nn.Module) -> Norm:
    norm = _own(module)
    return Norm(norm.weight, norm.variance_epsilon)


def _matrix(module: nn.Module, passing: bool) -> Linear:
    if not isinstance(module, LoraLayer):
        return _base_matrix(module, {}, passing)
    (name,) = module.active_adapters
    down, up = (cast(nn.Linear, parts[name]).weight for parts in (module.lora_A, module.lora_B))
    dropout = module.lora_dropout[name]
    share = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
    adapter = {"down": down, "up": up, "scale": module.scaling[name], "dropout": share}
    whole = _base_matrix(module.get_base_layer(), adapter, passing)
    if name not in module.lora_magnitude_vector:
        return whole
    if share:
        raise UserError(
            say("DoRA is not trained with dropout here", "DoRA 不支持与 dropout 同时使用"),
            "lora.dropout",
            say("set dropout to 0", "请将 dropout 设为 0"),
        )
    return DoraLinear(whole, cast(Any, module.lora_magnitude_vector[name]).weight)


def _base_matrix(module: nn.Module, adapter: dict[str, Any], passing: bool) -> Linear:
    """A linear layer, as it is or packed by bitsandbytes, with the parts of its adapter. A `passing` weight is there
    for a while only, in each direction: nothing of it may be kept from one to the other."""
    weight, bias = cast(nn.Parameter, module.weight), cast("nn.Parameter | None", module.bias)
    if passing:
        return QuantizedLinear(weight, lambda number_format: weight.detach().to(number_format), bias, **adapter)
    if weight.is_floating_point():
        return Linear(weight, bias, **adapter)
    state = getattr(module, "state", None)

    def unpack(number_format: torch.dtype) -> torch.Tensor:
        with torch.no_grad():
            return dequantize_bnb_weight(weight, state=state).to(number_format)

    return QuantizedLinear(weight, unpack, bias, **adapter)


def _block(layer: Any, passing: bool = False) -> _Block:
    attention, feed_forward_part = layer.self_attn, layer.mlp

    def matrices(*modules: nn.Module) -> Any:
        return tuple(_matrix(module, passing) for module in modules)

    return _Block(
        layer,
        _norm(layer.input_layernorm),
        matrices(attention.q_proj, attention.k_proj, attention.v_proj),
        _matrix(attention.o_proj, passing),
        _norm(layer.post_attention_layernorm),
        matrices(feed_forward_part.gate_proj, feed_forward_part.up_proj, feed_forward_part.down_proj),
    )
