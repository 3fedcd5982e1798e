"""AdamW for whole matrices with averages of low rank: GaLore and APOLLO, for full training in the memory of an adapter.

Owns the two rules of a step. Its state is tensors alone, so that a checkpoint holds all of it and a resumed run goes on
to the same bytes. Does not own which weights take part (`optimizer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

Method = Literal["galore", "apollo"]
GALORE_SCALE = 0.25
"""How much of a projected step is taken (alpha in algorithm 2 of GaLore; its authors' choice)."""
GROWTH = 1.01
"""By how much a scaled gradient may be longer than the one before (APOLLO, section 3.3, after Chen et al. 2024, Fira,
arXiv:2410.01623)."""


class LowRankAdamW(torch.optim.Optimizer):
    """AdamW whose two averages are those of each matrix's gradient seen through `rank` directions.

    `galore` (Zhao et al. 2024, arXiv:2403.03507, algorithm 2): the directions are the gradient's first singular
    vectors, and the step is carried back from them. `apollo` (Zhu et al. 2024, arXiv:2412.05270, algorithm 1): they are
    random, and say only by how much each channel of the gradient itself is scaled. Both choose new directions every
    `refresh` steps; the averages stay.

    Groups with `rank` None, and matrices that are no wider than `rank`, take plain AdamW steps (Loshchilov & Hutter
    2019, arXiv:1711.05101).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        method: Method,
        *,
        lr: float,
        betas: tuple[float, float],
        refresh: int,
        seed: int = 0,
        eps: float = 1e-8,
    ) -> None:
        self.method, self.refresh, self.seed = method, refresh, seed
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "rank": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                done = int(state["step"])
                rank = group["rank"]
                seen = parameter.grad
                projected = rank is not None and parameter.ndim == 2 and min(parameter.shape) > rank
                if projected:
                    if done % self.refresh == 0:
                        state["directions"] = self._directions(parameter.grad, rank, place, done)
                    seen = _seen(parameter.grad, state["directions"])
                state["step"] += 1
                update = _adam(seen, state, done + 1, group)
                if projected and self.method == "galore":
                    update = _back(update, parameter.shape, state["directions"]).mul_(GALORE_SCALE)
                elif projected:
                    update = _scaled(parameter.grad, seen, update, state)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])

    def _directions(self, gradient: torch.Tensor, rank: int, place: int, done: int) -> torch.Tensor:
        """[rank, shorter side]: orthonormal for GaLore, normal with variance 1 / rank for APOLLO."""
        wide = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
        if self.method == "galore":
            left, _, _ = torch.linalg.svd(wide.float(), full_matrices=False)
            return left[:, :rank].T.contiguous()
        source = torch.Generator().manual_seed((self.seed * 1_000_003 + place) * 1_000_003 + done)
        drawn = torch.randn(rank, wide.shape[0], generator=source)
        return drawn.to(gradient.device).div_(math.sqrt(rank))


def _seen(gradient: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The gradient through the directions of its shorter side."""
    if gradient.shape[0] <= gradient.shape[1]:
        return directions @ gradient
    return gradient @ directions.T


def _back(update: torch.Tensor, shape: torch.Size, directions: torch.Tensor) -> torch.Tensor:
    return directions.T @ update if shape[0] <= shape[1] else update @ directions


def _adam(seen: torch.Tensor, state: dict[str, torch.Tensor], step: int, group: dict[str, Any]) -> torch.Tensor:
    """Adam's step for what is seen of a gradient (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""
    first, second = group["betas"]
    if "average" not in state:
        state["average"], state["square"] = torch.zeros_like(seen), torch.zeros_like(seen)
    state["average"].lerp_(seen, 1 - first)
    state["square"].mul_(second).addcmul_(seen, seen, value=1 - second)
    length = state["square"].sqrt().div_(math.sqrt(1 - second**step)).add_(group["eps"])
    return (state["average"] / length).div_(1 - first**step)


def _scaled(
    gradient: torch.Tensor, seen: torch.Tensor, update: torch.Tensor, state: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The gradient, each channel of its longer side scaled as Adam scales what is seen of it; no longer than `GROWTH`
    times the one before."""
    side = 0 if gradient.shape[0] <= gradient.shape[1] else 1
    scales = update.norm(dim=side, keepdim=True) / (seen.norm(dim=side, keepdim=True) + 1e-8)
    scaled = gradient * scales
    length = scaled.norm()
    if "length" in state:
        allowed = GROWTH * state["length"]
        shorter = torch.where(length > allowed, allowed / length.clamp(min=1e-12), torch.ones_like(length))
        scaled *= shorter
        length = length * shorter
    state["length"] = length
    return scaled
