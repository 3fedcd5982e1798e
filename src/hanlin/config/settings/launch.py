"""How stages are started: on how many processes and machines, and how a group divides a model among itself.

Nothing of it is in a key: what comes out differs in rounding only, as it does between two processors.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, setting
from hanlin.core.i18n import say

Mode = Literal["ddp", "fsdp", "zero2", "zero3"]
GROUP_TIMEOUT = "HANLIN_GROUP_TIMEOUT"
"""The environment variable that tells the processes of a group `timeout`."""


class Launch(Settings):
    """How stages are started; never part of a key."""

    processes: int = setting(
        1,
        "processes of one group on each machine (torchrun) for the training kinds",
        "训练类阶段在每台机器上启动的进程数（torchrun）",
        affects_key=False,
        ge=1,
    )
    mode: Mode = setting(
        "ddp",
        "what each process of a group holds: ddp: everything; fsdp: a part of weights, gradients and averages "
        "(FSDP2); zero2: everything but its part of gradients and averages; zero3: a part of all (DeepSpeed, "
        "`pip install hanlin[deepspeed]`)",
        "组内每个进程持有什么：ddp 为全部；fsdp 为权重、梯度与滑动平均的一部分（FSDP2）；zero2 只拆分梯度与滑动平均；"
        "zero3 全部拆分（DeepSpeed，须 pip install hanlin[deepspeed]）",
        affects_key=False,
    )
    offload: bool = setting(
        False,
        "what a process holds only a part of lies in the processor's memory, and the optimizer works there",
        "拆分的部分放在内存中，优化器也在处理器上运行",
        affects_key=False,
    )
    nodes: int = setting(
        1,
        "machines of a group; each runs the same command with its own `node_rank`, over one shared folder",
        "一组的机器数；各机器以各自的 node_rank 运行同一命令，并共用一个文件夹",
        affects_key=False,
        ge=1,
    )
    node_rank: int = setting(
        0,
        "which of the machines this is; 0 makes the stages that are no training, and the others wait for them",
        "本机是第几台；0 号机负责训练以外的阶段，其余等待",
        affects_key=False,
        ge=0,
    )
    rendezvous: str | None = setting(
        None,
        "host:port of machine 0 at which the machines of a group meet",
        "各机器会合之处：0 号机的 主机:端口",
        affects_key=False,
        pattern=r"^([^:\s]+|\[[0-9a-fA-F:]+\]):[0-9]+$",
    )
    timeout: float = setting(
        600.0,
        "seconds that a process waits for the others before it takes them for lost",
        "进程等待其他进程的秒数，超过即视为失联",
        affects_key=False,
        gt=0,
    )
    threads: int | None = setting(
        None,
        "processor threads of a stage; none: all. A model of a few million parameters is as fast with one",
        "每个阶段的处理器线程数；不填则全部。几百万参数的模型用一个线程同样快",
        affects_key=False,
        ge=1,
    )
    ray: str | None = setting(
        None,
        "an existing Ray cluster for the stages that read data: its address, or `auto` on one of its machines; none: "
        "the cores of this machine",
        "供数据阶段使用的现有 Ray 集群：其地址，或在集群机器上写 auto；不填则用本机的核",
        affects_key=False,
    )

    @property
    def grouped(self) -> bool:
        """Whether training stages are started through torchrun."""
        return self.processes * self.nodes > 1 or self.mode != "ddp"

    @model_validator(mode="after")
    def _machines_meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(say("several nodes need a rendezvous", "多台机器须设 rendezvous"))
        if self.node_rank >= self.nodes:
            raise ValueError(say("node_rank is counted from 0, up to nodes - 1", "node_rank 从 0 计，至多为 nodes - 1"))
        if self.offload and self.mode == "ddp":
            raise ValueError(say("ddp divides nothing that could be offloaded", "ddp 没有可卸载的部分"))
        return self
