"""Decoded images on disk: one memory-mapped uint8 file, whole or not there, with a record of what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from effbench.data.images import ImageError, decode_many, printable
from effbench.errors import DataError
from effbench.records import NoSpaceError, replacing, write_text
from effbench.units import human_bytes

CHANNELS = 3
_STALE_S = 24 * 3600  # a temporary file untouched for a day is what a killed run left


@dataclass(frozen=True)
class Rows:
    """What is to be decoded, in the cache's order: train, then val, then test, so that a split is one slice.

    files: N paths below root. labels: int64 (N,). counts: how many rows each split has, in that order.
    """

    root: Path
    classes: tuple[str, ...]
    files: list[Path]
    labels: Tensor
    counts: dict[str, int]

    def relative(self, row: int) -> str:
        return printable(os.fspath(self.files[row])[len(os.fspath(self.root)) :].lstrip(os.sep))


@dataclass(frozen=True)
class Record:
    """What is known of a cache. bad: rows that could not be decoded, and why. sha256: of its pixels and labels."""

    bad: dict[int, str]
    sha256: str


def read_cache(cache: Path, rows: Rows, image_size: int) -> tuple[Tensor, Record] | None:
    """The pixels, memory-mapped uint8 (N - bad, 3, S, S), and their record; None if they are not there, whole."""
    try:
        stored = json.loads(cache.with_suffix(".json").read_bytes())
        record = Record({int(row): str(reason) for row, reason in stored["bad"]}, str(stored["sha256"]))
        array = np.load(cache, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    shape = (len(rows.files) - len(record.bad), CHANNELS, image_size, image_size)
    if array.shape != shape or array.dtype != np.uint8:
        return None
    with warnings.catch_warnings():  # torch warns that the tensor is read-only: it is meant to be
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array), record


def build_cache(cache: Path, rows: Rows, image_size: int, max_pixels: int) -> None:
    """Decodes every row into `cache`, then writes its record: a cache without one does not count."""
    needed = len(rows.files) * CHANNELS * image_size * image_size
    try:
        if cache.parent.exists() and not cache.parent.is_dir():
            raise DataError(_no_cache(cache, needed, "it is not a folder"))
        cache.parent.mkdir(parents=True, exist_ok=True)
        _sweep(cache.parent)
        free = shutil.disk_usage(cache.parent).free
        if free < needed:
            raise DataError(_no_cache(cache, needed, f"only {human_bytes(free)} are free"))
        with replacing(cache) as file:
            record = _decode_into(file, rows, image_size, max_pixels)
        stored = {
            "root": printable(rows.root),
            "sha256": record.sha256,
            "bad": list(record.bad.items()),
        }
        write_text(cache.with_suffix(".json"), json.dumps(stored, indent=1))
    except OSError as error:
        raise DataError(_no_cache(cache, needed, error.strerror or str(error))) from error
    except NoSpaceError as error:
        raise DataError(_no_cache(cache, needed, getattr(error.__cause__, "strerror", str(error)))) from error
    say(f"image_folder: decoded {len(rows.files)} images into {printable(cache)} ({human_bytes(needed)})")


def _no_cache(cache: Path, needed: int, why: str) -> str:
    return (
        f"The decoded images need {human_bytes(needed)} ({needed} bytes) in {printable(cache.parent)}: {why}. "
        "Make room there, or give data.cache_dir=DIR."
    )


def _decode_into(file: IO[bytes], rows: Rows, image_size: int, max_pixels: int) -> Record:
    """Writes a .npy of the rows that can be decoded, and digests their pixels and labels on the way."""
    bad: dict[int, str] = {}
    sha = hashlib.sha256()
    _write_header(file, len(rows.files), image_size)
    with contextlib.closing(decode_many(rows.files, image_size, CHANNELS, max_pixels)) as decoded:
        bar = tqdm(decoded, "decoding", len(rows.files), unit=" images", disable=None)  # None: only on a terminal
        for row, pixels in enumerate(bar):
            if isinstance(pixels, ImageError):
                bad[row] = f"{rows.relative(row)} {pixels.reason}"
            else:
                content = pixels.numpy().tobytes()
                file.write(content)
                sha.update(content)
    file.seek(0)
    _write_header(file, len(rows.files) - len(bad), image_size)
    kept = [row for row in range(len(rows.files)) if row not in bad]
    sha.update(rows.labels[kept].numpy().tobytes())
    return Record(bad, sha.hexdigest())


def _write_header(file: IO[bytes], count: int, image_size: int) -> None:
    """numpy pads the header so that its length is the same for every count: it can be written again at the end."""
    shape = (count, CHANNELS, image_size, image_size)
    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _sweep(folder: Path) -> None:
    """Removes temporary files that killed runs left."""
    for path in folder.glob(".image_folder-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()


def say(line: str) -> None:
    """A line of narration."""
    print(line, file=sys.stderr, flush=True)
