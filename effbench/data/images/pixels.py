"""Checks, resizing and statistics of uint8 images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.data.split_checks import as_tensor
from effbench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from effbench.data.splits import Split, Splits


def as_images(name: str, images: Any, count: int) -> Tensor:
    """Return uint8 (N, C, H, W).

    Args:
        name: beginning of messages.
        images: a tensor, array, or list of arrays of equal shape.
        count: N.

    Raises:
        DataError: type, shape or number is wrong.
    """
    found = as_tensor(f"{name} images", images)
    if found.dtype != torch.uint8 or found.dim() != 4 or len(found) != count or 0 in found.shape[1:]:
        raise DataError(
            f"{name} must be uint8 (N, C, H, W) with N labels; got {found.dtype} {tuple(found.shape)} with {count} "
            f"labels.{_images_remedy(found, count)}"
        )
    if found.shape[3] in (3, 4) and min(found.shape[1:3]) > 4:
        raise DataError(
            f"{name} must be uint8 (N, C, H, W); got {tuple(found.shape)}, which seem to be (N, H, W, C). Give "
            "images.permute(0, 3, 1, 2)."
        )
    return found


def _images_remedy(images: Tensor, count: int) -> str:
    if images.dim() == 3:
        return " Without a channel: give images.unsqueeze(1)."
    if images.dim() != 4 or len(images) != count or 0 in images.shape[1:]:
        return ""
    scale = (
        "(images * 255).round()" if images.is_floating_point() and float(images.max()) <= 1 else "images.clamp(0, 255)"
    )
    return f" Give {scale}.to(torch.uint8); the run normalises by itself."


def resized(splits: Splits, size: int) -> Splits:
    """Resize every image to size x size pixels (bilinear, antialiased); return the same object if nothing changes."""
    if size < 1:
        raise ConfigError(f"data.image_size must be at least 1 pixel; got {size}.")
    if splits.shape[1:] == (size, size):
        return splits

    def resize(split: Split | None) -> Split | None:
        if split is None:
            return None
        chunks = [_resize(chunk, size) for chunk in split.inputs.split(1024)]
        return replace(split, inputs=torch.cat(chunks))

    train = resize(splits.train)
    assert train is not None
    return replace(splits, train=train, val=resize(splits.val), test=resize(splits.test))


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (N, C, H, W) to uint8 (N, C, size, size)."""
    values = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8)


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
    for chunk in images[::stride].split(512):
        values = chunk.to(torch.float64).div_(255)
        total += values.sum((0, 2, 3))
        squares += values.square_().sum((0, 2, 3))
        count += values.numel() // values.shape[1]
    mean = total / count
    std = (squares / count - mean * mean).clamp_min(0).sqrt()
    return mean.tolist(), torch.where(std > 1e-6, std, 1.0).tolist()
