"""Which strategy of data parallelism a run uses: DDP, FSDP or DeepSpeed ZeRO."""

from __future__ import annotations

from hanlin.config.settings.train import Training
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.train.compute.model import TrainModel
from hanlin.train.distributed.base import Strategy
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.ddp import DDP


def open_strategy(model: TrainModel, settings: Training, dist: DistContext, context: StageContext) -> Strategy:
    """Put the model under the strategy that the stage was launched with (`launch.mode`).

    Args:
        model: The model to train; on the CPU unless the mode is `ddp`.
        settings: The optimizer's settings; `check_can_shard` has to have accepted them.
        dist: The processes that train together.
        context: The stage's mode and whether it offloads.

    Raises:
        UserError: DeepSpeed is asked for and not installed.
    """
    if context.mode == "ddp":
        return DDP(model, settings, dist)
    if context.mode == "fsdp":
        from hanlin.train.distributed.fsdp import FSDP

        return FSDP(model, settings, dist, context.offload)
    from hanlin.train.distributed.deepspeed import DeepSpeed  # an extra

    return DeepSpeed(model, settings, dist, context.mode, context.offload)


def check_can_shard(settings: Training, mode: str) -> None:
    """Raise UserError if the mode shards tensors and the settings need full ones in every process (a quantized base,
    or an optimizer other than AdamW).
    """
    quantization = None if settings.lora is None else settings.lora.quantization
    unfit = f"lora.quantization: {quantization}" if quantization else f"optimizer: {settings.optimizer}"
    if mode != "ddp" and (quantization or settings.optimizer != "adamw"):
        raise UserError(
            tr("{unfit} does not work with sharded weights", unfit=unfit),
            "launch.mode",
            tr("set launch.mode to ddp"),
        )
