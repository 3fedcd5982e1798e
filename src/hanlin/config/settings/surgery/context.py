"""Settings of `extend_context`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import tr

ContextMethod = Literal["yarn", "linear", "dynamic", "llama3", "theta"]
_SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "rope_theta": ("theta",),
    "factor": ("yarn", "linear", "dynamic", "llama3"),
    "beta_fast": ("yarn",),
    "beta_slow": ("yarn",),
    "low_freq_factor": ("llama3",),
    "high_freq_factor": ("llama3",),
}


class ExtendContext(Settings):
    """Extend a model's context by scaling its rotary position embeddings; weights stay as they are."""

    model: str = ref("model", description="the model whose context is extended")
    context_length: int = setting(..., "context length of the new model in tokens", ge=16)
    method: ContextMethod = setting(
        "yarn",
        "how rotary positions are scaled: yarn (Peng et al. 2023, arXiv:2309.00071); linear (position interpolation, "
        "Chen et al. 2023, arXiv:2306.15595); dynamic (NTK-aware, changes nothing up to the old length, for use "
        "without training); llama3 (as in Llama 3.1); theta (a larger base)",
    )
    factor: float | None = setting(
        None,
        "by how much positions are scaled; none: context_length divided by the length that the model was trained for",
        gt=1,
        unless_default=True,
    )
    rope_theta: float | None = setting(
        None,
        "for `theta`: the new base; none: the NTK-aware one, the old base times ratio^(d/(d-2)), where ratio is that "
        "of the lengths and d the width of a head",
        gt=1,
        le=1e12,
        unless_default=True,
    )
    beta_fast: float = setting(
        32.0,
        "for `yarn`: dimensions with more rotations than this over the old length are not scaled",
        gt=0,
        unless_default=True,
    )
    beta_slow: float = setting(
        1.0,
        "for `yarn`: dimensions with fewer rotations than this over the old length are scaled in full",
        gt=0,
        unless_default=True,
    )
    low_freq_factor: float = setting(
        1.0,
        "for `llama3`: frequencies with fewer rotations than this over the old length are scaled in full",
        gt=0,
        unless_default=True,
    )
    high_freq_factor: float = setting(
        4.0,
        "for `llama3`: frequencies with more rotations than this over the old length are not scaled",
        gt=0,
        unless_default=True,
    )

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        for name, methods in _SETTINGS_OF.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.method not in methods:
                raise ValueError(
                    tr("{name} is a setting of {methods}, not of {method}", name=name, methods=", ".join(methods),
                       method=self.method)
                )  # fmt: skip
        if self.beta_slow >= self.beta_fast:
            raise ValueError(tr("beta_slow must be less than beta_fast"))
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(tr("low_freq_factor must be less than high_freq_factor"))
        return self
