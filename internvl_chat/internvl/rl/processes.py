"""What the processes of a run do together: the first one talks to the servers, all of them train."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import Accelerator

PATIENCE = timedelta(days=7)  # the others wait while the first draws, or waits for a judge that is out of reach
T = TypeVar("T")


class Processes:
    """rank: this process's number; count: of all."""

    def __init__(self, accelerator: Accelerator):
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        # Waiting in NCCL keeps a GPU busy, and the policy's server may be drawing on that very GPU.
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None

    def first_does(self, work: Callable[[], T]) -> T:
        """work()'s result, computed by the first process alone, on every process; what it raises is raised on all."""
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [work()]
            except Exception as error:
                outcome = [error]
        if self.group:
            dist.broadcast_object_list(outcome, src=0, group=self.group)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, on every process."""
        if not self.group:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values
