"""Which tensors the C functions accept, and calls of C functions over lists of tensors."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter, eq
from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu.library import library

Columns = list[list[Tensor]]

kind_of = attrgetter("dtype", "device", "layout")  # in C, for map: it is called for every tensor in every step
CPU_FLOAT32 = (torch.float32, torch.device("cpu"), torch.strided)
PLAIN_TYPES = frozenset({Tensor, nn.Parameter})  # a subclass may have no memory of the usual kind

_LAYOUTS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
_DIMENSIONS = {torch.channels_last: 4, torch.channels_last_3d: 5}


def is_plain(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Return True for an ordinary contiguous float32 CPU tensor of this shape."""
    plain = type(tensor) in PLAIN_TYPES and kind_of(tensor) == CPU_FLOAT32
    return plain and tensor.shape == shape and tensor.is_contiguous()


def layout_of(tensor: Tensor) -> torch.memory_format | None:
    """Return the memory format in which the elements are dense in memory; None if there is none."""
    for layout in _LAYOUTS:
        if _DIMENSIONS.get(layout, tensor.dim()) == tensor.dim() and tensor.is_contiguous(memory_format=layout):
            return layout
    return None


def fit_one_pass(columns: Columns) -> bool:
    """Return True if one C function can process all tensors at once.

    They must be plain, dense float32 CPU tensors. Those of a row (a parameter, its gradient, its state) must have the
    same order in memory. The check goes by column: ResNet-152 has 467 parameters, and a Python function for each row
    would take a seventh of Lion's step.
    """
    # one check for the columns' kinds and types, then row by row only what differs between rows
    first, *rest = columns
    if any(set(map(kind_of, column)) != {CPU_FLOAT32} or not PLAIN_TYPES.issuperset(map(type, column))
           for column in columns):  # fmt: skip
        return False
    shapes, strides = list(map(Tensor.size, first)), list(map(Tensor.stride, first))
    return all(map(_without_gaps, shapes, strides)) and all(
        all(map(eq, map(Tensor.size, column), shapes))
        and all(map(_same_order, shapes, strides, map(Tensor.stride, column)))
        for column in rest
    )


def _same_order(shape: torch.Size, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return True if two strides describe the same order in memory. Strides of dimensions of size 1 do not matter."""
    return a == b or all(size == 1 or x == y for size, x, y in zip(shape, a, b, strict=True))


@lru_cache(maxsize=4096)
def _without_gaps(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    # cached, because parameters keep their strides for the whole run; on meta, because no memory is read
    return layout_of(torch.empty_strided(shape, stride, device="meta")) is not None


def call(name: str, *arguments: Any) -> None:
    """Call a C function (csrc/kernels.h); its last argument, which is added here, is torch's number of threads.

    Args:
        name: name of the function.
        *arguments: a tensor is passed as the address of its memory, an int as int64_t, a float as float, and anything
            else as it is, such as a ctypes array.
    """
    passed: list[Any] = []
    for value in arguments:
        # numbers first: that a number is no tensor takes longer to find out than the converse
        if isinstance(value, int):
            passed.append(ctypes.c_int64(value))  # ctypes would pass 32 bits
        elif isinstance(value, float):
            passed.append(ctypes.c_float(value))
        elif isinstance(value, Tensor):
            passed.append(ctypes.c_void_p(value.data_ptr()))
        else:
            passed.append(value)
    getattr(library(), name)(*passed, ctypes.c_int(torch.get_num_threads()))


def call_in_one_pass(name: str, columns: Columns, numbers: Sequence[float]) -> None:
    """Call a C function over columns that `fit_one_pass`.

    Args:
        name: name of the function.
        columns: lists of tensors of equal length, such as parameters and gradients.
        numbers: scalar arguments, passed as floats.
    """
    count = len(columns[0])
    if library() is None or not count:
        return
    # arrays of all sizes and addresses: a call for each of hundreds of tensors would cost more than small updates
    sizes = array("q", map(Tensor.numel, columns[0]))
    addresses = [array("Q", map(Tensor.data_ptr, column)) for column in columns]  # pointers have 64 bits
    lists = (ctypes.c_void_p(values.buffer_info()[0]) for values in (sizes, *addresses))
    call(name, count, *lists, *map(float, numbers))
