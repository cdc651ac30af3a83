"""Keep freed memory in the process during training on a CPU (glibc)."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h: M_TRIM_THRESHOLD, …
# Setting one of them ends glibc's dynamic thresholds (mallopt(3)); these are their values for blocks as large as ours.
_USUAL = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20, _MMAP_MAX: 65536}
# Freed memory at the heap's end is never returned, and large blocks come from the heap, too, not from mmap.
_KEEPING = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}
_USER_WORDS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[None]:
    """Keep freed memory for the activations of the next step; release it at the end of the block.

    By default glibc returns it at once, and the next step waits until the kernel has provided and cleared the same
    pages again. It does nothing for another device or C library, or if the user has set malloc options by environment
    variables.
    """
    # On a GPU torch keeps freed memory itself, and the CPU holds little.
    libc = _glibc() if device.type == "cpu" else None
    if libc is None or any(os.environ.get(word) for word in _USER_WORDS):
        yield
        return
    try:
        _set(libc, _KEEPING)
        yield
    finally:
        _set(libc, _USUAL)
        libc.malloc_trim(0)  # give back what was kept: the process may go on, as in a notebook


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
