"""Inputs of run.predict (files, Pillow images, arrays) as uint8 tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effbench.data.images.decoding import decode, from_pillow
from effbench.data.images.image_files import find_images
from effbench.data.images.white_levels import Levels
from effbench.data.modality import tensor_of
from effbench.errors import ConfigError

BATCH = 256  # most decoded images in memory


def images_of(
    inputs: Any, shape: tuple[int, int, int], max_pixels: int, levels: Levels | None = None
) -> Iterator[Tensor]:
    """Yield uint8 (n, C, H, W), in the order of the inputs.

    Args:
        inputs: a file, folder, Pillow image, array, or a list of such.
        shape: (C, H, W) to which files and Pillow images are brought; arrays are not changed.
        max_pixels: larger files are refused.
        levels: white levels of images of more than 8 bits.
    """
    if isinstance(inputs, Tensor | np.ndarray):
        array = tensor_of(inputs)
        yield array[None] if array.ndim == 3 else array  # one image (C, H, W) is a batch of one
        return
    channels, size, _ = shape
    # all names first: a missing file is refused before any is decoded
    items = list(_items(inputs))
    if not items:
        raise ConfigError("predict got no image: give files, Pillow images, or uint8 arrays (N, C, H, W).")
    for start in range(0, len(items), BATCH):
        some = []
        for item in items[start : start + BATCH]:
            if isinstance(item, Path):
                some.append(decode(item, size, channels, max_pixels, levels))
            elif isinstance(item, Image.Image):
                some.append(from_pillow(item, size, channels, levels))
            elif isinstance(item, Tensor | np.ndarray):
                some.append(tensor_of(item))
            else:
                raise ConfigError(
                    "predict takes files (text or Path), Pillow images, or uint8 arrays; got "
                    f"{type(item).__name__}: {item!r:.80}."
                )
        # torch.stack's own error would not name the shape that the run takes
        if odd := {tuple(image.shape) for image in some} - {shape}:
            raise ConfigError(f"predict takes lists of images of {shape}; got one of {odd.pop()}.")
        yield torch.stack(some)


def _items(inputs: Any) -> Iterator[Any]:
    """Yield inputs one by one; a folder yields its images."""
    if isinstance(inputs, str | os.PathLike):
        yield from find_images([os.fspath(inputs)])
    elif isinstance(inputs, Sequence | Iterator) and not isinstance(inputs, bytes):
        for item in inputs:
            yield from _items(item) if isinstance(item, str | os.PathLike) else (item,)
    else:
        yield inputs
