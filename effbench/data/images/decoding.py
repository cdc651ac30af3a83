"""Decode image files to uint8 pixels, in the same way for training and `effbench predict`."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from effbench.data.images.bit_depth import NeedsLevels, depth_of, has_deep_colours, in_8_bits, is_deep
from effbench.data.images.opening import FORMATS, MAX_PIXELS, ImageError, opened_file, opened_image, pillow_errors
from effbench.data.images.white_levels import Depth, Levels
from effbench.errors import ConfigError
from effbench.processors import cores

DECODER_VERSION = 3  # part of the key of caches: raise it if the pixels of `decode` change
Item = TypeVar("Item")
Result = TypeVar("Result")


def decode(
    path: Path, size: int | None, channels: int = 3, max_pixels: int = MAX_PIXELS, levels: Levels | None = None
) -> Tensor:
    """Decode the first frame of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file (recognised by content).

    EXIF orientation is applied, transparency becomes white, colour profiles are ignored. Damage inside compressed
    pixels may go unnoticed. Do not call it from several threads at once; for many files use `decode_many`.

    Args:
        path: the file.
        size: S in pixels: the shorter side is resized to it (bilinear, antialiased) and the centre cropped. None keeps
            the file's size.
        channels: 3 (RGB) or 1 (ITU-R 601 luma).
        max_pixels: larger images are refused.
        levels: white levels of images of more than 8 bits, by default 65535 and 1.0. Larger values are refused unless
            levels clip; negative ones always.

    Returns:
        uint8 (channels, S, S), or (channels, H, W) without size.

    Raises:
        ImageError: the file cannot be decoded; or, before any pixel is decoded, it has more than max_pixels or sides
            beyond 1 : MAX_SIDE_RATIO.
    """
    with _quiet_pillow():
        # a single file has no dataset to take levels from: values above the format's range are errors
        return _decode(path, size, channels, max_pixels, levels or Levels(clips=False))


def decode_many(
    paths: Iterable[Path],
    size: int | None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    levels: Levels | None = None,
    long: list[Path] | None = None,
) -> Generator[Tensor | ImageError | Depth, None, None]:
    """Decode files on all cores, in order; see `decode`.

    Args:
        paths: the files.
        size: S in pixels, or None.
        channels: 3 or 1.
        max_pixels: larger images are refused.
        levels: white levels of images of more than 8 bits.
        long: files are appended of which the central square is less than half.

    Yields:
        Pixels, or an ImageError; without levels a Depth for an image of more than 8 bits.
    """

    def attempt(path: Path) -> Tensor | ImageError | Depth:
        try:
            return _decode(path, size, channels, max_pixels, levels, long)
        except NeedsLevels as deep:
            return deep.depth
        except ImageError as error:
            return error

    return on_all_cores(attempt, paths)


def depths(paths: Iterable[Path], max_pixels: int = MAX_PIXELS) -> Generator[Depth | None, None, None]:
    """Yield the range of values of each image of more than 8 bits; None for others, from the header alone."""

    def look(path: Path) -> Depth | None:
        try:
            with opened_file(path, max_pixels) as (file, image):
                return depth_of(path, file, image) if is_deep(image) else None
        except (OSError, ImageError):  # `decode` reports it
            return None

    return on_all_cores(look, paths)


def on_all_cores(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield work(item) of each item, in order. Threads suffice: Pillow releases the GIL while it decodes."""
    # as many as this process may use, not as the machine has
    workers = cores()
    with _quiet_pillow(), ThreadPoolExecutor(workers, "decode") as pool:
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 4 * workers:  # limits the results that wait for a slow reader
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also if the reader stops early: the rest need not be decoded
            pool.shutdown(cancel_futures=True)


def from_pillow(image: Image.Image, size: int, channels: int = 3, levels: Levels | None = None) -> Tensor:
    """Convert a Pillow image like `decode` a file of it; only JPEGs far above `size` may differ.

    Args:
        image: the image.
        size: S in pixels.
        channels: 3 (RGB) or 1.
        levels: white levels of images of more than 8 bits.

    Returns:
        uint8 (channels, S, S).
    """
    path = Path(getattr(image, "filename", "") or "the image")
    with _quiet_pillow(), pillow_errors(path, "cannot be decoded"):
        if is_deep(image):
            file = BytesIO()
            if has_deep_colours(image):
                # Reading all bits needs the file. The caller's image must stay undecoded: copy its file, and open that.
                source: Any = image
                place = source.fp.tell()
                source.fp.seek(0)
                file = BytesIO(source.fp.read())
                source.fp.seek(place)
                image = opened_image(path, file)
            image = in_8_bits(path, file, image, levels or Levels(clips=False))
        return _as_pixels(path, image, channels, size)


