"""Sharded weights, gradients and optimizer state, gathered block by block: torch's FSDP2.

Source: Zhao et al. 2023, arXiv:2304.11277; `torch.distributed.fsdp.fully_shard`. Each decoder block is gathered for its
own forward and backward pass; embeddings, last norm and head for the whole of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hanlin.config.settings.train import Training
from hanlin.train.compute.model import ShardedCalls, TrainModel
from hanlin.train.distributed.base import Strategy, gather_full_model
from hanlin.train.distributed.context import DistContext


class FSDP(Strategy):
    """Every process holds one shard of each tensor."""

    def __init__(self, model: TrainModel, settings: Training, dist: DistContext, offload: bool) -> None:
        """Shard the model.

        Args:
            model: The model to train, on the CPU.
            settings: The optimizer's settings.
            dist: The processes that train together.
            offload: Whether shards stay in CPU memory between their uses, where the optimizer works too.
        """
        mesh = init_device_mesh(dist.device.type, (dist.world_size,))
        # frozen weights have the model's dtype already; trained ones are gathered in it
        dtype = None if model.dtype == torch.float32 else model.dtype
        precision = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        options: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": precision,
            "offload_policy": CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy(),
        }
        model.device = dist.device
        for layer in model.layers:
            fully_shard(layer, **options)
        fully_shard(model.hf_model, **options)
        for module in model.hf_model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums, as everywhere in the trainer
                module.set_force_sum_reduction_for_comms(True)
        model.shard(ShardedCalls(model.hf_model, torch.Tensor.backward, dist.all_reduce_max))
        super().__init__(model, settings, dist)

    def _reduce_gradients(self, gradients: list[torch.Tensor]) -> None:
        """Each backward pass has reduced them."""

    def _total_norm(self, gradients: list[torch.Tensor]) -> float:
        return float(self._full_tensor(torch.nn.utils.get_total_norm(gradients)))

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        sharded = {
            index: {
                name: value if value.ndim == 0 else self._shard_of(value, parameters[index])
                for name, value in tensors.items()
            }
            for index, tensors in state["state"].items()
        }
        super().load_optimizer_state({**state, "state": sharded})

    def full_model(self, load: Callable[[], TrainModel]) -> TrainModel:
        return gather_full_model(self, load)

    def _full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        mesh = tensor.device_mesh
        local = cast(DTensor, tensor.detach()).to_local().to(mesh.device_type)  # with offload it is in CPU memory
        on_device = DTensor.from_local(local, mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride())
        return on_device.full_tensor()

    def _shard_of(self, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """This process's shard of a full tensor, sharded as `parameter` is."""
        like = cast(DTensor, parameter)
        mesh = like.device_mesh
        shard = distribute_tensor(value.to(mesh.device_type, like.dtype), mesh, like.placements)
        return DTensor.from_local(
            shard.to_local().to(like.to_local().device), mesh, like.placements, shape=value.shape,
            stride=value.stride(),
        )  # fmt: skip
