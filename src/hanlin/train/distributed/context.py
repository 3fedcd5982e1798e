"""The processes that train together: rank, world size, device, barriers and all-reduces.

Which process holds which weights is the strategy's business (`ddp`, `fsdp`, `deepspeed`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import distributed

from hanlin.config.settings.launch import GROUP_TIMEOUT

BUCKET_ELEMENTS = 1 << 25
"""Gradients are all-reduced in buckets of at most so many elements."""


@dataclass(frozen=True, slots=True)
class DistContext:
    """This process among those that train together, as Accelerate found them: started by torchrun, or a single one."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def initialize(cls) -> DistContext:
        """Join the process group that torchrun started, if it did.

        Raises:
            RuntimeError: Fewer processes have joined than were started: each would train alone and write what the
                others write.
        """
        # without `cpu`, Accelerate ignores torchrun if there is no accelerator
        timeout = os.environ.get(GROUP_TIMEOUT)
        options = {"timeout": timedelta(seconds=float(timeout))} if timeout else {}
        state = PartialState(cpu=not torch.accelerator.is_available(), **options)
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != launched:
            raise RuntimeError(f"{launched} processes were launched, but the group has {state.num_processes}")
        return cls(state.process_index, state.num_processes, torch.device(state.device))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports progress: rank 0."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.world_size > 1:
            distributed.barrier()

    def shutdown(self) -> None:
        """Wait for all processes, then leave the process group."""
        if self.world_size > 1:
            self.barrier()
            PartialState().destroy_process_group()

    def all_reduce_max(self, count: int) -> int:
        """The greatest `count` of all processes."""
        if self.world_size == 1:
            return count
        value = torch.tensor([count], device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return int(value)

    def all_reduce_sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place."""
        if self.world_size == 1:
            return
        bucket: list[torch.Tensor] = []
        for index, tensor in enumerate(tensors):
            bucket.append(tensor)
            if index + 1 == len(tensors) or sum(map(torch.numel, bucket)) > BUCKET_ELEMENTS:
                flat = torch.cat([part.reshape(-1) for part in bucket])
                distributed.all_reduce(flat)
                for part, reduced in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                    part.copy_(reduced.view_as(part))
                bucket = []