def preprocessing(size: int, channels: int, levels: Levels | None = None) -> dict[str, Any]:
    """Return the steps of `decode` in order, for users of an exported model who must repeat them.

    Args:
        size: S in pixels.
        channels: 3 (RGB) or 1.
        levels: white levels of images of more than 8 bits.
    """
    white = levels or Levels(clips=False)
    luma = {"gray": "ITU-R 601 luma of the 8-bit RGB pixels: Pillow's convert('L')"}
    return {
        "formats": list(FORMATS),
        "frame": "the first",
        "jpeg": {
            "draft": [2 * size, 2 * size],
            "about": "Image.draft(None, …): decoded at 1/2, 1/4 or 1/8 of its sides",
        },
        "exif_orientation": "applied",
        "more_than_8_bits": {
            "white": {"integers": white.integers, "floats": white.floats},
            "scale": "uint8 of round(min(value, white) * 255 / white) in float64, halves to even",
            "above_white": "white" if white.clips else "refused",
            "below_0": "refused",
            "colours": "of PNG, TIFF and PPM all 16 bits; Pillow's own decoders of PNG and TIFF keep the upper 8",
        },
        "transparency": "over white",
        "colour_profile": "ignored",
        "colour_order": "RGB" if channels == 3 else "L",
        **({} if channels == 3 else luma),
        "crop": {"shape": "square", "side": "the shorter side", "place": "centre"},
        "resize": {
            "size": [size, size],
            "interpolation": "bilinear",
            "antialias": True,
            "about": "with the crop in one: Pillow's resize(size, BILINEAR, box=(left, top, left + side, top + side))",
        },
        "dtype": "uint8",
        "then": {"dtype": "float32", "scale": 1 / 255, "layout": "NCHW"},
    }


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings, which name no file: they are harmless here (metadata), or an error follows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities of TorchVision")
        yield


def _decode(
    path: Path, size: int | None, channels: int, max_pixels: int, levels: Levels | None, long: list[Path] | None = None
) -> Tensor:
    """Decode a file. Raises NeedsLevels for an image of more than 8 bits if there are no levels.

    Args:
        path: the file.
        size: S in pixels, or None.
        channels: 3 or 1.
        max_pixels: larger images are refused.
        levels: white levels of images of more than 8 bits.
        long: see `decode_many`.
    """
    if channels not in (1, 3):
        raise ConfigError(
            f"image files have channels of gray or RGB: channels must be 1 (gray) or 3 (RGB); got {channels}. "
            f"Give arrays, uint8 (N, {channels}, H, W), to run.predict in Python."
        )
    try:
        with opened_file(path, max_pixels) as (file, image):
            # before image.load(): Pillow would keep the upper 8 bits of 16-bit colours
            if is_deep(image):
                image = in_8_bits(path, file, image, levels)
            else:
                with pillow_errors(path, f"is a damaged {image.format} file, cut short or altered"):
                    if size is not None:
                        # A JPEG far above `size` is decoded at 1/2, 1/4 or 1/8 of its sides: little more than the
                        # resize needs, in a fraction of the time.
                        image.draft(None, (2 * size, 2 * size))
                    image.load()
            if long is not None and max(image.size) > 2 * min(image.size):
                long.append(path)
            return _as_pixels(path, image, channels, size)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}.", unread=True) from error


def _as_pixels(path: Path, image: Image.Image, channels: int, size: int | None) -> Tensor:
    """Apply orientation, transparency, channels and size: uint8 (channels, S, S), or (channels, H, W) without size.

    Args:
        path: for messages.
        image: decoded, 8 bits.
        channels: 3 (RGB) or 1 (gray).
        size: S in pixels, or None.
    """
    with suppress(ImageError), pillow_errors(path, "has a damaged EXIF block"):  # without one the image is upright
        image = ImageOps.exif_transpose(image)

    with pillow_errors(path, f"has mode {image.mode}, which has no RGB form"):
        if image.has_transparency_data:
            # convert('RGB') would drop alpha and show the colour that a transparent pixel happens to hold
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            image = white
        image = image.convert("RGB")
        if channels == 1:  # by way of RGB, so that palettes and CMYK become gray by the same luma
            image = image.convert("L")

    if size is not None:
        # Crop and resize in one step, so that a long image never grows before the crop.
        width, height = image.size
        side = min(width, height)
        # fractions of a pixel are fine: `box` takes floats, and the crop stays centred
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)

    array = np.asarray(image)
    planes_CHW = array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy(planes_CHW.copy())  # numpy copies: torch would start a thread pool in each decoding thread
