"""Which process holds which part of weights, gradients and averages, and how all of them make one step.

`Copies` here; `Shards` (`fsdp`) and `Zero` (`deepspeed`) derive from it. Each gives and takes what a checkpoint
holds in one form, whole tensors by the names that a process alone would use, so that a run goes on in any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hanlin.config.settings.train import Training
from hanlin.train.compute.model import Network
from hanlin.train.compute.state import Keep, take_over
from hanlin.train.distributed.context import Group
from hanlin.train.optim.build import optimizer_of


class Copies:
    """Every process holds everything, and gradients are summed once for each step: data parallelism, or one process
    alone."""

    def __init__(self, network: Network, settings: Training, group: Group) -> None:
        self.network, self.group, self.max_norm = network, group, settings.max_grad_norm
        self.trained = dict(network.trained())
        self.optimizer: Any = optimizer_of(settings, list(self.trained.items()), group.device)

    def set_rate(self, rate: float) -> None:
        for part in self.optimizer.param_groups:
            part["lr"] = rate * part["faster"]

    def finish(self, sums: dict[str, float], weighs: str) -> float:
        """Add up all processes, divide the gradients by the weight of all, and shorten them to the greatest length;
        return the length that they had. `sums` become those of all processes."""
        self._add_up(sums)
        gradients = []
        for parameter in self.trained.values():
            if parameter.grad is None:  # nothing of this step's data came to this process
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self._add_up_gradients(gradients)
        norm = self._length(gradients) / sums[weighs]
        if math.isfinite(norm):
            torch._foreach_mul_(gradients, min(1.0, self.max_norm / max(norm, 1e-12)) / sums[weighs])
        return norm

    def _add_up(self, sums: dict[str, float]) -> None:
        if self.group.size > 1:
            numbers = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.network.device)
            self.group.add_up([numbers])
            sums.update(zip(sums, numbers.tolist(), strict=True))

    def _add_up_gradients(self, gradients: list[torch.Tensor]) -> None:
        self.group.add_up(gradients)

    def _length(self, gradients: list[torch.Tensor]) -> float:
        return float(torch.nn.utils.get_total_norm(gradients))

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self, keep: Keep) -> dict[str, Any]:
        """What is trained, by name. Every process has to call it."""
        return {name: keep(f"weights {name}", self._whole(value)) for name, value in self.trained.items()}

    def averages(self, keep: Keep) -> dict[str, Any]:
        """The optimizer's state. Every process has to call it."""
        found: dict[str, Any] = _each(self.optimizer.state_dict(), lambda name, value: keep(name, self._whole(value)))
        return found

    def restore(self, averages: dict[str, Any]) -> None:
        """Put back what `averages` gave, of whatever form."""
        self.optimizer.load_state_dict(averages)

    def whole(self, opened: Callable[[], Network]) -> Network:
        """A network that holds all that was trained, for saving; `opened` gives one as it was at the start. It may do
        so in the first process alone. Every process has to call it."""
        return self.network

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()


def reopened(placement: Copies, opened: Callable[[], Network]) -> Network:
    """What `Copies.whole` is where weights lie in parts."""
    weights = placement.weights(lambda name, tensor: tensor.cpu() if placement.group.first else None)
    if not placement.group.first:
        return placement.network
    network = opened()
    take_over(weights, network.trained())
    return network


def _each(tree: Any, change: Callable[[str, torch.Tensor], Any], name: str = "averages") -> Any:
    """The tree with each tensor in it changed, given the path to it."""
    if isinstance(tree, torch.Tensor):
        return change(name, tree)
    if isinstance(tree, dict):
        return {key: _each(value, change, f"{name} {key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_each(value, change, f"{name} {place}") for place, value in enumerate(tree))
    return tree
