"""Decoded images on disk: one memory-mapped uint8 file with a record of its content; it is complete or absent.

The record holds the sha256 of pixels and labels. The hash is computed again if the file's size, times or inode have
changed since the last check. A file that other users could have written is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import stat
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from effbench.cache_dir import distrusted
from effbench.data.folder_files import printable
from effbench.data.folder_rows import Rows
from effbench.data.images.cache_budget import lock, make_room, touch
from effbench.data.images.decoding import decode_many, depths
from effbench.data.images.duplicates import Copies, find_copies
from effbench.data.images.opening import ImageError
from effbench.data.images.white_levels import Depth, Levels, levels_for
from effbench.errors import DataError
from effbench.records import NoSpaceError, replacing, write_text
from effbench.redaction import redact_environment
from effbench.units import human_bytes

log = logging.getLogger(__name__)

CHANNELS = 3
_CHUNK = 1 << 24  # bytes hashed at a time
_COMPARED = 64  # source files, evenly spread


@dataclass(frozen=True)
class CacheRecord:
    """Facts about a cache.

    Attributes:
        bad: row that could not be decoded -> reason.
        sha256: hash of pixels and labels.
        levels: white levels of images of more than 8 bits; None if there are none.
        deep: kind ('integers' or 'floats') -> number of images of more than 8 bits.
        clipped: number of images with values above the white level.
        copies: exact copies among the files.
        unread: bad rows that the system could not read; they may be sound.
        long: number of images of which the central square is less than half.
    """

    bad: dict[int, str]
    sha256: str
    levels: Levels | None = None
    deep: dict[str, int] = field(default_factory=dict)
    clipped: int = 0
    copies: Copies = field(default_factory=Copies)
    unread: tuple[int, ...] = ()
    long: int = 0


def read_cache(cache: Path, rows: Rows, image_size: int, made_here: bool = False) -> tuple[Tensor, CacheRecord] | None:
    """Open a cache.

    Args:
        cache: path of the array.
        rows: the files that it must hold.
        image_size: S, side of the images in pixels.
        made_here: this process has just made it; the file system may not support owners and modes.

    Returns:
        (memory-mapped uint8 (N - bad, 3, S, S), record); None if there is no complete cache.
    """
    try:
        stored = _read_record(cache, made_here)
        record = _record(stored)
        array, stamp = _mapped(cache, made_here)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    # Other options have a cache of another name: with another shape, the file is not what its record says.
    shape = (len(rows.files) - len(record.bad), CHANNELS, image_size, image_size)
    if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        return None
    # A permission that was given since changes neither name, size nor time of a file.
    if not made_here and any(_can_be_read(rows.files[row]) for row in record.unread):
        return None
    fresh = {**stored, "stamp": stamp}
    # Copied files keep names, sizes and times, but so may other files: an archive may set the times of all alike.
    if "content" in stored and (places := _places(rows)) != stored["places"]:
        if not made_here and stored["content"] != _content(rows):
            log.info(f"image_folder: {printable(cache)} is of other files: decoding again")
            return None
        fresh["places"] = places
    # Hashing takes seconds for gigabytes: it is done only if the file may have changed since it was hashed last.
    if stored["stamp"] != stamp and _sha256(array, rows, record.bad) != record.sha256:
        log.info(f"image_folder: {printable(cache)} is not what was decoded (its sha256 differs): decoding again")
        return None
    if fresh != stored:
        with contextlib.suppress(OSError, NoSpaceError, DataError):  # a shared folder may be read-only
            _write_record(cache, fresh)
    touch(cache)  # the least recently used cache is removed first
    log.debug(f"decoded images read from {printable(cache)}")
    with warnings.catch_warnings():  # torch warns that the tensor is read-only, as intended
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array), record


def _places(rows: Rows) -> str:
    """Return the sha256 of where the files are and when they were changed last: both differ for copies."""
    sha = hashlib.sha256()
    for path in rows.files:
        with contextlib.suppress(OSError):
            status = path.stat()
            sha.update(f"{status.st_dev} {status.st_ino} {status.st_ctime_ns}\n".encode())
    return sha.hexdigest()


def _content(rows: Rows) -> str:
    """Return the sha256 of some of the files."""
    sha = hashlib.sha256()
    for path in rows.files[:: max(1, len(rows.files) // _COMPARED)]:
        with contextlib.suppress(OSError):  # one that cannot be read is among the bad rows
            sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def _can_be_read(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            while file.read(_CHUNK):
                pass
    except OSError:
        return False
    return True


def _mapped(cache: Path, made_here: bool) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Return (array, stamp). The mapping keeps the file open, and so the lock that marks it as in use."""
    with cache.open("rb") as file:
        status = os.fstat(file.fileno())
        _check_trust(cache, status, made_here)
        # From here on no other process removes it to make room. Without locks reading may fail below, which is safe.
        lock(file, shared=True)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of .npy")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if fortran or file.tell() + math.prod(shape) * dtype.itemsize != status.st_size:
            raise ValueError("cut short, or another layout")
        if not math.prod(shape):  # mmap refuses an empty range
            return np.empty(shape, dtype), _stamp(status)
        return np.memmap(file, dtype, "r", file.tell(), shape), _stamp(status)


