"""Resizing and statistics of uint8 images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.data.option_checks import check_counts, check_memory

if TYPE_CHECKING:
    from effbench.data.splits import Splits


def resized(splits: Splits, size: int) -> Splits:
    """Resize every image to size x size pixels (bilinear, antialiased); return the same object if nothing changes."""
    check_counts("pixel", image_size=size)
    if splits.shape[1:] == (size, size):
        return splits
    count = sum(map(len, splits.named().values()))
    check_memory(count * splits.shape[0] * size**2, "image_size")
    changed: dict[str, Any] = {}
    for which, split in splits.named().items():
        # In parts: as float32 the whole split would take four times the memory of its uint8 pixels.
        parts = [
            F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
            for part in split.inputs.split(1024)
        ]
        changed[which] = replace(split, inputs=torch.cat(parts))
    return replace(splits, **changed)


def channel_statistics(images: Tensor, at_most: int = 10_000) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel in [0, 1].

    Args:
        images: uint8 (N, C, H, W).
        at_most: number of evenly spaced images to use.

    Returns:
        (means, deviations). A constant channel gets deviation 1, so that normalised values stay finite.
    """
    stride = max(1, -(-len(images) // at_most))
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares, count = torch.zeros_like(total), 0
    for chunk in images[::stride].split(512):  # memory-mapped images are read once, and never held at once
        values = chunk.to(torch.float64).div_(255)
        total += values.sum((0, 2, 3))
        squares += values.square_().sum((0, 2, 3))
        count += values.numel() // values.shape[1]
    mean = total / count
    # Rounding may make E[x^2] - E[x]^2 slightly negative for a constant channel.
    std = (squares / count - mean * mean).clamp_min(0).sqrt()
    return mean.tolist(), torch.where(std > 1e-6, std, 1.0).tolist()
