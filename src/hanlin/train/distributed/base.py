"""What every strategy of data parallelism does: hold weights, gradients and optimizer state, and step.

The trainer knows `Strategy` alone. `ddp`, `fsdp` and `deepspeed` derive from it. All of them give and take what a
checkpoint holds in one form, full tensors by the names that a single process would use, so a run that was saved under
one strategy and number of processes can go on under another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from hanlin.config.settings.train import Training
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.state import CopyTensor, load_weights
from hanlin.train.distributed.context import DistContext
from hanlin.train.optim.build import build_optimizer


class Strategy(ABC):
    """The trained parameters of this process and their optimizer.

    A step is: `set_lr`, then `backward` of each micro-batch through the model, `reduce_and_clip_grads`, `step`.

    Attributes:
        trainable: The trained parameters by name; with FSDP and ZeRO-3, this process's shards of them.
        optimizer: The optimizer over them.
        max_norm: The norm to which gradients are clipped.
    """

    def __init__(self, model: TrainModel, settings: Training, dist: DistContext) -> None:
        self.model, self.dist, self.max_norm = model, dist, settings.max_grad_norm
        self.trainable = dict(model.trainable_parameters())
        self.optimizer: Any = build_optimizer(settings, list(self.trainable.items()), dist.device)

    def set_lr(self, learning_rate: float) -> None:
        """Set the learning rate of the next step, scaled by each parameter group's `lr_ratio`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_ratio"]

    def reduce_and_clip_grads(self, sums: dict[str, float], weight_name: str) -> float:
        """Sum gradients over processes, divide them by the weight of the whole step, and clip their norm.

        Args:
            sums: What this process summed over its micro-batches, by name; replaced by the sums of all processes.
            weight_name: Which of `sums` is the weight that the loss is a sum over (tokens, pairs or answers).

        Returns:
            The norm of the gradient before clipping. If it is not finite, gradients are left as they are.
        """
        self._reduce_sums(sums)
        gradients = []
        for parameter in self.trainable.values():
            if parameter.grad is None:  # nothing of this step's data came to this process
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self._reduce_gradients(gradients)
        norm = self._total_norm(gradients) / sums[weight_name]
        if math.isfinite(norm):
            torch._foreach_mul_(gradients, min(1.0, self.max_norm / max(norm, 1e-12)) / sums[weight_name])
        return norm

    def _reduce_sums(self, sums: dict[str, float]) -> None:
        if self.dist.world_size > 1:
            values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.model.device)
            self.dist.all_reduce_sum([values])
            sums.update(zip(sums, values.tolist(), strict=True))

    @abstractmethod
    def _reduce_gradients(self, gradients: list[torch.Tensor]) -> None:
        """Sum the gradients over processes in place, unless the backward passes have done so."""

    def _total_norm(self, gradients: list[torch.Tensor]) -> float:
        return float(torch.nn.utils.get_total_norm(gradients))

    def step(self) -> None:
        """Update the weights and clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self, copy: CopyTensor) -> dict[str, Any]:
        """What `copy` makes of each trained parameter, as a full tensor, by name. Every process has to call it."""
        return {name: copy(f"weights {name}", self._full_tensor(value)) for name, value in self.trainable.items()}

    def optimizer_state(self, copy: CopyTensor) -> dict[str, Any]:
        """The optimizer's `state_dict` with what `copy` makes of each tensor. Every process has to call it."""
        state: dict[str, Any] = _map_tensors(
            self.optimizer.state_dict(), lambda name, value: copy(name, self._full_tensor(value)), "optimizer"
        )
        return state

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Load what `optimizer_state` of any strategy returned."""
        self.optimizer.load_state_dict(state)

    @abstractmethod
    def full_model(self, load: Callable[[], TrainModel]) -> TrainModel:
        """A model with all trained weights, for saving. Every process has to call it.

        Args:
            load: Loads the model as it was at the start; called in the main process only, and only if weights are
                sharded.
        """

    def _full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()


def gather_full_model(strategy: Strategy, load: Callable[[], TrainModel]) -> TrainModel:
    """`Strategy.full_model` for sharded weights: they are gathered into a freshly loaded model of the main process.
    Other processes get their sharded model back.
    """
    weights = strategy.weights(lambda name, tensor: tensor.cpu() if strategy.dist.is_main else None)
    if not strategy.dist.is_main:
        return strategy.model
    model = load()
    load_weights(weights, model.trainable_parameters())
    return model


def _map_tensors(tree: Any, change: Callable[[str, torch.Tensor], Any], path: str) -> Any:
    """The tree of dicts, lists and tuples with each tensor replaced by `change(path to it, tensor)`."""
    if isinstance(tree, torch.Tensor):
        return change(path, tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(value, change, f"{path} {key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map_tensors(value, change, f"{path} {index}") for index, value in enumerate(tree))
    return tree
