"""Disk space for decoded images: a budget, which caches are in use, and leftovers of killed processes."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import IO

from effbench.cache_dir import BUDGET, budget_bytes
from effbench.units import human_bytes

log = logging.getLogger(__name__)

_YOUNG_S = 60  # age below which a file may not yet be locked by its process


def make_room(folder: Path, needed: int, replaced: Path) -> None:
    """Remove the least recently used caches until `needed` bytes fit into the budget and on the disk.

    A cache used by a live process is never removed. A new cache above the budget is still made: a run needs it.

    Args:
        folder: folder of caches.
        needed: bytes of the new cache.
        replaced: the cache that the new one replaces.
    """
    present: list[tuple[float, Path, int]] = []  # time of last use in seconds since 1970, path, bytes
    for path in folder.glob("image_folder-*.npy"):
        if path != replaced:
            with contextlib.suppress(OSError):  # another process may remove it
                record, status = path.with_suffix(".json"), path.stat()
                used = max(status.st_mtime, record.stat().st_mtime if record.exists() else 0.0)
                present.append((used, path, status.st_size))
    total = sum(size for _, _, size in present)
    budget = budget_bytes(folder)
    budget_text = f"budget of {human_bytes(budget)}, {BUDGET}"

    for _, path, size in sorted(present):
        if total + needed <= budget and shutil.disk_usage(folder).free >= needed:
            return
        if _remove_unused(path):
            path.with_suffix(".json").unlink(missing_ok=True)
            total -= size
            log.info(f"image_folder: removed {path}, the least recently used ({human_bytes(size)}; {budget_text})")
    if total + needed > budget:
        whole = human_bytes(total + needed)
        log.info(f"image_folder: note: {whole} of decoded images in {folder} are above the {budget_text}")


def sweep(folder: Path) -> None:
    """Remove leftovers of dead processes: unfinished files, and finished ones without a record."""
    for path in [*folder.glob(".image_folder-*.tmp"), *folder.glob("image_folder-*.npy")]:
        if path.suffix == ".npy" and path.with_suffix(".json").exists():
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _YOUNG_S:  # a younger one may be between creation and lock
                _remove_unused(path)


def _remove_unused(path: Path) -> bool:
    """Remove `path` if no process has locked it; return True if it was removed."""
    try:
        with path.open("rb") as file:
            if not lock(file, shared=False):
                return False
            path.unlink()
    except OSError:
        return False
    return True


def lock(file: IO[bytes], shared: bool) -> bool:
    """Mark a file as in use until its last descriptor or mapping is closed.

    Returns:
        False if other processes use it. True if locked, and also if the file system has no locks: then only the age
        shows what is in use.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        # flock, not lockf: it belongs to the open file, and so lasts as long as a mapping of it
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def touch(cache: Path) -> None:
    """Mark the cache as used now, by the time of its record: the data file's own times show whether it was changed."""
    with contextlib.suppress(OSError):
        os.utime(cache.with_suffix(".json"))