def _stamp(status: os.stat_result) -> list[int]:
    """Return values that every write changes: unlike the modification time, the change time cannot be set."""
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _check_trust(path: Path, status: os.stat_result, made_here: bool) -> None:
    # a file from another user could hold other pixels than the images, or a .npy header made to do harm
    if not made_here and (why := distrusted(status)):
        log.info(f"image_folder: {printable(path)} is not used: {why}; decoding again")
        raise ValueError(why)


def _sha256(array: np.ndarray[Any, Any], rows: Rows, bad: dict[int, str]) -> str:
    sha = hashlib.sha256()
    flat: Any = array.reshape(-1)  # in chunks: the whole array may be larger than the memory
    for start in range(0, flat.size, _CHUNK):
        sha.update(memoryview(flat[start : start + _CHUNK]))
    sha.update(_labels(rows, bad))
    return sha.hexdigest()


def _labels(rows: Rows, bad: dict[int, str]) -> bytes:
    return rows.labels[[row for row in range(len(rows.files)) if row not in bad]].numpy().tobytes()


def _read_record(cache: Path, made_here: bool) -> dict[str, Any]:
    path = cache.with_suffix(".json")
    with path.open("rb") as file:
        _check_trust(path, os.fstat(file.fileno()), made_here)
        stored = dict(json.loads(file.read()))
    # a record that was edited by hand counts as none
    if stored.pop("digest") != _digest(stored):
        raise ValueError("the record was altered")
    return stored


def _write_record(cache: Path, stored: dict[str, Any]) -> None:
    plain = json.loads(redact_environment(json.dumps(stored)))  # as it will be read back, so that the digest is equal
    write_text(cache.with_suffix(".json"), json.dumps({**plain, "digest": _digest(plain)}, indent=1))
    _forbid_writes_by_others(cache.with_suffix(".json"))


def _digest(stored: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def _record(stored: dict[str, Any]) -> CacheRecord:
    return CacheRecord(
        {int(row): str(reason) for row, reason in stored["bad"]},
        str(stored["sha256"]),
        None if stored["levels"] is None else Levels(*stored["levels"]),
        dict(stored["deep"]),
        int(stored["clipped"]),
        Copies(**stored["copies"]),
        tuple(map(int, stored.get("unread", ()))),
        int(stored.get("long", 0)),
    )


def serves(cache: Path, levels: Levels) -> bool:
    """Return True if the cache would be the same with these levels: it chose them, or no image needs any."""
    try:
        return _record(_read_record(cache, made_here=True)).levels in (None, levels)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _forbid_writes_by_others(path: Path) -> None:
    """Make the file writable by this user only, for any umask: files that others could write are not loaded."""
    with contextlib.suppress(OSError):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))


