"""AdamW with low-rank state, GaLore and APOLLO: full training in the memory of an adapter.

The state is tensors alone, so that a checkpoint holds all of it and a resumed run goes on to the same bytes. Which
weights take part is decided in `build`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

Method = Literal["galore", "apollo"]
GALORE_SCALE = 0.25
"""How much of a projected step is taken (alpha in algorithm 2 of GaLore; its authors' choice)."""
MAX_NORM_GROWTH = 1.01
"""How many times the norm of the previous scaled gradient the next one may have (APOLLO, section 3.3, after Chen et al.
2024, Fira, arXiv:2410.01623)."""


class LowRankAdamW(torch.optim.Optimizer):
    """AdamW whose two moments are those of each matrix's gradient projected on `rank` directions.

    `galore` (Zhao et al. 2024, arXiv:2403.03507, algorithm 2): the directions are the gradient's first singular
    vectors, and the step is projected back. `apollo` (Zhu et al. 2024, arXiv:2412.05270, algorithm 1): they are random,
    and tell only by how much each channel of the gradient itself is scaled. Both choose new directions every
    `update_interval` steps; the moments stay.

    Groups whose `rank` is None, and matrices that are no wider than `rank`, take plain AdamW steps (Loshchilov & Hutter
    2019, arXiv:1711.05101).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        method: Method,
        *,
        lr: float,
        betas: tuple[float, float],
        update_interval: int,
        seed: int = 0,
        eps: float = 1e-8,
    ) -> None:
        """Make the optimizer.

        Args:
            groups: Parameter groups with `params` and, if they differ from the defaults, `weight_decay` (0) and `rank`
                (None).
            method: `galore` or `apollo`.
            lr: The learning rate of all groups.
            betas: Decay rates of the two moments.
            update_interval: Steps between two choices of directions.
            seed: The random directions of APOLLO follow from it, the parameter's index and the step.
            eps: Added to the root of the second moment.
        """
        self.method, self.update_interval, self.seed = method, update_interval, seed
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "rank": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                index += 1
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                steps_done = int(state["step"])
                rank = group["rank"]
                gradient = parameter.grad
                low_rank = rank is not None and parameter.ndim == 2 and min(parameter.shape) > rank
                if low_rank:
                    if steps_done % self.update_interval == 0:
                        state["directions"] = self._choose_directions(parameter.grad, rank, index, steps_done)
                    gradient = _project(parameter.grad, state["directions"])
                state["step"] += 1
                update = _adam_update(gradient, state, steps_done + 1, group)
                if low_rank and self.method == "galore":
                    update = _project_back(update, parameter.shape, state["directions"]).mul_(GALORE_SCALE)
                elif low_rank:
                    update = _scale_channels(parameter.grad, gradient, update, state)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])

    def _choose_directions(self, gradient: torch.Tensor, rank: int, index: int, steps_done: int) -> torch.Tensor:
        """[rank, shorter side]: orthonormal for GaLore, normal with variance 1 / rank for APOLLO."""
        wide = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
        if self.method == "galore":
            left, _, _ = torch.linalg.svd(wide.float(), full_matrices=False)
            return left[:, :rank].T.contiguous()
        seed = (self.seed * 1_000_003 + index) * 1_000_003 + steps_done
        generator = torch.Generator().manual_seed(seed % (1 << 63))
        directions = torch.randn(rank, wide.shape[0], generator=generator)
        return directions.to(gradient.device).div_(math.sqrt(rank))


def _project(gradient: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The gradient with its shorter side projected on the directions: [rank, n], or [n, rank]."""
    if gradient.shape[0] <= gradient.shape[1]:
        return directions @ gradient
    return gradient @ directions.T


def _project_back(update: torch.Tensor, shape: torch.Size, directions: torch.Tensor) -> torch.Tensor:
    """The reverse of `_project`, to a matrix of `shape`."""
    return directions.T @ update if shape[0] <= shape[1] else update @ directions


def _adam_update(
    gradient: torch.Tensor, state: dict[str, torch.Tensor], step: int, group: dict[str, Any]
) -> torch.Tensor:
    """Adam's update for a (projected) gradient (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1); `step`
    counts from 1.
    """
    beta1, beta2 = group["betas"]
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = state["exp_avg_sq"].sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    return (state["exp_avg"] / denominator).div_(1 - beta1**step)


def _scale_channels(
    gradient: torch.Tensor, projected: torch.Tensor, update: torch.Tensor, state: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The gradient, each channel of its longer side scaled as Adam scales its projection; its norm is at most
    `MAX_NORM_GROWTH` times that of the step before.
    """
    side = 0 if gradient.shape[0] <= gradient.shape[1] else 1
    scales = update.norm(dim=side, keepdim=True) / (projected.norm(dim=side, keepdim=True) + 1e-8)
    scaled = gradient * scales
    norm = scaled.norm()
    if "norm" in state:
        limit = MAX_NORM_GROWTH * state["norm"]
        factor = torch.where(norm > limit, limit / norm.clamp(min=1e-12), torch.ones_like(norm))
        scaled *= factor
        norm = norm * factor
    state["norm"] = norm
    return scaled
