"""Settings of the stage `fuse_models`: which models are fused, by which method, with which weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import MAX_WEIGHT, Settings, ref, setting
from hanlin.core.i18n import join_list, tr

FuseMethod = Literal[
    "linear",
    "slerp",
    "model_stock",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
]
Gradient = float | tuple[float, ...]
"""A number, or numbers from the first block to the last, between which the values of the blocks are interpolated."""


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """What a method of fusion does with the changes of its models.

    Attributes:
        pruning: Which entries of a change are kept: all, those of largest magnitude, random ones, random ones by their
            rank, or those of medium magnitude.
        elects_sign: Whether only changes with the elected sign of an entry count.
        normalize: Whether the sum is divided by the weights, unless a setting says otherwise.
        needs_base: Whether it needs the model that the others were trained from.
    """

    pruning: Literal["none", "magnitude", "random", "rank", "medium"] = "none"
    elects_sign: bool = False
    normalize: bool = False
    needs_base: bool = True


METHODS: dict[FuseMethod, MethodFacts] = {
    "linear": MethodFacts(normalize=True, needs_base=False),
    "slerp": MethodFacts(normalize=True, needs_base=False),
    "model_stock": MethodFacts(),
    "task_arithmetic": MethodFacts(),
    "ties": MethodFacts("magnitude", elects_sign=True, normalize=True),
    "dare_linear": MethodFacts("random"),
    "dare_ties": MethodFacts("random", elects_sign=True),
    "della": MethodFacts("rank", elects_sign=True, normalize=True),
    "della_linear": MethodFacts("rank"),
    "breadcrumbs": MethodFacts("medium"),
    "breadcrumbs_ties": MethodFacts("medium", elects_sign=True),
}


class FuseRule(Settings):
    """Other weights for some tensors of a model; the first rule of a model that fits a tensor counts."""

    tensors: str = setting("*", "pattern of the names, such as `*.mlp.*` or `*q_proj*`", min_length=1)
    layers: tuple[int, int] | None = setting(
        None,
        "first and last block, counted from 0; none: all blocks, and what is outside of them",
    )
    weight: Gradient | None = setting(None, "weight there; none: that of the model")
    density: Gradient | None = setting(None, "density there; none: that of the model")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.weight is None and self.density is None:
            raise ValueError(tr("a rule needs weight or density"))
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(tr("layers must be the first and the last block, counted from 0"))
        return self


class FusedModel(Settings):
    """One of the models that are fused."""

    model: str = ref("model", description="the model")
    weight: Gradient = setting(
        1.0,
        "its weight: a number, or numbers from the first block to the last, interpolated for the blocks between; what "
        "is outside of the blocks (embeddings, final norm, output head) has the first number, as in mergekit",
    )
    density: Gradient | None = setting(
        None, "fraction of its change that is kept; none: the density of the stage", unless_default=True
    )
    rules: tuple[FuseRule, ...] = setting((), "other weights for some of its tensors", unless_default=True)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    def weights(self) -> Iterator[Gradient]:
        """Its weight and those of its rules."""
        yield self.weight
        yield from (rule.weight for rule in self.rules if rule.weight is not None)


class FuseModels(Settings):
    """Fuse models of one shape and tokenizer into one by averaging their weights or their changes of a base."""

    method: FuseMethod = setting(
        "linear",
        "how the weights are fused. linear: their average; slerp: two models along the arc between them; of the others "
        "the changes of a base are added. task_arithmetic: as they are (Ilharco et al. 2022, arXiv:2212.04089); ties: "
        "the largest of each model, with one sign per entry (arXiv:2306.01708); dare_linear, dare_ties: random ones "
        "(arXiv:2311.03099); della, della_linear: random ones, large ones rather than small ones (arXiv:2406.11617); "
        "breadcrumbs, breadcrumbs_ties: neither the largest nor the smallest (arXiv:2312.06795); model_stock: their "
        "average, moved towards the base by the angle between them (arXiv:2403.19522)",
    )
    models: tuple[FusedModel, ...] = setting(..., "the models to fuse", min_length=1)
    base: str | None = ref(
        "model", default=None, description="the model that the others were trained from; linear and slerp take none"
    )
    density: float | None = setting(
        None, "fraction of each model's change that is kept, for methods that drop some", gt=0, le=1
    )
    scale: float | None = setting(
        None, "factor on the sum of the changes (λ of the papers); none: 1", unless_default=True
    )
    normalize: bool | None = setting(
        None,
        "divide by the sum of the weights; none: yes for linear, ties and della",
        unless_default=True,
    )
    rescale: Literal["probability", "l1", "none"] | None = setting(
        None,
        "what makes up for dropped entries: probability: divide by the probability to be kept, so that the expected "
        "change is the same; l1: give what is kept the sum of magnitudes that all had, as mergekit does; none: "
        "nothing. Without a value: probability for dare and della, nothing for others",
        unless_default=True,
    )
    gamma: float | None = setting(
        None, "fraction of the largest entries that breadcrumbs drops; none: 0.01", ge=0, lt=1, unless_default=True
    )
    epsilon: float | None = setting(
        None,
        "della keeps the smallest entry of a row with probability density - epsilon, the largest with density + "
        "epsilon; none: 0.15",
        ge=0,
        lt=0.5,
        unless_default=True,
    )
    dtype: Literal["base", "float32", "bfloat16", "float16"] = setting(
        "base", "number format of the fused weights; base: that of the base, or of the first model"
    )

    @model_validator(mode="after")
    def _fit_the_method(self) -> Self:
        facts = METHODS[self.method]
        is_random = facts.pruning in ("random", "rank")
        if facts.needs_base and self.base is None:
            raise ValueError(tr("{method} needs base, the model that the others were trained from", method=self.method))
        unused = {
            "base": self.base is not None and not facts.needs_base,
            "density": facts.pruning == "none" and any(value is not None for value in self._densities()),
            "weight": self.method == "model_stock" and any(model.weight != 1.0 or model.rules for model in self.models),
            "scale": self.scale is not None and not self.adds_changes,
            "normalize": self.normalize is not None and self.method in ("slerp", "model_stock"),
            "rescale": self.rescale is not None and facts.pruning == "none",
            "gamma": self.gamma is not None and facts.pruning != "medium",
            "epsilon": self.epsilon is not None and facts.pruning != "rank",
        }
        if names := [name for name, is_unused in unused.items() if is_unused]:
            raise ValueError(tr("{method} does not use {names}", method=self.method, names=join_list(names)))
        if self.rescale == "probability" and not is_random:
            raise ValueError(tr("rescale: probability is for methods that drop at random (dare, della)"))
        if self.method == "slerp" and len(self.models) != 2:
            raise ValueError(tr("slerp takes two models"))
        if self.method in ("linear", "model_stock") and len(self.models) < 2:
            raise ValueError(tr("{method} takes two models or more", method=self.method))
        self._check_numbers()
        return self

    def _densities(self) -> Iterable[Gradient | None]:
        yield self.density
        for model in self.models:
            yield model.density
            yield from (rule.density for rule in model.rules)

    def _check_numbers(self) -> None:
        weights = [weight for model in self.models for weight in model.weights()]
        densities = list(self._densities())
        for values in (*weights, *densities):
            if isinstance(values, tuple) and not values:
                raise ValueError(tr("a list of weights or densities is empty"))
        factors = [*(number for values in weights for number in anchors(values)), *anchors(self.scale)]
        if any(abs(factor) > MAX_WEIGHT for factor in factors):
            raise ValueError(tr("weights and scale must be between -{limit:g} and {limit:g}", limit=MAX_WEIGHT))
        if not any(number for values in weights for number in anchors(values)):
            raise ValueError(tr("with weights of 0 alone no model counts"))
        if self.scale == 0:
            raise ValueError(tr("with scale 0 the fused model is the base"))
        numbers = [number for values in densities for number in anchors(values)]
        if not all(0 < number <= 1 for number in numbers):
            raise ValueError(tr("a density is above 0 and at most 1"))
        if METHODS[self.method].pruning != "none" and None in [
            self.density if model.density is None else model.density for model in self.models
        ]:
            raise ValueError(tr("{method} needs density, such as 0.5", method=self.method))
        if METHODS[self.method].pruning == "rank":
            window = 0.15 if self.epsilon is None else self.epsilon
            if not all(number - window > 0 and number + window < 1 for number in numbers if number < 1):
                raise ValueError(tr("density - epsilon must be above 0, and density + epsilon below 1"))
        if self.method == "slerp" and any(number < 0 for values in weights for number in anchors(values)):
            raise ValueError(tr("a weight of slerp is 0 or more"))

    @property
    def adds_changes(self) -> bool:
        """Whether the method adds changes of a base, each with a weight."""
        return METHODS[self.method].needs_base and self.method != "model_stock"

    @property
    def normalize_weights(self) -> bool:
        """Whether sums are divided by the weights."""
        return METHODS[self.method].normalize if self.normalize is None else self.normalize


def anchors(values: Gradient | None) -> tuple[float, ...]:
    """The numbers of a gradient; none of None."""
    if values is None:
        return ()
    return values if isinstance(values, tuple) else (values,)
