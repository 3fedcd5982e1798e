"""Settings of `upcycle_experts`."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import tr


class UpcycleExperts(Settings):
    """Make a sparse model of experts (Mixtral's shape) from a dense one; it computes the same until it is trained."""

    model: str = ref("model", description="the dense model")
    experts: int = setting(
        8,
        "number of experts of each block, all of them copies of its feed-forward layer (sparse upcycling, Komatsuzaki "
        "et al. 2023, arXiv:2212.05055)",
        ge=2,
        le=256,
    )
    experts_per_token: int = setting(2, "number of experts that compute each token", ge=1)
    router_range: float = setting(
        0.02,
        "standard deviation of the router's random weights, which are drawn with the seed: they are what makes the "
        "experts learn different things",
        gt=0,
        le=1,
    )
    router_aux_loss_coef: float = setting(
        0.02,
        "weight of the loss that keeps the experts evenly busy, written into config.json for the training that follows",
        ge=0,
    )

    @model_validator(mode="after")
    def _check_experts_per_token(self) -> Self:
        if self.experts_per_token > self.experts:
            raise ValueError(tr("experts_per_token must not exceed experts"))
        return self
