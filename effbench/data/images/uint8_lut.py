"""Make batches of uint8 images in one compiled pass (effbench/cpu/csrc/image_batch.c): select, crop, flip, normalise.

A pixel has 256 possible values, so operations on single pixels are computed once for these by torch and then looked up:
results equal those of torch's operations to the bit.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from effbench.cpu.library import library


@dataclass(frozen=True)
class Crop:
    """Arguments of `augment.crop`: offset int64 (B, 2), rows and columns in [0, 2 padding]; flip bool (B,)."""

    offset: Tensor | None = None
    padding: int = 0
    flip: Tensor | None = None


def can_look_up(images: Tensor) -> bool:
    """Return True if the compiled pass exists and can read these images (N, C, H, W)."""
    return (
        # contiguous: C computes addresses from the shape alone
        library() is not None and images.dtype is torch.uint8 and images.device.type == "cpu" and images.is_contiguous()
    )


def look_up(
    images: Tensor,
    chosen_B: Tensor,
    table_C256: Tensor,
    crop: Crop,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Crop the chosen images and map each pixel by its channel's table.

    Args:
        images: uint8 (N, C, H, W).
        chosen_B: int64 (B,), indices of images.
        table_C256: float32 (C, 256), or (1, 256) for all channels.
        crop: offsets and flips.
        memory_format: of the result.

    Returns:
        Float32 (B, C, H, W).
    """
    compiled = library()
    assert compiled is not None
    _, channels, height, width = images.shape
    size = (len(chosen_B), channels, height, width)
    # C writes every element, so the memory need not be cleared
    out = torch.empty(size, dtype=torch.float32, device=images.device, memory_format=memory_format)
    # Names keep the contiguous copies alive: C gets addresses only, and a temporary would be freed before the call.
    tables = table_C256.expand(channels, 256).contiguous()
    read = [None if rows is None else rows.contiguous() for rows in (chosen_B, crop.offset, crop.flip)]
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in (images, *read, tables, out))
    compiled.look_up_pixels(
        *map(ctypes.c_void_p, addresses),
        # ctypes passes a bare int as 32 bits: (B, C, H, W) may need more
        *map(ctypes.c_int64, (*out.shape, crop.padding)),
        ctypes.c_int(memory_format is torch.channels_last),
        ctypes.c_int(torch.get_num_threads()),
    )
    return out
