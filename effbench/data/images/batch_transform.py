"""Last steps of a batch of images: normalisation and memory format."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from effbench.data.images.uint8_lut import can_look_up

_PART = 2**18  # elements: 1 MiB of floats, the size of a core's L2 cache


@dataclass(frozen=True)
class BatchTransform:
    """Normalisation and layout of batches.

    Attributes:
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel, in [0, 1].
        device: device of the batches.
        memory_format: memory format of the batches.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_format: torch.memory_format = torch.contiguous_format

    # Cached in a frozen dataclass: equality and hash see the fields only, and the tensors are made once, on the device.
    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (C, 1, 1), on the device."""
        mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return mean, std

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Normalise floats in [0, 1] by channel, in place."""
        mean, std = self._statistics
        # in place: callers hand over floats that nobody else needs
        return x_BCHW.sub_(mean).div_(std).contiguous(memory_format=self.memory_format)

    @cached_property
    def table(self) -> Tensor:
        """Return float (C, 256): the normalised value of each pixel value in each channel."""
        # by the operations of the other path, in their order, so that both give the same bits
        values = torch.arange(256, dtype=torch.float32, device=self.device).mul_(1 / 255)
        return self(values.expand(1, len(self.mean), 1, 256).clone()).reshape(-1, 256)

    def looks_up(self, images: Tensor) -> bool:
        """Return True if a batch of these images can be made in one compiled pass."""
        return self.device.type == "cpu" and can_look_up(images)

    def in_parts(self, shape_BCHW: Sequence[int], make: Callable[[slice], Tensor]) -> Tensor:
        """Return self(make(all rows)); on a CPU it is computed in parts that fit into the cache, with equal values."""
        batch, *image = shape_BCHW
        # At least two samples a part: torch sums one large sample on several threads, in another order than two.
        parts = min(batch // 2, -(-batch * math.prod(image) // _PART)) if self.device.type == "cpu" else 1
        if parts <= 1:
            return self(make(slice(0, batch)))
        mean, std = self._statistics
        whole = torch.empty((batch, *image), memory_format=self.memory_format)
        for part in range(parts):
            rows = slice(batch * part // parts, batch * (part + 1) // parts)
            torch.div(make(rows).sub_(mean), std, out=whole[rows])
        return whole
