"""Copies to the device, beside the step before where that is a GPU."""

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
    """How batches get to `device`."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; from pinned memory and without waiting where that is a GPU."""
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def on_side_stream(self, make: Callable[[], Made]) -> tuple[Made, torch.cuda.Event | None]:
        """(make(), the moment from which it holds its values); None on a CPU.

        On a GPU it runs on a stream of its own, so that copies and augmentation run beside the step before.
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
