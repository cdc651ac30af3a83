"""Steps of many tensors in one compiled pass over memory (effbench/kernels/steps.c), for float32 on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from effbench.kernels import library
from effbench.optimizers.chunks import in_layout, layout_of

Rows = list[tuple[Tensor, ...]]


def divide(
    parameters: Sequence[Tensor], states: Sequence[Sequence[Tensor]]
) -> tuple[tuple[list[Tensor], list[list[Tensor]]], Rows]:
    """(what one compiled pass can take: parameters, and their states), (the others: parameter, gradient, states).

    states: for each kind of state the tensors, one a parameter.
    """
    taken: Rows = []
    others: Rows = []
    possible = library() is not None
    for row in zip(parameters, *states, strict=True):
        if possible and _can_take(row):
            taken.append(row)
        elif row[0].grad is not None:
            others.append((row[0], row[0].grad, *row[1:]))
    columns = [list(column) for column in zip(*taken, strict=True)] or [[] for _ in range(1 + len(states))]
    return (columns[0], columns[1:]), others


def _can_take(row: tuple[Tensor, ...]) -> bool:
    """Whether it is float32 on the CPU, laid out without gaps and alike."""
    parameter = row[0]
    if parameter.device.type != "cpu" or any(tensor.dtype is not torch.float32 for tensor in row):
        return False
    layout = layout_of(parameter)
    return layout is not None and all(tensor.is_contiguous(memory_format=layout) for tensor in row)


def lion(
    parameters: Sequence[Tensor],
    states: Sequence[Sequence[Tensor]],
    lr: float,
    betas: Sequence[float],
    weight_decay: float,
    maximize: bool,
) -> None:
    """One step of all of them in place, as `divide` chose them."""
    b1, b2 = betas
    numbers = (-1.0 if maximize else 1.0, 1 - lr * weight_decay, lr, b1, 1 - b1, b2, 1 - b2)
    _call("lion", parameters, states, numbers)


def adan(
    parameters: Sequence[Tensor],
    states: Sequence[Sequence[Tensor]],
    t: float,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Step t of all of them in place, as `divide` chose them. states: their prev_grad, m, v and n."""
    b1, b2, b3 = betas
    scales = (1 / (1 - b1**t), b2 / (1 - b2**t), (1 - b3**t) ** -0.5)
    numbers = (-1.0 if maximize else 1.0, float(t > 1), lr, 1 - b1, 1 - b2, b2, b3, 1 - b3, *scales, eps)
    _call("adan", parameters, states, (*numbers, 1 / (1 + lr * weight_decay)))


def _call(
    name: str, parameters: Sequence[Tensor], states: Sequence[Sequence[Tensor]], numbers: Sequence[float]
) -> None:
    compiled = library()
    if compiled is None or not parameters:
        return
    count = len(parameters)
    gradients = [_gradient_of(parameter) for parameter in parameters]  # copies live until the call is over
    sizes = (ctypes.c_int64 * count)(*[parameter.numel() for parameter in parameters])
    getattr(compiled, name)(
        ctypes.c_int64(count),
        sizes,
        *(_addresses(tensors) for tensors in (parameters, gradients, *states)),
        *map(ctypes.c_float, numbers),
        ctypes.c_int(torch.get_num_threads()),
    )


def _gradient_of(parameter: Tensor) -> Tensor:
    gradient, layout = parameter.grad, layout_of(parameter)
    assert gradient is not None
    assert layout is not None
    return in_layout(gradient, layout)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
