"""Which form of data parallelism a run has: DDP, FSDP or DeepSpeed ZeRO."""

from __future__ import annotations

from hanlin.config.settings.train import Training
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.compute.model import Network
from hanlin.train.distributed.context import Group
from hanlin.train.distributed.ddp import Copies


def open_strategy(network: Network, settings: Training, group: Group, context: StageContext) -> Copies:
    """The form that the job was launched in (`refuse_undivided` comes before)."""
    if context.mode == "ddp":
        return Copies(network, settings, group)
    if context.mode == "fsdp":
        from hanlin.train.distributed.fsdp import Shards

        return Shards(network, settings, group, context.offload)
    from hanlin.train.distributed.deepspeed import Zero  # an extra

    return Zero(network, settings, group, context.mode, context.offload)


def refuse_undivided(settings: Training, mode: str) -> None:
    """Raise UserError where the settings ask for what needs whole tensors in every process, and the mode divides
    them."""
    packed = None if settings.lora is None else settings.lora.quantization
    unfit = f"lora.quantization: {packed}" if packed else f"optimizer: {settings.optimizer}"
    if mode != "ddp" and (packed or settings.optimizer != "adamw"):
        raise UserError(
            say(f"{unfit} cannot be divided among processes", f"{unfit} 无法拆分到多个进程"),
            "launch.mode",
            say("set launch.mode to ddp", "请将 launch.mode 设为 ddp"),
        )
