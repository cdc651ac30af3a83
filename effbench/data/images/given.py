"""Images as a person hands them over - files, Pillow images, arrays - as the uint8 tensors that a run predicts on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effbench.data.images.decoding import Levels, decode, find_images, from_pillow
from effbench.errors import ConfigError

BATCH = 256  # decoded images in memory


def images_of(
    inputs: Any, shape: tuple[int, int, int], max_pixels: int, levels: Levels | None = None
) -> Iterator[Tensor]:
    """uint8 (n, C, H, W) at a time, in the order of `inputs`: a file, folder, Pillow image, array, or a list of such.

    shape: (C, H, W) that files and Pillow images are brought to; arrays are taken as they are. levels: as `decode`.
    """
    if isinstance(inputs, Tensor | np.ndarray):
        array = torch.as_tensor(inputs)
        yield array[None] if array.ndim == 3 else array
        return
    items = list(_items(inputs))
    if not items:
        raise ConfigError("predict got no image: give files, Pillow images, or uint8 arrays (N, C, H, W).")
    for start in range(0, len(items), BATCH):
        some = [_image(item, shape, max_pixels, levels) for item in items[start : start + BATCH]]
        if odd := {tuple(image.shape) for image in some} - {shape}:
            raise ConfigError(f"predict takes lists of images of {shape}; got one of {odd.pop()}.")
        yield torch.stack(some)


def _items(inputs: Any) -> Iterator[Any]:
    """One by one; a folder is the images in it."""
    if isinstance(inputs, str | os.PathLike):
        yield from find_images([os.fspath(inputs)])
    elif isinstance(inputs, Sequence | Iterator) and not isinstance(inputs, bytes):
        for item in inputs:
            yield from _items(item) if isinstance(item, str | os.PathLike) else (item,)
    else:
        yield inputs


def _image(item: Any, shape: tuple[int, int, int], max_pixels: int, levels: Levels | None) -> Tensor:
    channels, size, _ = shape
    if isinstance(item, Path):
        return decode(item, size, channels, max_pixels, levels)
    if isinstance(item, Image.Image):
        return from_pillow(item, size, channels, levels)
    if isinstance(item, Tensor | np.ndarray):
        return torch.as_tensor(item)
    raise ConfigError(
        f"predict takes files (text or Path), Pillow images, or uint8 arrays; got {type(item).__name__}: {item!r:.80}."
    )
