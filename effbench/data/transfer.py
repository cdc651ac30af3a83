"""Copy data to the device; on a GPU in parallel with the previous step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


@dataclass(frozen=True)
class Transfer:
    """Copies batches to `device`."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to_device(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the device; on a GPU the copy is asynchronous, from pinned memory."""
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def on_side_stream(self, make: Callable[[], Made]) -> tuple[Made, torch.cuda.Event | None]:
        """Call `make`, on a GPU in a side stream, so that copies and augmentation overlap with the previous step.

        Returns:
            (result, CUDA event recorded when it is complete); the event is None on a CPU.
        """
        stream = self._stream
        if stream is None:
            return make(), None
        with torch.cuda.stream(stream):
            made = make()
        return made, stream.record_event()

    @cached_property
    def _stream(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
