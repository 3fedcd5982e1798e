"""Sharded optimizer state and gradients, and in stage 3 weights too: DeepSpeed's ZeRO, with or without offloading.

Source: Rajbhandari et al. 2020, arXiv:1910.02054; Ren et al. 2021, arXiv:2101.06840. DeepSpeed's own optimizers are
compiled when they are first used, so they are not used: AdamW is torch's, wherever it runs.
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
from hanlin.core.i18n import tr
from hanlin.train.compute.model import ShardedCalls, TrainModel
from hanlin.train.compute.state import CopyTensor
from hanlin.train.distributed.base import Strategy, gather_full_model
from hanlin.train.distributed.context import DistContext

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The two tensors that AdamW keeps for each parameter."""


class DeepSpeed(Strategy):
    """DeepSpeed's engine around the model."""

    def __init__(self, model: TrainModel, settings: Training, dist: DistContext, mode: str, offload: bool) -> None:
        """Initialize DeepSpeed.

        Args:
            model: The model to train, on the CPU.
            settings: The optimizer's settings.
            dist: The processes that train together.
            mode: `zero2` or `zero3`; the latter shards weights too.
            offload: Whether optimizer state (and in stage 3 weights) stay in CPU memory.

        Raises:
            UserError: DeepSpeed is not installed.
        """
        self._library = library = _import_deepspeed(dist.device)
        self._shards_weights = mode == "zero3"
        model.device = dist.device
        super().__init__(model, settings, dist)
        self._parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._param_groups = self.optimizer.state_dict()["param_groups"]
        if self._shards_weights:
            # a block is gathered as one; embeddings, last norm and head are used inside the model's own call
            library.utils.set_z3_leaf_modules(model.hf_model, list({type(layer) for layer in model.layers}))
            in_blocks = {id(parameter) for layer in model.layers for parameter in layer.parameters()}
            for parameter in model.hf_model.parameters():
                if id(parameter) not in in_blocks:
                    library.zero.register_external_parameter(model.hf_model, parameter)
        self._engine, self.optimizer, *_ = library.initialize(
            model=model.hf_model,
            optimizer=self.optimizer,
            config=_config(mode, offload, settings.max_grad_norm),
            dist_init_required=False,
        )
        self._create_optimizer_state()
        model.shard(ShardedCalls(self._engine, self._backward, dist.all_reduce_max))

    def _backward(self, total: torch.Tensor) -> None:
        self._engine.backward(total, scale_wrt_gas=False)

    def _reduce_gradients(self, gradients: list[torch.Tensor]) -> None:
        """The engine reduces them."""

    def reduce_and_clip_grads(self, sums: dict[str, float], weight_name: str) -> float:
        """As in `Strategy`, and the step is done as well: DeepSpeed computes the norm while it steps."""
        self._reduce_sums(sums)
        # gradients are means over processes; divided by this they are those of the whole step's mean
        self.optimizer.override_loss_scale(sums[weight_name] / self.dist.world_size)
        self._engine.step()
        self.optimizer.override_loss_scale(1.0)
        return math.inf if self.optimizer.overflow else float(self._engine.get_global_grad_norm())

    def step(self) -> None:
        """`reduce_and_clip_grads` has done it."""

    def weights(self, copy: CopyTensor) -> dict[str, Any]:
        get = self._library.utils.safe_get_full_fp32_param
        return {name: copy(f"weights {name}", get(value).detach()) for name, value in self.trainable.items()}

    def optimizer_state(self, copy: CopyTensor) -> dict[str, Any]:
        get = self._library.utils.safe_get_full_optimizer_state
        steps = next(iter(self.optimizer.optimizer.state.values()))["step"].cpu()
        state: dict[int, dict[str, Any]] = {}
        for index, parameter in enumerate(self._parameters):
            name = f"optimizer {index}"
            state[index] = {"step": copy(f"{name} step", steps)}
            for moment in MOMENTS:
                state[index][moment] = copy(f"{name} {moment}", get(parameter, moment))
        return {"state": state, "param_groups": self._param_groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        saved = state["state"]
        for tensors in self.optimizer.optimizer.state.values():
            tensors["step"].fill_(float(saved[0]["step"]))
        utilities = self._library.utils
        for index, parameter in enumerate(self._parameters):
            for moment in MOMENTS:
                value = saved[index][moment].to(self.model.device)
                if not self._shards_weights:
                    utilities.safe_set_full_optimizer_state(parameter, value, moment)
                    continue
                size = utilities.safe_get_local_optimizer_state(parameter, moment).numel()
                padded = torch.nn.functional.pad(value.flatten(), (0, size * self.dist.world_size - value.numel()))
                utilities.safe_set_local_optimizer_state(parameter, padded[size * self.dist.rank :][:size], moment)

    def _create_optimizer_state(self) -> None:
        """Create the optimizer's state before its first step, so that it can be read and set."""
        attribute = "fp32_partitioned_groups_flat" if self._shards_weights else "single_partition_of_fp32_groups"
        for flat in getattr(self.optimizer, attribute):
            moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
            self.optimizer.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        if not self._shards_weights:  # it does so itself after the first of several groups, too early for the others
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def full_model(self, load: Callable[[], TrainModel]) -> TrainModel:
        return gather_full_model(self, load)


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        library: Any = importlib.import_module("deepspeed")
    except ImportError as error:
        hint = tr("pip install 'hanlin[deepspeed]'")
        raise UserError(tr("DeepSpeed is not installed"), "launch.mode", hint) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # it calls collectives by names that torch deprecates, thousands of times
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    # it may compile nothing when it is first used: there need be no compiler
    library.ops.__compatible_ops__ = dict.fromkeys(library.ops.__compatible_ops__, False)
    return library


def _config(mode: str, offload: bool, max_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration. It sets no dtype: trained weights are float32 (`TrainModel`)."""
    stage: dict[str, Any] = {"stage": int(mode.removeprefix("zero"))}
    if offload:
        stage["offload_optimizer"] = {"device": "cpu"}
        if stage["stage"] == 3:
            stage["offload_param"] = {"device": "cpu"}
    if stage["stage"] == 3:
        stage["stage3_param_persistence_threshold"] = 0  # a block's small tensors come with its matrices
    return {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,  # the trainer decides when a step is done
        "gradient_clipping": max_norm,
        "zero_optimization": stage,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
    }
