"""Lists of tensors for the compiled functions: which ones they take, and how they are handed over."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter, eq

import torch
from torch import Tensor, nn

from effbench.cpu.library import library

Columns = list[list[Tensor]]

KIND = attrgetter("dtype", "device", "layout")
OWN = frozenset({Tensor, nn.Parameter})  # a subclass may have no memory of its own
FLOAT32 = (torch.float32, torch.device("cpu"), torch.strided)

_LAYOUTS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
_DIMENSIONS = {torch.channels_last: 4, torch.channels_last_3d: 5}


def layout_of(tensor: Tensor) -> torch.memory_format | None:
    """In which order its elements fill memory without gaps; None for one that does not."""
    for layout in _LAYOUTS:
        if _DIMENSIONS.get(layout, tensor.dim()) == tensor.dim() and tensor.is_contiguous(memory_format=layout):
            return layout
    return None


def alike(columns: Columns) -> bool:
    """Whether one pass can take all of them as they are, found out column by column without a tuple that stays.

    They must be plain float32 on the CPU and without gaps, and those of a row must lie in the same order.
    ResNet-152 has 467 parameters, and a Python function for each row would take a seventh of Lion's step.
    """
    first, *rest = columns
    if any(set(map(KIND, column)) != {FLOAT32} or not OWN.issuperset(map(type, column)) for column in columns):
        return False
    shapes, strides = list(map(Tensor.size, first)), list(map(Tensor.stride, first))
    return all(map(_without_gaps, shapes, strides)) and all(
        all(map(eq, map(Tensor.size, column), shapes))
        and all(map(_same_order, shapes, strides, map(Tensor.stride, column)))
        for column in rest
    )


def _same_order(shape: torch.Size, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two strides lead through memory alike: those of dimensions of size 1 are never taken."""
    return a == b or all(size == 1 or x == y for size, x, y in zip(shape, a, b, strict=True))


@lru_cache(maxsize=4096)
def _without_gaps(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    return layout_of(torch.empty_strided(shape, stride, device="meta")) is not None


def call(name: str, columns: Columns, numbers: Sequence[float]) -> None:
    """The compiled function of that name over rows that are alike; its last argument is torch's number of threads."""
    compiled, count = library(), len(columns[0])
    if compiled is None or not count:
        return
    sizes = array("q", map(Tensor.numel, columns[0]))
    addresses = [array("Q", map(Tensor.data_ptr, column)) for column in columns]  # pointers are of 64 bits
    getattr(compiled, name)(
        ctypes.c_int64(count),
        *(ctypes.c_void_p(values.buffer_info()[0]) for values in (sizes, *addresses)),
        *map(ctypes.c_float, numbers),
        ctypes.c_int(torch.get_num_threads()),
    )
