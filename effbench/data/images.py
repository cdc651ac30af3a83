"""One image file to uint8 pixels, the same way for training and for `effbench predict`; and finding such files."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from effbench.errors import ConfigError, DataError
from effbench.places import expanded

DECODER_VERSION = 1  # raise it with any change to the pixels that `decode` returns: caches are keyed by it
MAX_PIXELS = 64_000_000  # 8000 x 8000; 192 MB as RGB
MAX_SIDE_RATIO = 100  # beyond it the central square shows less than 1 % of the picture
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # all else that Pillow reads is only attack surface


class ImageError(DataError):
    """One file that cannot be used as an image. path: that file. reason: what is wrong, without the path."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{printable(path)} {reason}")
        self.path = path
        self.reason = reason


def decode(path: Path, size: int | None, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The first frame of a JPEG, PNG, WebP, BMP, GIF or TIFF file (told by content): uint8 (channels, S, S).

    size: S in pixels: the shorter side is resized to it (bilinear, antialiased) and the centre cropped; None
    keeps the file's own (channels, H, W). channels: 3 (RGB) or 1 (ITU-R 601 luma). EXIF orientation is applied,
    transparency is laid over white, colour profiles are ignored. 16-bit gray is scaled to 8 bits over its whole
    range; 32-bit integers must lie in [0, 65535] and floats in [0, 1].
    Raises ImageError, before a pixel is decoded, for more than max_pixels or sides beyond 1 : MAX_SIDE_RATIO,
    and for whatever cannot be decoded. Changed bytes inside the compressed pixels may go unnoticed.
    For many files use `decode_many`: this one must not be called from several threads at once.
    """
    with _quiet_pillow():
        return _decode(path, size, channels, max_pixels)


def decode_many(
    paths: Iterable[Path], size: int | None, channels: int = 3, max_pixels: int = MAX_PIXELS
) -> Generator[Tensor | ImageError, None, None]:
    """`decode` of each path in order, on all cores: the pixels, or the ImageError that says what is wrong."""

    def attempt(path: Path) -> Tensor | ImageError:
        try:
            return _decode(path, size, channels, max_pixels)
        except ImageError as error:
            return error

    workers = os.cpu_count() or 1
    with _quiet_pillow(), ThreadPoolExecutor(workers, "decode") as pool:
        waiting: deque[Any] = deque()
        try:
            for path in paths:
                waiting.append(pool.submit(attempt, path))
                if len(waiting) > 4 * workers:  # a window: results must not pile up behind a slow reader
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The files named, in the order given and as often; of a folder those with an image's suffix, sorted.

    A file named outright is taken whatever its suffix. Raises DataError for a path that does not exist, and
    for a folder, or a list, that holds nothing.
    """
    found: list[Path] = []
    for path in map(expanded, paths):
        if path.is_dir():
            images = images_under(path)
            found += images
            if not images:
                raise DataError(f"{printable(path)} holds no image file ({', '.join(SUFFIXES)}).")
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise DataError(f"{printable(path)} does not exist. Name image files, or folders of them.")
    if not found:
        raise DataError("No image was named. Name image files, or folders of them.")
    return found


def images_under(folder: Path) -> list[Path]:
    """Every path with an image's suffix in `folder` and below, sorted; broken links too, hidden names not.

    Links to folders are followed, each folder once; links back to a folder above are loops and are left out.
    """
    seen = _folders_above(folder)
    found: list[Path] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        if not _is_new(here, seen):
            continue
        for entry in visible(here):
            if _is_folder(entry):
                pending.append(Path(entry))
            elif entry.name.lower().endswith(SUFFIXES):
                found.append(Path(entry))
    return sorted(found, key=os.fspath)


def subfolders(folder: Path) -> list[Path]:
    """The folders right inside `folder`, sorted by name; hidden ones and links back to a folder above are not."""
    seen = _folders_above(folder) | {_identity(folder)}
    folders = [Path(entry) for entry in visible(folder) if _is_folder(entry)]
    return [path for path in folders if _identity(path) not in seen]


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies right inside `folder`, sorted by name, without hidden names (.DS_Store, ._photo.jpg, .git)."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder, or a link to one; False for a link in circles, where is_dir raises."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def printable(name: str | os.PathLike[str]) -> str:
    r"""`name`, safe to print: bytes that are not UTF-8, control characters and backslashes as \xff, \n, \\."""
    return "".join(
        character if character.isprintable() and character != "\\" else _escaped(character)
        for character in os.fspath(name)
    )


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python's surrogateescape keeps a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _folders_above(folder: Path) -> set[tuple[int, int]]:
    """Identities of the folders above, both as the path is written and with its links resolved."""
    above = {*folder.absolute().parents, *Path(os.path.realpath(folder)).parents}
    return {_identity(path) for path in above}


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    identity = _identity(folder)
    new = identity not in seen
    seen.add(identity)
    return new


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings, which name no file: what it warns of is harmless here (metadata), or raised."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _decode(path: Path, size: int | None, channels: int, max_pixels: int) -> Tensor:
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 1 (gray) or 3 (RGB); got {channels}.")
    try:
        with _regular_file(path) as file, _opened(path, file) as image:
            _check_size(path, image, max_pixels)
            return _pixels(_fit(_to_mode(path, _upright(path, _loaded(path, image, size)), channels), size))
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}.") from error


