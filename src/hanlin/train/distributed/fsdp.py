"""Weights, gradients and averages in parts, one in each process, brought together block by block: torch's FSDP2.

Owns the dividing (Zhao et al. 2023, arXiv:2304.11277; `torch.distributed.fsdp.fully_shard`). Each decoder block is
brought together for its own forward and backward pass, embeddings, last norm and head for the whole of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hanlin.config.settings.train import Training
from hanlin.train.compute.model import Gathering, Network
from hanlin.train.distributed.context import Group
from hanlin.train.distributed.ddp import Copies, reopened


class Shards(Copies):
    """Every process holds one part of each tensor."""

    def __init__(self, network: Network, settings: Training, group: Group, offload: bool) -> None:
        """Divide the network. With `offload`, parts lie in the processor's memory between their uses, and the optimizer
        works there."""
        mesh = init_device_mesh(group.device.type, (group.size,))
        # what is frozen is in the network's number format already; what is trained is brought together in it
        number_format = None if network.dtype == torch.float32 else network.dtype
        precision = MixedPrecisionPolicy(number_format, torch.float32, cast_forward_inputs=False)
        how: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": precision,
            "offload_policy": CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy(),
        }
        network.device = group.device
        for layer in network.layers:
            fully_shard(layer, **how)
        fully_shard(network.model, **how)
        for module in network.model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums, as everywhere in the loop
                module.set_force_sum_reduction_for_comms(True)
        network.gather(Gathering(network.model, torch.Tensor.backward, group.most))
        super().__init__(network, settings, group)

    def _add_up_gradients(self, gradients: list[torch.Tensor]) -> None:
        """Each backward pass has added them up."""

    def _length(self, gradients: list[torch.Tensor]) -> float:
        return float(self._whole(torch.nn.utils.get_total_norm(gradients)))

    def restore(self, averages: dict[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states = {
            place: {
                name: value if value.ndim == 0 else self._part(value, parameters[place])
                for name, value in state.items()
            }
            for place, state in averages["state"].items()
        }
        super().restore({**averages, "state": states})

    def whole(self, opened: Callable[[], Network]) -> Network:
        return reopened(self, opened)

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        mesh = tensor.device_mesh
        here = cast(DTensor, tensor.detach()).to_local().to(mesh.device_type)  # it may lie in the processor's memory
        again = DTensor.from_local(here, mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride())
        return again.full_tensor()

    def _part(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a whole tensor."""
        divided = cast(DTensor, like)
        mesh = divided.device_mesh
        part = distribute_tensor(value.to(mesh.device_type, divided.dtype), mesh, divided.placements)
        return DTensor.from_local(
            part.to_local().to(divided.to_local().device), mesh, divided.placements, shape=value.shape,
            stride=value.stride(),
        )  # fmt: skip
