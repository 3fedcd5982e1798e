"""Averages and gradients in parts, and in its third stage weights too: DeepSpeed's ZeRO, with or without offloading.

Owns what DeepSpeed is told and asked (Rajbhandari et al. 2020, arXiv:1910.02054; Ren et al. 2021, arXiv:2101.06840).
Its own optimizers are compiled when they are first used and so are left alone: AdamW is torch's, wherever it runs.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.compute.model import Gathering, Network
from hanlin.train.compute.state import Keep
from hanlin.train.distributed.context import Group
from hanlin.train.distributed.ddp import Copies, reopened

AVERAGES = ("exp_avg", "exp_avg_sq")


class Zero(Copies):
    """DeepSpeed's engine around the network."""

    def __init__(self, network: Network, settings: Training, group: Group, mode: str, offload: bool) -> None:
        """Raises UserError where DeepSpeed is not installed."""
        self._library = library = _library(group.device)
        self._divides_weights = mode == "zero3"
        network.device = group.device
        super().__init__(network, settings, group)
        self._order = [parameter for part in self.optimizer.param_groups for parameter in part["params"]]
        self._settings_of_groups = self.optimizer.state_dict()["param_groups"]
        if self._divides_weights:
            # a block is brought together as one; embeddings, last norm and head are used inside the model's own call
            library.utils.set_z3_leaf_modules(network.model, list({type(layer) for layer in network.layers}))
            in_blocks = {id(parameter) for layer in network.layers for parameter in layer.parameters()}
            for parameter in network.model.parameters():
                if id(parameter) not in in_blocks:
                    library.zero.register_external_parameter(network.model, parameter)
        self._engine, self.optimizer, *_ = library.initialize(
            model=network.model,
            optimizer=self.optimizer,
            config=_config(mode, offload, settings.max_grad_norm),
            dist_init_required=False,
        )
        self._begin_averages()
        network.gather(Gathering(self._engine, self._backward, group.most))

    def _backward(self, total: torch.Tensor) -> None:
        self._engine.backward(total, scale_wrt_gas=False)

    def finish(self, sums: dict[str, float], weighs: str) -> float:
        """The same; DeepSpeed measures the length as it steps, so the step is done with it."""
        self._add_up(sums)
        # gradients are means over processes; divided by this they are those of the whole step's mean
        self.optimizer.override_loss_scale(sums[weighs] / self.group.size)
        self._engine.step()
        self.optimizer.override_loss_scale(1.0)
        return math.inf if self.optimizer.overflow else float(self._engine.get_global_grad_norm())

    def step(self) -> None:
        """It was done with `finish`."""

    def weights(self, keep: Keep) -> dict[str, Any]:
        get = self._library.utils.safe_get_full_fp32_param
        return {name: keep(f"weights {name}", get(value).detach()) for name, value in self.trained.items()}

    def averages(self, keep: Keep) -> dict[str, Any]:
        get = self._library.utils.safe_get_full_optimizer_state
        steps = next(iter(self.optimizer.optimizer.state.values()))["step"].cpu()
        state: dict[int, dict[str, Any]] = {}
        for place, parameter in enumerate(self._order):
            name = f"averages {place}"
            state[place] = {"step": keep(f"{name} step", steps)}
            for part in AVERAGES:
                state[place][part] = keep(f"{name} {part}", get(parameter, part))
        return {"state": state, "param_groups": self._settings_of_groups}

    def restore(self, averages: dict[str, Any]) -> None:
        states = averages["state"]
        for state in self.optimizer.optimizer.state.values():
            state["step"].fill_(float(states[0]["step"]))
        utilities = self._library.utils
        for place, parameter in enumerate(self._order):
            for part in AVERAGES:
                value = states[place][part].to(self.network.device)
                if not self._divides_weights:
                    utilities.safe_set_full_optimizer_state(parameter, value, part)
                    continue
                size = utilities.safe_get_local_optimizer_state(parameter, part).numel()
                padded = torch.nn.functional.pad(value.flatten(), (0, size * self.group.size - value.numel()))
                utilities.safe_set_local_optimizer_state(parameter, padded[size * self.group.rank :][:size], part)

    def _begin_averages(self) -> None:
        """Let the optimizer's state be there before its first step, so that it can be asked for and set."""
        parts = "fp32_partitioned_groups_flat" if self._divides_weights else "single_partition_of_fp32_groups"
        for flat in getattr(self.optimizer, parts):
            state = {part: torch.zeros_like(flat) for part in AVERAGES}
            self.optimizer.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **state}
        if not self._divides_weights:  # it does so itself after the first of several groups, too early for the others
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def whole(self, opened: Callable[[], Network]) -> Network:
        return reopened(self, opened)


def _library(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        library: Any = importlib.import_module("deepspeed")
    except ImportError as error:
        hint = say("pip install 'hanlin[deepspeed]'", "请安装：pip install 'hanlin[deepspeed]'")
        raise UserError(say("DeepSpeed is not installed", "未安装 DeepSpeed"), "launch.mode", hint) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # it calls collectives by names that torch deprecates, thousands of times
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    # what it may compile when it is first used: nothing, since there need be no compiler
    library.ops.__compatible_ops__ = dict.fromkeys(library.ops.__compatible_ops__, False)
    return library


def _config(mode: str, offload: bool, max_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration. Number formats are not its business: trained weights are float32 (`network`)."""
    stage: dict[str, Any] = {"stage": int(mode.removeprefix("zero"))}
    if offload:
        stage["offload_optimizer"] = {"device": "cpu"}
        if stage["stage"] == 3:
            stage["offload_param"] = {"device": "cpu"}
    if stage["stage"] == 3:
        stage["stage3_param_persistence_threshold"] = 0  # a block's small tensors come with its matrices
    return {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,  # a step is what the loop says it is
        "gradient_clipping": max_norm,
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
    }