def _regular_file(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():  # a pipe would block for ever
        raise ImageError(path, "is not a file.")
    return path.open("rb")


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    """The image with its header read and no pixel decoded.

    Not Image.open: that hides a broken header behind "cannot identify", and checks its own pixel limit.
    """
    start = file.read(16)
    if not start:
        raise ImageError(path, "is empty (0 bytes).")
    Image.init()
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept and accept(start) is True:
            file.seek(0)
            with _pillow_errors(path, f"is no whole {name} file: its header is cut short or damaged"):
                image: Image.Image = factory(file, "")
                return image
    raise ImageError(path, f"is not an image ({', '.join(_FORMATS)}): it begins with {start!r}.")


@contextmanager
def _pillow_errors(path: Path, what: str) -> Iterator[None]:
    """Turns what Pillow raises on bad bytes, which may be nearly anything, into an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"is refused by Pillow: {error}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the bytes'
            raise
        raise ImageError(path, f"{what} ({str(error) or type(error).__name__}).") from error


def _check_size(path: Path, image: Image.Image, max_pixels: int) -> None:
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


def _loaded(path: Path, image: Image.Image, size: int | None) -> Image.Image:
    """With the pixels of its first frame decoded; a JPEG far above `size` at 1/2, 1/4 or 1/8 of its sides."""
    with _pillow_errors(path, f"is a damaged {image.format} file, cut short or altered"):
        if size is not None:
            image.draft(None, (2 * size, 2 * size))  # decodes little more than the resize will keep
        image.load()
    return image


def _upright(path: Path, image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where the EXIF block cannot be read."""
    try:
        with _pillow_errors(path, "has a damaged EXIF block"):
            return ImageOps.exif_transpose(image)
    except ImageError:
        return image


def _to_mode(path: Path, image: Image.Image, channels: int) -> Image.Image:
    """In RGB over white, then in gray if channels is 1."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_to_8_bits(path, np.asarray(image)))
    with _pillow_errors(path, f"has mode {image.mode}, which has no RGB form"):
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            image = white
        rgb = image.convert("RGB")
        return rgb if channels == 3 else rgb.convert("L")


def _to_8_bits(path: Path, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Gray (H, W) of 16 or 32 bits, scaled from [0, 65535], or from [0, 1] for floats, and rounded to uint8."""
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # not(...) so that NaN is caught
        raise ImageError(
            path, f"has gray values from {low} to {high}, outside [0, {top:g}]. Scale them, or save 8 bits."
        )
    return np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    """The central square, resized to size x size in one step, so a long image never grows before it is cropped."""
    if size is None:
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _pixels(image: Image.Image) -> Tensor:
    array = np.asarray(image)
    planes = array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy(planes.copy())  # by numpy: torch would start threads of its own in each that decodes
