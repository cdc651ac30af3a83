"""Copy data to the device; on a GPU in parallel with the previous step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transfer:
    """Copies batches to `device`."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to_device(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the device; on a GPU the copy is asynchronous, from pinned memory."""
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    @contextmanager
    def side_stream(self) -> Iterator[torch.cuda.Stream | None]:
        """Run the GPU work of a `with` block in a side stream: copies and augmentation overlap with the previous step.

        Yields:
            The stream, whose `record_event` after the block marks the end of the work; None on a CPU.
        """
        stream = self._stream
        if stream is None:
            yield None
            return
        with torch.cuda.stream(stream):  # of this thread only
            yield stream

    @cached_property
    def _stream(self) -> torch.cuda.Stream | None:
        # created on first use, because it initialises CUDA; one stream for all batches keeps their copies in order
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
