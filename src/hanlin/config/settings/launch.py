"""How stages are launched: processes, machines, and how a process group shards a model.

None of it affects a key: results differ in rounding only, as they do between two processors.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, setting
from hanlin.core.i18n import tr

Mode = Literal["ddp", "fsdp", "zero2", "zero3"]
GROUP_TIMEOUT = "HANLIN_GROUP_TIMEOUT"
"""The environment variable that passes `timeout` to the processes of a group."""

_ADDRESS = r"^(https?://[^\s@?#]+)?$"


class Launch(Settings):
    """How stages are launched; never part of a key."""

    processes: int = setting(
        1,
        "training processes on each machine, started by torchrun",
        affects_key=False,
        ge=1,
    )
    mode: Mode = setting(
        "ddp",
        "how the model is divided among processes: ddp: not at all; fsdp: weights, gradients and optimizer state are "
        "sharded (FSDP2); zero2: gradients and optimizer state; zero3: all three (DeepSpeed, "
        "`pip install hanlin[deepspeed]`)",
        affects_key=False,
    )
    offload: bool = setting(
        False,
        "keep the sharded part in main memory and run the optimizer on the CPU",
        affects_key=False,
    )
    nodes: int = setting(
        1,
        "number of machines; each runs the same command with its own `node_rank`, on a shared folder",
        affects_key=False,
        ge=1,
    )
    node_rank: int = setting(
        0,
        "number of this machine, from 0; machine 0 also runs the other stages while the rest wait",
        affects_key=False,
        ge=0,
    )
    rendezvous: str | None = setting(
        None,
        "host:port on machine 0 where the machines meet",
        affects_key=False,
        pattern=r"^([^:\s]+|\[[0-9a-fA-F:]+\]):[0-9]+$",
    )
    timeout: float = setting(
        600.0,
        "seconds that a process waits for the others before it considers them lost",
        affects_key=False,
        gt=0,
    )
    threads: int | None = setting(
        None,
        "CPU threads of a stage; none: all. A model of a few million parameters is as fast with one",
        affects_key=False,
        ge=1,
    )
    ray: str | None = setting(
        None,
        "an existing Ray cluster that the data stages run on: its address, or `auto` on one of its machines; none: the "
        "cores of this machine",
        affects_key=False,
    )

    hf_endpoint: str = setting(
        "",
        "address of a mirror of Hugging Face that `hf:` names are fetched from; empty: that of `HF_ENDPOINT`, else "
        "huggingface.co. Without `HF_ENDPOINT` it gets no token",
        affects_key=False,
        pattern=_ADDRESS,
    )
    ms_endpoint: str = setting(
        "",
        "address that `ms:` names are fetched from; empty: that of `MODELSCOPE_ENDPOINT`, else modelscope.cn. Without "
        "`MODELSCOPE_ENDPOINT` it gets no token",
        affects_key=False,
        pattern=_ADDRESS,
    )

    @property
    def endpoints(self) -> dict[str, str]:
        """The addresses of the hubs, by hub; empty if the recipe names none."""
        return {"hf": self.hf_endpoint, "ms": self.ms_endpoint}

    @property
    def grouped(self) -> bool:
        """Whether training stages run as a torchrun group."""
        return self.processes * self.nodes > 1 or self.mode != "ddp"

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(tr("several nodes need a rendezvous"))
        if self.node_rank >= self.nodes:
            raise ValueError(tr("node_rank must be from 0 to nodes - 1"))
        if self.offload and self.mode == "ddp":
            raise ValueError(tr("ddp shards nothing that could be offloaded"))
        return self
