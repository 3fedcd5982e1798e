"""The processes that train together: who they are, and what they add up.

Owns joining, leaving and sums over processes. Does not own which process holds which weights (`placement`).
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

BUCKET_NUMBERS = 1 << 25
"""Gradients are summed over processes in buckets of at most so many numbers."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together, as Accelerate found them: launched by torchrun, or one alone."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> Group:
        """Join the group. Raises RuntimeError when fewer processes have joined than were launched: each would train
        alone and write what the others write."""
        # without `cpu`, Accelerate takes no notice of torchrun where there is no accelerator
        patience = os.environ.get(GROUP_TIMEOUT)
        options = {"timeout": timedelta(seconds=float(patience))} if patience else {}
        state = PartialState(cpu=not torch.accelerator.is_available(), **options)
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != launched:
            raise RuntimeError(f"{launched} processes were launched, but the group has {state.num_processes}")
        return cls(state.process_index, state.num_processes, torch.device(state.device))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Part from the other processes, when the first has written what all have made."""
        if self.size > 1:
            self.wait()
            PartialState().destroy_process_group()

    def most(self, count: int) -> int:
        """The greatest count of all processes."""
        if self.size == 1:
            return count
        found = torch.tensor([count], device=self.device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return int(found)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for place, tensor in enumerate(tensors):
            bucket.append(tensor)
            if place + 1 == len(tensors) or sum(map(torch.numel, bucket)) > BUCKET_NUMBERS:
                flat = torch.cat([part.reshape(-1) for part in bucket])
                distributed.all_reduce(flat)
                for part, found in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                    part.copy_(found.view_as(part))
                bucket = []
