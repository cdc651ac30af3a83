"""Steps of many tensors in one compiled pass over memory (effbench/kernels/steps.c), for float32 on a CPU."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter, eq

import torch
from torch import Tensor

from effbench.kernels import library
from effbench.optimizers.chunks import in_layout, layout_of

Rows = list[tuple[Tensor, ...]]
Columns = list[list[Tensor]]


def divide(parameters: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> tuple[Columns, Rows]:
    """(what one compiled pass can take: parameters, gradients and states, each a column; the others, row by row).

    parameters: all have a gradient. states: for each kind of state the tensors, one a parameter.
    """
    columns = [list(parameters), [gradient_of(parameter) for parameter in parameters], *map(list, states)]
    if library() is None:
        return [[] for _ in columns], list(zip(*columns, strict=True))
    if _alike(columns):
        return columns, []
    taken: Rows = []
    others: Rows = []
    for row in zip(*columns, strict=True):
        (taken if _can_take(row) else others).append(row)
    fitting = [(row[0], in_layout(row[1], _layout(row[0])), *row[2:]) for row in taken]
    return [list(column) for column in zip(*fitting, strict=True)] or [[] for _ in columns], others


def gradient_of(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None
    return gradient


def _layout(tensor: Tensor) -> torch.memory_format:
    layout = layout_of(tensor)
    assert layout is not None
    return layout


_KIND = attrgetter("dtype", "device", "layout")
_FLOAT32 = (torch.float32, torch.device("cpu"), torch.strided)


def _alike(columns: Columns) -> bool:
    """Whether one pass can take all of them as they are, found out column by column without a tuple that stays.

    ResNet-152 has 467 parameters, and a Python function for each row would take a seventh of Lion's step.
    """
    parameters, *rest = columns
    if any(set(map(_KIND, column)) != {_FLOAT32} for column in columns):
        return False
    strides, counts = list(map(Tensor.stride, parameters)), list(map(Tensor.numel, parameters))
    return all(map(_without_gaps, map(Tensor.size, parameters), strides)) and all(
        all(map(eq, map(Tensor.stride, column), strides)) and all(map(eq, map(Tensor.numel, column), counts))
        for column in rest
    )


@lru_cache(maxsize=4096)
def _without_gaps(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    return layout_of(torch.empty_strided(shape, stride, device="meta")) is not None


def _can_take(row: tuple[Tensor, ...]) -> bool:
    """Whether it is float32 on the CPU, laid out without gaps and alike; but for the gradient, which can be copied."""
    parameter, _, *states = row
    if any(_KIND(tensor) != _FLOAT32 or tensor.shape != parameter.shape for tensor in row):
        return False
    layout = layout_of(parameter)
    return layout is not None and all(tensor.is_contiguous(memory_format=layout) for tensor in states)


def lion(columns: Columns, lr: float, betas: Sequence[float], weight_decay: float, maximize: bool) -> None:
    """One step of all of them in place, as `divide` chose them. columns: parameters, gradients, exp_avg."""
    b1, b2 = betas
    numbers = (-1.0 if maximize else 1.0, 1 - lr * weight_decay, lr, b1, 1 - b1, b2, 1 - b2)
    _call("lion", columns, numbers)


def adan(
    columns: Columns,
    t: float,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Step t of all of them in place, as `divide` chose them. columns: parameters, gradients, prev_grad, m, v, n."""
    b1, b2, b3 = betas
    scales = (1 / (1 - b1**t), b2 / (1 - b2**t), (1 - b3**t) ** -0.5)
    numbers = (-1.0 if maximize else 1.0, float(t > 1), lr, 1 - b1, 1 - b2, b2, b3, 1 - b3, *scales, eps)
    _call("adan", columns, (*numbers, 1 / (1 + lr * weight_decay)))


def _call(name: str, columns: Columns, numbers: Sequence[float]) -> None:
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
