"""The cache of a folder's images: its key, and the pixels out of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor

from effbench.cache_dir import cache_home
from effbench.data.folder_files import printable
from effbench.data.folder_rows import Rows
from effbench.data.images.cache_budget import sweep
from effbench.data.images.decoded_cache import CacheRecord, build_cache, read_cache, serves
from effbench.data.images.decoding import DECODER_VERSION
from effbench.data.images.white_levels import Levels
from effbench.data.option_checks import given_folder
from effbench.errors import DataError


def decoded(
    rows: Rows, image_size: int, max_pixels: int, cache_dir: str | Path | None, levels: Levels | None
) -> tuple[Tensor, CacheRecord]:
    """Return the pixels of the rows and their record, from the cache or decoded into it.

    Args:
        rows: the files.
        image_size: side of the images in pixels.
        max_pixels: limit of a file's size.
        cache_dir: folder of caches; None for the default.
        levels: white levels of images of more than 8 bits; None to choose them automatically.

    Returns:
        (uint8 (N - bad, 3, image_size, image_size), read-only and memory-mapped; record).

    Raises:
        DataError: the disk is full, or files changed while they were decoded.
    """
    folder = given_folder("cache_dir", cache_dir) or cache_home()

    def place(chosen: Levels | None) -> Path:
        return folder / f"image_folder-{fingerprint(rows, image_size, max_pixels, chosen)[:32]}.npy"

    # Levels that the user gives and the automatic ones often agree: then one cache serves both.
    key = None if levels is None or serves(place(None), levels) else levels
    cache = place(key)
    sweep(folder)  # before the space is counted
    loaded = read_cache(cache, rows, image_size)
    if loaded is None:
        build_cache(cache, rows, image_size, max_pixels, key)
        # Opened again like any other cache: a first run gets what later ones will get.
        loaded = read_cache(cache, rows, image_size, made_here=True)
        if loaded is None or cache != place(key):  # taken again: files may change while they are read
            raise DataError(f"data.root={printable(rows.root)} changed while it was decoded. Start again.")
    return loaded


def fingerprint(rows: Rows, image_size: int, max_pixels: int, levels: Levels | None) -> str:
    """Return the sha256 of everything that determines the cache.

    Args:
        rows: files, of which name, size, time and row are hashed.
        image_size: side of the images in pixels.
        max_pixels: limit of a file's size.
        levels: white levels of images of more than 8 bits; None if they are chosen automatically.
    """
    # Options first: another size, or another version of the decoder, makes other pixels of the same files.
    scaling = None if levels is None else [levels.integers, levels.floats]
    # Size and time stand for the content, as in make and rsync: hashing all files would take as long as reading them.
    sha = hashlib.sha256(json.dumps([DECODER_VERSION, image_size, max_pixels, scaling, rows.counts]).encode())
    for row, (path, label) in enumerate(zip(rows.files, rows.labels.tolist(), strict=True)):
        try:
            status = path.stat()
        except OSError as error:  # also for a broken link
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}. Mend or remove it.") from error
        sha.update(f"{label} {rows.relative(row)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()
