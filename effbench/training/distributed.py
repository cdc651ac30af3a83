"""Distributed training: the processes that `torchrun` starts, and the same interface for a single process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Its functions have the group of this moment as a default argument: imported later, by DistributedDataParallel, they
# would keep the group alive after its end.
import torch.distributed.nn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effbench.errors import EffbenchError


class DistributedContext:
    """A single process."""

    rank, world_size, local_rank, local_world_size = 0, 1, 0, 1

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and logs."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model whose backward pass averages gradients over the processes."""
        return model

    def gradients_at(self, last: bool, model: nn.Module) -> AbstractContextManager[Any]:
        """Exchange gradients only in the last micro-batch of a step: earlier ones add up on each rank."""
        # A wrapped model averages in its backward pass; a single process has nobody to exchange with.
        return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over the processes."""
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers to all ranks: their batch norms have seen different samples."""

    def any(self, flag: bool) -> bool:
        """Return True if the flag is True in any process."""
        return flag

    def barrier(self) -> None:
        """Wait for every process."""

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value in all processes."""
        return value


class ProcessGroup(DistributedContext):
    """Several processes, one model replica each (gloo on CPU, NCCL on CUDA)."""

    def __init__(self, device: torch.device):
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world_size)))
        self._device = device

    def wrap(self, model: nn.Module) -> nn.Module:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise EffbenchError("nothing to train: every parameter is frozen.")
        return DistributedDataParallel(model)

    def sum(self, values: Tensor) -> Tensor:
        total = values.to(self._device, copy=True)  # NCCL takes CUDA tensors only; all_reduce changes it in place
        dist.all_reduce(total)
        return total.to(values.device)

    def broadcast_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    def barrier(self) -> None:
        dist.barrier()

    def broadcast_object(self, value: Any) -> Any:
        box = [value]  # torch replaces the content of a list
        dist.broadcast_object_list(box, src=0)
        return box[0]


def environment_rank() -> int:
    """Return this process's rank as torchrun sets it; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def distributed_context(device: torch.device) -> Iterator[DistributedContext]:
    """Yield the process group of torchrun, which ends with the block; a single process otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:  # torchrun sets it
        yield DistributedContext()
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # Longer than torch's default (NCCL 10 minutes, gloo 30): the others wait while rank 0 decodes a folder or reads the
    # test split. A rank that dies is noticed at once, because its connection closes.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
    try:
        yield ProcessGroup(device)
    finally:
        dist.destroy_process_group()  # else a second run of this process could not set one up
        # The model refers to the group, in cycles. With the last reference gloo's threads end. One that still ran while
        # Python ends would abort the process (torch's pull request 179291).
        gc.collect()
