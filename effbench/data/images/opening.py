"""Open image files: their format is recognised and their size checked before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from effbench.data.folder_files import printable
from effbench.errors import DataError

MAX_PIXELS = 64_000_000  # 8000 x 8000; 192 MB as RGB
MAX_SIDE_RATIO = 100  # above, the central square shows less than 1 % of the image
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's other formats only add attack surface


class ImageError(DataError):
    """A file cannot be used as an image.

    Args:
        path: the file.
        reason: what is wrong, without the path.
        unread: the system could not read it, for want of a permission, say; its content may be sound.
    """

    def __init__(self, path: Path, reason: str, unread: bool = False):
        super().__init__(f"{printable(path)} {reason}")
        self.path = path
        self.reason = reason
        self.unread = unread


@contextmanager
def opened_file(path: Path, max_pixels: int) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """Open a file: (the file, its image with the header read and no pixel decoded).

    Args:
        path: the file.
        max_pixels: larger images are refused.

    Raises:
        ImageError: it is no image, too large, or has sides beyond 1 : MAX_SIDE_RATIO.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block forever
        raise ImageError(path, "is not a file.")
    with path.open("rb") as file, opened_image(path, file) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                path,
                f"has {width} x {height} = {width * height:,} pixels, above the limit max_pixels={max_pixels:,}. "
                "Raise it if you trust the file: train takes data.max_pixels=N, predict max_pixels=N.",
            )
        if max(width, height) > MAX_SIDE_RATIO * min(width, height):
            raise ImageError(
                path, f"has {width} x {height} pixels, beyond the side ratio limit of {MAX_SIDE_RATIO} to 1. Crop it."
            )
        yield file, image


def opened_image(path: Path, file: BinaryIO) -> Image.Image:
    """Open the image in `file` with its header read and no pixel decoded. Raises ImageError with `path`.

    Image.open is not used: it hides a broken header behind "cannot identify", and applies another pixel limit.
    """
    start = file.read(16)
    if not start:
        raise ImageError(path, "is empty (0 bytes).")
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        # PPM's text forms (P1 to P3) are not read: one pixel may take any number of bytes.
        if accept and accept(start) is True and not (name == "PPM" and start[:2] not in (b"P4", b"P5", b"P6")):
            file.seek(0)
            with pillow_errors(path, f"is no whole {name} file: its header is cut short or damaged"):
                image: Image.Image = factory(file, "")
                return image
    raise ImageError(path, f"is not an image ({', '.join(FORMATS)}): it begins with {start!r}.")


@contextmanager
def pillow_errors(path: Path, what: str) -> Iterator[None]:
    """Turn the exceptions of Pillow for damaged files, which may be of nearly any class, into an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"is refused by Pillow: {error}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the content
            raise
        raise ImageError(path, f"{what} ({str(error) or type(error).__name__}).") from error
