"""Decode image files to uint8 pixels, in the same way for training and `effbench predict`; and find such files."""

from __future__ import annotations

import math
import os
import re
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from effbench.cache_dir import expanded
from effbench.errors import ConfigError, DataError
from effbench.processors import cores

DECODER_VERSION = 3  # part of the key of caches: raise it if the pixels of `decode` change
MAX_PIXELS = 64_000_000  # 8000 x 8000; 192 MB as RGB
MAX_SIDE_RATIO = 100  # above, the central square shows less than 1 % of the image
SUFFIXES = (
    ".bmp", ".dib", ".gif", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's other formats only add attack surface
_PASSED_OVER = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_LEFT_BY_SYSTEMS = frozenset(("thumbs.db", "desktop.ini"))  # files that operating systems leave in folders
_ORIENTATION = 0x0112  # EXIF
_BITS = (8, 10, 12, 14, 16, 20, 24, 28, 32)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Levels:
    """White levels: the values that become 255 in images of more than 8 bits.

    Attributes:
        integers: for integer values.
        floats: for float values.
        clips: larger values become white too; otherwise such an image is refused.
    """

    integers: float = 65535.0
    floats: float = 1.0
    clips: bool = True

    def exceeded_by(self, depth: Depth) -> bool:
        return bool(depth.highest > getattr(self, depth.kind))


@dataclass(frozen=True)
class Depth:
    """The range of values in an image of more than 8 bits. kind: 'integers' or 'floats'."""

    kind: str
    highest: float


def levels_for(depths: Iterable[Depth]) -> Levels:
    """Return the smallest full range that holds these values: 2^8 - 1, 2^10 - 1, ... 2^16 - 1, ...

    Floats in [0, 1] get the smallest power of two. There is one choice for a whole dataset, so that images keep their
    relative brightness.
    """
    highest: dict[str, float] = {}
    for depth in depths:
        highest[depth.kind] = max(depth.highest, highest.get(depth.kind, 0.0))
    integers, floats = highest.get("integers"), highest.get("floats")
    return Levels(
        Levels.integers if integers is None else _full_range(integers),
        Levels.floats if floats is None else _power_of_two(floats) if floats <= 1 else _full_range(floats),
    )


def _full_range(highest: float) -> float:
    return next((2.0**bits - 1 for bits in _BITS if highest <= 2**bits - 1), highest)


def _power_of_two(highest: float) -> float:
    return 2.0 ** math.ceil(math.log2(highest)) if highest > 0 else 1.0


class ImageError(DataError):
    """A file cannot be used as an image. path: the file. reason: what is wrong, without the path."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{printable(path)} {reason}")
        self.path = path
        self.reason = reason


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
        return _decode(path, size, channels, max_pixels, levels or Levels(clips=False))


def decode_many(
    paths: Iterable[Path],
    size: int | None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    levels: Levels | None = None,
) -> Generator[Tensor | ImageError | Depth, None, None]:
    """Decode files on all cores, in order; see `decode`.

    Args:
        paths: the files.
        size: S in pixels, or None.
        channels: 3 or 1.
        max_pixels: larger images are refused.
        levels: white levels of images of more than 8 bits.

    Yields:
        Pixels, or an ImageError; without levels a Depth for an image of more than 8 bits.
    """

    def attempt(path: Path) -> Tensor | ImageError | Depth:
        try:
            return _decode(path, size, channels, max_pixels, levels)
        except _NeedsLevels as deep:
            return deep.depth
        except ImageError as error:
            return error

    return on_all_cores(attempt, paths)


def depths(paths: Iterable[Path], max_pixels: int = MAX_PIXELS) -> Generator[Depth | None, None, None]:
    """Yield the range of values of each image of more than 8 bits; None for others, from the header alone."""

    def look(path: Path) -> Depth | None:
        try:
            with _regular_file(path) as file, _opened(path, file) as image:
                if not _is_deep(image):
                    return None
                _check_size(path, image, max_pixels)
                return _depth(path, _deep_values(path, file, image)[0], None)
        except (OSError, ImageError):  # `decode` reports it
            return None

    return on_all_cores(look, paths)


def on_all_cores(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield work(item) of each item, in order."""
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
        finally:
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
    with _quiet_pillow(), _pillow_errors(path, "cannot be decoded"):
        if _is_deep(image):
            file = BytesIO()
            if _has_deep_colours(image):  # not decoded yet, and the given image stays so
                file, image = _own_copy(path, image)
            image = _in_8_bits(path, file, image, levels or Levels(clips=False))
        return _pixels(_fit(_to_mode(path, _upright(path, image), channels), size))


def _own_copy(path: Path, image: Any) -> tuple[BytesIO, Image.Image]:
    """Return the file of an opened Pillow image in memory, and the image opened again from it."""
    place = image.fp.tell()
    image.fp.seek(0)
    file = BytesIO(image.fp.read())
    image.fp.seek(place)
    return file, _opened(path, file)


def preprocessing(size: int, channels: int, levels: Levels | None = None) -> dict[str, Any]:
    """Return the steps of `decode` in order, for users of an exported model who must repeat them.

    Args:
        size: S in pixels.
        channels: 3 (RGB) or 1.
        levels: white levels of images of more than 8 bits.
    """
    luma = {"gray": "ITU-R 601 luma of the 8-bit RGB pixels: Pillow's convert('L')"}
    return {
        "jpeg": {
            "draft": [2 * size, 2 * size],
            "about": "Image.draft(None, …): decoded at 1/2, 1/4 or 1/8 of its sides",
        },
        "exif_orientation": "applied",
        "more_than_8_bits": {
            "white": {"integers": (levels or Levels()).integers, "floats": (levels or Levels()).floats}
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


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Return the given files in order; for a folder its files with an image suffix, sorted.

    A file given directly is taken with any suffix.

    Raises:
        DataError: a path does not exist, a folder or the list is empty, or a folder holds runs (their curves.png are
            no inputs).
    """
    found: list[Path] = []
    for path in map(expanded, paths):
        if path.is_dir():
            images = images_under(path)
            found += images
            if not images:
                raise DataError(f"{printable(path)} holds no image file ({', '.join(SUFFIXES)}).")
            if curves := next(filter(_are_curves, images), None):
                raise DataError(
                    f"{printable(path)} holds a run, whose {printable(curves)} is no photo. Name image files, or "
                    "folders of them."
                )
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise DataError(f"{printable(path)} does not exist. Name image files, or folders of them.")
    if not found:
        raise DataError("No image was named. Name image files, or folders of them.")
    return found


def _are_curves(path: Path) -> bool:
    return path.name == "curves.png" and (path.parent / "metrics.csv").exists()


def images_under(folder: Path) -> list[Path]:
    """Return every path with an image suffix in `folder` and below, sorted; broken links included, hidden names not."""
    return walk(folder)[0]


def walk(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return (`images_under`, number of other files by suffix).

    Links to folders are followed, each folder once. Links back to a folder above are loops and are skipped.
    """
    seen = _folders_above(folder)
    found: list[Path] = []
    skipped: Counter[str] = Counter()
    pending = [folder]
    while pending:
        here = pending.pop()
        identity = _identity(here)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in visible(here):
            if is_folder(entry):
                pending.append(Path(entry))
            elif is_image_name(entry.name):
                found.append(Path(entry))
            elif entry.name.lower() not in _LEFT_BY_SYSTEMS:
                skipped[printable(Path(entry).suffix.lower())] += 1
    return sorted(found, key=os.fspath), skipped


def is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in `folder`, sorted by name, without hidden ones and links to a folder above."""
    seen = _folders_above(folder) | {_identity(folder)}
    folders = [Path(entry) for entry in visible(folder) if is_folder(entry)]
    return [path for path in folders if _identity(path) not in seen]


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of `folder`, sorted by name, without hidden names (.DS_Store, ._photo.jpg) and __MACOSX."""
    try:
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if entry.name[0] != "." and entry.name not in _PASSED_OVER)
            return sorted(shown, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed: {error.strerror}.") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder or a link to one; False for a circular link, for which is_dir raises."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return `name`, safe to print: bytes that are not UTF-8, control characters and backslashes as \xff, \n, \\."""
    return "".join(
        character if character.isprintable() and character != "\\" else _escaped(character)
        for character in os.fspath(name)
    )


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, kept by surrogateescape
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _folders_above(folder: Path) -> set[tuple[int, int]]:
    """Return the identities of the folders above, for the path as written and with its links resolved."""
    above = {*folder.absolute().parents, *Path(os.path.realpath(folder)).parents}
    return {_identity(path) for path in above}


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings, which name no file: they are harmless here (metadata), or an error follows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities of TorchVision")
        yield


class _NeedsLevels(Exception):  # noqa: N818 - a request for levels, not an error
    def __init__(self, depth: Depth):
        super().__init__()
        self.depth = depth


def _decode(path: Path, size: int | None, channels: int, max_pixels: int, levels: Levels | None) -> Tensor:
    """Decode a file. Raises _NeedsLevels for an image of more than 8 bits if there are no levels."""
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 1 (gray) or 3 (RGB); got {channels}.")
    try:
        with _regular_file(path) as file, _opened(path, file) as image:
            _check_size(path, image, max_pixels)
            whole = _in_8_bits(path, file, image, levels) if _is_deep(image) else _loaded(path, image, size)
            return _pixels(_fit(_to_mode(path, _upright(path, whole), channels), size))
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}.") from error


def _regular_file(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():  # reading a pipe would block forever
        raise ImageError(path, "is not a file.")
    return path.open("rb")


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    """Open the image with its header read and no pixel decoded.

    Image.open is not used: it hides a broken header behind "cannot identify", and applies another pixel limit.
    """
    start = file.read(16)
    if not start:
        raise ImageError(path, "is empty (0 bytes).")
    Image.init()
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept and accept(start) is True and not (name == "PPM" and start[:2] not in (b"P4", b"P5", b"P6")):
            file.seek(0)
            with _pillow_errors(path, f"is no whole {name} file: its header is cut short or damaged"):
                image: Image.Image = factory(file, "")
                return image
    raise ImageError(path, f"is not an image ({', '.join(_FORMATS)}): it begins with {start!r}.")


@contextmanager
def _pillow_errors(path: Path, what: str) -> Iterator[None]:
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
    """Decode the pixels of the first frame; a JPEG far above `size` at 1/2, 1/4 or 1/8 of its sides."""
    with _pillow_errors(path, f"is a damaged {image.format} file, cut short or altered"):
        if size is not None:
            image.draft(None, (2 * size, 2 * size))  # decodes little more than the resize needs
        image.load()
    return image


def _upright(path: Path, image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; return the image unchanged if the EXIF block cannot be read."""
    try:
        with _pillow_errors(path, "has a damaged EXIF block"):
            return ImageOps.exif_transpose(image)
    except ImageError:
        return image


def _to_mode(path: Path, image: Image.Image, channels: int) -> Image.Image:
    """Convert to RGB over white, and to gray if channels is 1."""
    with _pillow_errors(path, f"has mode {image.mode}, which has no RGB form"):
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            image = white
        rgb = image.convert("RGB")
        return rgb if channels == 3 else rgb.convert("L")


# --- images of more than 8 bits --------------------------------------------------------------------------------------


def _is_deep(image: Image.Image) -> bool:
    """Return True for gray of 16 or 32 bits, and for colours of 16 bits, of which Pillow would keep the upper 8."""
    return image.mode in ("I", "F") or image.mode.startswith("I;") or _has_deep_colours(image)


def _has_deep_colours(image: Image.Image) -> bool:
    tile = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX", "CMYK") or not tile:
        return False
    arguments = tile[0][3] if isinstance(tile[0][3], tuple) else (tile[0][3],)
    if image.format == "PPM":  # args are (mode, largest value)
        return any(isinstance(argument, int) and argument > 255 for argument in arguments)
    return ";16" in str(arguments[0])


def _deep_values(path: Path, file: BinaryIO, image: Image.Image) -> tuple[np.ndarray[Any, Any], bool]:
    """Return (values as stored, (H, W) for gray and (H, W, C) for colour; True if all bits were read)."""
    with _pillow_errors(path, f"is a damaged {image.format} file, cut short or altered"):
        if not _has_deep_colours(image):
            return np.asarray(image), True
        read = {"PNG": _colours_of_png, "TIFF": _colours_of_tiff, "PPM": _colours_of_ppm}.get(str(image.format))
        if read is not None and (values := read(file, image)) is not None:
            return values, True
        return np.asarray(image.convert("RGB") if image.mode == "CMYK" else image).astype(np.uint16) * 257, False


def _colours_of_tiff(file: BinaryIO, image: Image.Image) -> np.ndarray[Any, Any] | None:
    """Read the file in both byte orders, as Pillow keeps only one byte of a value. None for CMYK and RGBa."""
    file.seek(0)
    other: Any = Image.OPEN["TIFF"][0](file, "")
    if not all(_TIFF_COLOURS.fullmatch(tile.args[0]) for tile in other.tile):
        return None
    other.tile = [tile._replace(args=(_swapped(tile.args[0]), *tile.args[1:])) for tile in other.tile]
    whole: np.ndarray[Any, Any] = np.asarray(image).astype(np.uint16) << 8 | np.asarray(other)
    return whole


_TIFF_COLOURS = re.compile(r"RGB[AX]?;16[LBN]")


def _swapped(order: str) -> str:
    """Return a raw mode with the other byte order: 'RGB;16B' for 'RGB;16L'. N is the machine's order."""
    native = "L" if sys.byteorder == "little" else "B"
    last = native if order[-1] == "N" else order[-1]
    return order[:-1] + ("B" if last == "L" else "L")


def _colours_of_ppm(file: BinaryIO, image: Image.Image) -> np.ndarray[Any, Any]:
    """Return colours scaled to 16 bits, as Pillow does for gray images of this format."""
    place: Any = image.tile[0]  # type: ignore[attr-defined]
    shape = (image.height, image.width, 3)
    file.seek(place.offset)
    content = file.read(2 * math.prod(shape))
    if len(content) < 2 * math.prod(shape):
        raise ValueError("image file is truncated")
    stored = np.frombuffer(content, ">u2").reshape(shape)
    scaled: np.ndarray[Any, Any] = np.rint(stored * (65535 / place.args[-1])).clip(0, 65535)
    return scaled.astype(np.uint16)


def _colours_of_png(file: BinaryIO, _: Image.Image) -> np.ndarray[Any, Any] | None:
    """Read colours with torchvision, because Pillow keeps only 8 bits; None if torchvision cannot."""
    try:
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:
        return None
    file.seek(0)
    content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    values: np.ndarray[Any, Any] = decode_png(content, mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    return values


def _depth(path: Path, values: np.ndarray[Any, Any], levels: Levels | None) -> Depth:
    kind = "floats" if values.dtype.kind == "f" else "integers"
    white = getattr(levels or Levels(), kind)
    low, high = values.min(), values.max()
    within = low >= 0 and np.isfinite(high) and (levels is None or levels.clips or high <= white)
    if not within:  # also for NaN
        raise ImageError(
            path, f"has gray values from {low} to {high}, outside [0, {white:g}]. Scale them, or save 8 bits."
        )
    return Depth(kind, float(high))


def _in_8_bits(path: Path, file: BinaryIO, image: Image.Image, levels: Levels | None) -> Image.Image:
    """Scale values from [0, white] to uint8, with larger ones as white, and apply the orientation."""
    values, whole = _deep_values(path, file, image)
    depth = _depth(path, values, levels)
    if levels is None:
        raise _NeedsLevels(depth)
    white = getattr(levels, depth.kind)
    if not whole and white < Levels.integers:
        raise ImageError(
            path,
            f"holds colours of 16 bits as {image.format}, of which only the upper 8 can be read, but the pictures use "
            f"no more than {math.log2(white + 1):.0f}. Save them as PNG.",
        )
    scaled = np.rint(values.clip(0, white).astype(np.float64) * (255 / white)).astype(np.uint8)
    shown = Image.fromarray(scaled)
    with suppress(Exception):  # a damaged EXIF block, as in `_upright`
        shown.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return shown


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    """Resize the central square to size x size in one step, so that a long image never grows before the crop."""
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
    return torch.from_numpy(planes.copy())  # numpy copies: torch would start a thread pool in each decoding thread
