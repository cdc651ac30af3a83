"""Images of more than 8 bits: 16-bit gray and colours, 32-bit integers, floats. Their values are scaled to 0 to 255."""

from __future__ import annotations

import math
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from effbench.data.images.opening import ImageError, pillow_errors
from effbench.data.images.white_levels import Depth, Levels

ORIENTATION = 0x0112  # EXIF tag
_TIFF_COLOURS = re.compile(r"RGB[AX]?;16[LBN]")  # Pillow's raw modes
Values = np.ndarray[Any, Any]


@dataclass(eq=False)  # exceptions must stay hashable
class NeedsLevels(Exception):  # noqa: N818 - a request for levels, not an error
    """An image of more than 8 bits was met, and no white levels are given."""

    depth: Depth


def is_deep(image: Image.Image) -> bool:
    """Return True for gray of 16 or 32 bits, and for colours of 16 bits, of which Pillow would keep the upper 8."""
    return image.mode in ("I", "F") or image.mode.startswith("I;") or has_deep_colours(image)


def has_deep_colours(image: Image.Image) -> bool:
    """Return True for colours of 16 bits; only an image that is not decoded yet can show it."""
    tile = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX", "CMYK") or not tile:
        return False
    arguments = tile[0][3] if isinstance(tile[0][3], tuple) else (tile[0][3],)
    if image.format == "PPM":  # args are (mode, largest value)
        return any(isinstance(argument, int) and argument > 255 for argument in arguments)
    return ";16" in str(arguments[0])


def in_8_bits(path: Path, file: BinaryIO, image: Image.Image, levels: Levels | None) -> Image.Image:
    """Scale values from [0, white] to uint8, with larger ones as white; the orientation is kept.

    Args:
        path: for messages.
        file: the image's file.
        image: opened from `file`, not decoded yet.
        levels: white levels.

    Raises:
        NeedsLevels: there are no levels.
        ImageError: values cannot be read, or are outside of [0, white].
    """
    values, whole = _values(path, file, image)
    depth = _depth(path, values, levels)
    if levels is None:
        raise NeedsLevels(depth)
    white = getattr(levels, depth.kind)
    if not whole and white < Levels.integers:
        raise ImageError(
            path,
            f"holds colours of 16 bits as {image.format}, of which only the upper 8 can be read, but the pictures use "
            f"no more than {math.log2(white + 1):.0f}. Save them as PNG.",
        )
    # float64: 2^32 - 1 has no float32, and would be rounded before the division
    scaled = np.rint(values.clip(0, white).astype(np.float64) * (255 / white)).astype(np.uint8)
    shown = Image.fromarray(scaled)
    with suppress(Exception):  # a damaged EXIF block counts as none
        shown.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return shown


def depth_of(path: Path, file: BinaryIO, image: Image.Image) -> Depth:
    """Return the range of values of an image for which `is_deep` holds.

    Args:
        path: for messages.
        file: the image's file.
        image: opened from `file`, not decoded yet.

    Raises:
        ImageError: values cannot be read, or are negative or not finite.
    """
    return _depth(path, _values(path, file, image)[0], None)


def _depth(path: Path, values: Values, levels: Levels | None) -> Depth:
    kind = "floats" if values.dtype.kind == "f" else "integers"
    white = getattr(levels or Levels(), kind)
    low, high = values.min(), values.max()
    within = low >= 0 and np.isfinite(high) and (levels is None or levels.clips or high <= white)
    if not within:  # also for NaN, for which every comparison is False
        raise ImageError(
            path, f"has gray values from {low} to {high}, outside [0, {white:g}]. Scale them, or save 8 bits."
        )
    return Depth(kind, float(high))


def _values(path: Path, file: BinaryIO, image: Image.Image) -> tuple[Values, bool]:
    """Return (values as stored, (H, W) for gray and (H, W, C) for colour; True if all bits were read)."""
    with pillow_errors(path, f"is a damaged {image.format} file, cut short or altered"):
        if not has_deep_colours(image):
            return np.asarray(image), True
        read = {"PNG": _colours_of_png, "TIFF": _colours_of_tiff, "PPM": _colours_of_ppm}.get(str(image.format))
        if read is not None and (values := read(file, image)) is not None:
            return values, True
        # 257 = 65535 / 255 spreads the upper 8 bits over the range of 16
        return np.asarray(image.convert("RGB") if image.mode == "CMYK" else image).astype(np.uint16) * 257, False


def _colours_of_tiff(file: BinaryIO, image: Image.Image) -> Values | None:
    """Read the file in both byte orders, as Pillow keeps only one byte of a value. None for CMYK and RGBa."""
    file.seek(0)
    other: Any = Image.OPEN["TIFF"][0](file, "")
    if not all(_TIFF_COLOURS.fullmatch(tile.args[0]) for tile in other.tile):
        return None
    # The raw mode ends with its byte order: 'RGB;16L', 'RGB;16B', or N for the machine's.
    native = "L" if sys.byteorder == "little" else "B"
    opposite = {"L": "B", "B": "L", "N": "B" if native == "L" else "L"}
    other.tile = [
        tile._replace(args=(tile.args[0][:-1] + opposite[tile.args[0][-1]], *tile.args[1:])) for tile in other.tile
    ]
    whole: Values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(other)
    return whole


def _colours_of_ppm(file: BinaryIO, image: Image.Image) -> Values:
    """Return colours scaled to 16 bits, as Pillow does for gray images of this format."""
    place: Any = image.tile[0]  # type: ignore[attr-defined]
    shape = (image.height, image.width, 3)
    file.seek(place.offset)
    content = file.read(2 * math.prod(shape))
    if len(content) < 2 * math.prod(shape):
        raise ValueError("image file is truncated")
    stored = np.frombuffer(content, ">u2").reshape(shape)
    scaled: Values = np.rint(stored * (65535 / place.args[-1])).clip(0, 65535)
    return scaled.astype(np.uint16)


def _colours_of_png(file: BinaryIO, _: Image.Image) -> Values | None:
    """Read colours with torchvision, because Pillow keeps only 8 bits; None if torchvision cannot."""
    try:
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:
        return None
    file.seek(0)
    content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    values: Values = decode_png(content, mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    return values