def build_cache(cache: Path, rows: Rows, image_size: int, max_pixels: int, levels: Levels | None = None) -> None:
    """Decode every row into `cache`, then write its record; a cache without a record is ignored.

    Args:
        cache: path of the array.
        rows: files to decode.
        image_size: side of the images in pixels.
        max_pixels: larger files are refused.
        levels: white levels of images of more than 8 bits; None for the smallest that fit the train split.
    """
    needed = len(rows.files) * CHANNELS * image_size * image_size
    try:
        if cache.parent.exists() and not cache.parent.is_dir():
            raise DataError(_no_cache(cache, needed, "it is not a folder"))
        cache.parent.mkdir(parents=True, exist_ok=True)
        make_room(cache.parent, needed, cache)
        free = shutil.disk_usage(cache.parent).free
        if free < needed:  # checked now, because decoding may take minutes before the disk is full
            raise DataError(_no_cache(cache, needed, f"only {human_bytes(free)} are free"))
        with replacing(cache) as file:
            lock(file, shared=False)  # until it is closed; shows others that it is in use
            record = _decode(file, rows, image_size, max_pixels, levels)
        _forbid_writes_by_others(cache)
        stored = {
            "root": printable(rows.root),
            "sha256": record.sha256,
            "bad": list(record.bad.items()),
            "levels": None if record.levels is None else [record.levels.integers, record.levels.floats],
            "deep": record.deep,
            "clipped": record.clipped,
            "copies": asdict(record.copies),
            "unread": list(record.unread),
            "long": record.long,
            "places": _places(rows),
            "content": _content(rows),
            "stamp": _stamp(cache.stat()),
        }
        # The record last: a kill before it leaves a file that `sweep` removes.
        _write_record(cache, stored)
    except OSError as error:
        raise DataError(_no_cache(cache, needed, error.strerror or str(error))) from error
    except NoSpaceError as error:
        raise DataError(_no_cache(cache, needed, getattr(error.__cause__, "strerror", str(error)))) from error
    log.info(f"image_folder: decoded {len(rows.files)} images into {printable(cache)} ({human_bytes(needed)})")


def _no_cache(cache: Path, needed: int, why: str) -> str:
    return (
        f"The decoded images need {human_bytes(needed)} ({needed} bytes) in {printable(cache.parent)}: {why}. "
        "Make room there, or give data.cache_dir=DIR."
    )


def _decode(file: IO[bytes], rows: Rows, image_size: int, max_pixels: int, levels: Levels | None) -> CacheRecord:
    """Write a .npy of the rows that can be decoded. It starts again if levels turn out to be needed.

    Most datasets hold no image of more than 8 bits: looking for such images first would open every file twice.
    """
    record = _decode_once(file, rows, image_size, max_pixels, levels)
    deep: list[Depth | None] = []
    if record is None or levels is not None:
        deep = list(depths(rows.files, max_pixels))
    if record is None:
        # The levels come from the train split alone, like all statistics; from all splits if train has no such image.
        train = deep[: rows.counts.get("train", len(deep))]
        levels = levels_for([depth for depth in train if depth] or [depth for depth in deep if depth])
        record = _decode_once(file, rows, image_size, max_pixels, levels)
        assert record is not None
    names = [rows.relative(row) for row in range(len(rows.files))]
    splits = [which for which, count in rows.counts.items() for _ in range(count)]
    copies = find_copies(rows.files, names, rows.labels.tolist(), splits, set(record.bad))
    found = [depth for depth in deep if depth]
    kinds = dict(Counter(depth.kind for depth in found))
    above = sum(levels is not None and levels.exceeded_by(depth) for depth in found)
    return replace(record, levels=levels if found else None, deep=kinds, clipped=above, copies=copies)


def _decode_once(
    file: IO[bytes], rows: Rows, image_size: int, max_pixels: int, levels: Levels | None
) -> CacheRecord | None:
    """Write a .npy of the rows, and hash pixels and labels on the way; return None if levels are needed and missing."""
    bad: dict[int, str] = {}
    unread, long = list[int](), list[Path]()
    sha = hashlib.sha256()
    file.seek(0)
    _write_header(file, len(rows.files), image_size)
    with contextlib.closing(decode_many(rows.files, image_size, CHANNELS, max_pixels, levels, long)) as decoded:
        bar = tqdm(decoded, "decoding", len(rows.files), unit=" images", disable=None)  # None: shown only on a terminal
        for row, pixels in enumerate(bar):
            if isinstance(pixels, Depth):
                bar.close()
                return None
            if isinstance(pixels, ImageError):
                bad[row] = f"{rows.relative(row)} {pixels.reason}"
                unread += [row] * pixels.unread
            else:
                # one copy for file and hash: reading the file again would take as long as writing it
                content = pixels.numpy().tobytes()
                file.write(content)
                sha.update(content)
    file.truncate()  # a first pass without levels may have written more
    file.seek(0)
    _write_header(file, len(rows.files) - len(bad), image_size)
    sha.update(_labels(rows, bad))
    return CacheRecord(bad, sha.hexdigest(), unread=tuple(unread), long=len(long))


def _write_header(file: IO[bytes], count: int, image_size: int) -> None:
    """Write the header. numpy pads it to the same length for every count, so it can be rewritten at the end."""
    shape = (count, CHANNELS, image_size, image_size)
    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
