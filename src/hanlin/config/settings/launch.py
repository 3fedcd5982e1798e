"""How stages are launched: processes, machines, and how a process group shards a model.

None of it affects a key: results differ in rounding only, as they do between two processors.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, setting
from hanlin.core.i18n import say

Mode = Literal["ddp", "fsdp", "zero2", "zero3"]
GROUP_TIMEOUT = "HANLIN_GROUP_TIMEOUT"
"""The environment variable that passes `timeout` to the processes of a group."""


class Launch(Settings):
    """How stages are launched; never part of a key."""

    processes: int = setting(
        1,
        "training processes on each machine, started by torchrun",
        "每台机器上由 torchrun 启动的训练进程数",
        affects_key=False,
        ge=1,
    )
    mode: Mode = setting(
        "ddp",
        "how the model is divided among processes: ddp: not at all; fsdp: weights, gradients and optimizer state are "
        "sharded (FSDP2); zero2: gradients and optimizer state; zero3: all three (DeepSpeed, "
        "`pip install hanlin[deepspeed]`)",
        "模型如何在进程间切分：ddp 不切分；fsdp 切分权重、梯度与优化器状态（FSDP2）；zero2 切分梯度与优化器状态；"
        "zero3 三者都切分（DeepSpeed，需 pip install hanlin[deepspeed]）",
        affects_key=False,
    )
    offload: bool = setting(
        False,
        "keep the sharded part in main memory and run the optimizer on the CPU",
        "把切分的部分放在主存中，优化器也在 CPU 上运行",
        affects_key=False,
    )
    nodes: int = setting(
        1,
        "number of machines; each runs the same command with its own `node_rank`, on a shared folder",
        "机器数；各机器以各自的 node_rank 运行同一条命令，并共享同一个文件夹",
        affects_key=False,
        ge=1,
    )
    node_rank: int = setting(
        0,
        "number of this machine, from 0; machine 0 also runs the other stages while the rest wait",
        "本机的编号，从 0 起；训练以外的阶段由 0 号机运行，其余机器等待",
        affects_key=False,
        ge=0,
    )
    rendezvous: str | None = setting(
        None,
        "host:port on machine 0 where the machines meet",
        "各机器会合的地址，即 0 号机的 主机:端口",
        affects_key=False,
        pattern=r"^([^:\s]+|\[[0-9a-fA-F:]+\]):[0-9]+$",
    )
    timeout: float = setting(
        600.0,
        "seconds that a process waits for the others before it considers them lost",
        "进程等待其他进程的秒数，超时即视为失联",
        affects_key=False,
        gt=0,
    )
    threads: int | None = setting(
        None,
        "CPU threads of a stage; none: all. A model of a few million parameters is as fast with one",
        "每个阶段使用的 CPU 线程数；不填则全部使用。几百万参数的模型用一个线程同样快",
        affects_key=False,
        ge=1,
    )
    ray: str | None = setting(
        None,
        "an existing Ray cluster that the data stages run on: its address, or `auto` on one of its machines; none: the "
        "cores of this machine",
        "运行数据阶段的现有 Ray 集群：填其地址，在集群内的机器上可填 auto；不填则使用本机的核",
        affects_key=False,
    )

    @property
    def grouped(self) -> bool:
        """Whether training stages run as a torchrun group."""
        return self.processes * self.nodes > 1 or self.mode != "ddp"

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(say("several nodes need a rendezvous", "多台机器须设置 rendezvous"))
        if self.node_rank >= self.nodes:
            raise ValueError(say("node_rank must be from 0 to nodes - 1", "node_rank 须在 0 与 nodes - 1 之间"))
        if self.offload and self.mode == "ddp":
            raise ValueError(say("ddp shards nothing that could be offloaded", "ddp 不切分模型，没有可卸载的部分"))
        return self
