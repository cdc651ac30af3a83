"""Batches from uint8 images in one compiled pass (effbench/cpu/csrc/pixels.c): picked, cropped, mirrored, normalised.

A pixel has 256 values, so what is done to it alone is done to these once, by torch, and looked up from then on: the
floats are those of torch's own operations to the bit.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from effbench.cpu.library import library


@dataclass(frozen=True)
class Crop:
    """As `augment.crop` takes it: offset int64 (B, 2), rows and columns in [0, 2 padding]; flip bool (B,)."""

    offset: Tensor | None = None
    padding: int = 0
    flip: Tensor | None = None


def can_look_up(images: Tensor) -> bool:
    """Whether the compiled pass is there and can read these images, (N, C, H, W)."""
    return (
        library() is not None and images.dtype is torch.uint8 and images.device.type == "cpu" and images.is_contiguous()
    )


def look_up(
    images: Tensor,
    chosen_B: Tensor,
    table_C256: Tensor,
    crop: Crop,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """float32 (B, C, H, W): the crops of the chosen images, each pixel by its channel's table.

    chosen: int64 (B,). table: float32 (C, 256), or (1, 256) for all channels.
    """
    compiled = library()
    assert compiled is not None
    _, channels, height, width = images.shape
    size = (len(chosen_B), channels, height, width)
    out = torch.empty(size, dtype=torch.float32, device=images.device, memory_format=memory_format)
    tables = table_C256.expand(channels, 256).contiguous()
    read = [None if rows is None else rows.contiguous() for rows in (chosen_B, crop.offset, crop.flip)]
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in (images, *read, tables, out))
    compiled.look_up_pixels(
        *map(ctypes.c_void_p, addresses),
        *map(ctypes.c_int64, (*out.shape, crop.padding)),
        ctypes.c_int(memory_format is torch.channels_last),
        ctypes.c_int(torch.get_num_threads()),
    )
    return out
